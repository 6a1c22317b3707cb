"""Which of several places a program is taken from, and how the slower ones fail over to each other."""

from __future__ import annotations

import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from dev import origins
from dev.binaries import Tool, is_near_kubectl, known_tools, locate, obtain
from dev.build import GO_PACKAGE, SOURCES, GoModule, find_go, version_numbers
from dev.cache import Cache, Workbench, cache_root
from dev.origins import Download, UnavailableError, expected_checksum
from dev.processes import Processes, StackError

HEX = "0" * 64


@dataclass(frozen=True)
class FakeOrigin:
    """Writes its own version into the program, or cannot deliver."""

    version: str
    works: bool = True
    asked: list[str] = field(default_factory=list)
    program: str = "tool"

    def plan(self, _: Cache) -> str:
        return f"trying {self.version}"

    def fill(self, directory: Path, bench: Workbench) -> None:
        self.asked.append(directory.name)
        (directory / "half").touch()
        if not self.works:
            raise UnavailableError(f"{self.version} cannot be reached")
        make_program(directory / self.program, self.version)


def make_program(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {content}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    root = tmp_path / "cache"
    root.mkdir()
    return Cache(root)


@pytest.fixture
def bench(cache: Cache, tmp_path: Path) -> Iterator[Workbench]:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    processes = Processes.start(state_dir)
    yield Workbench(cache, processes, lambda _: None)
    processes.shutdown()


def test_places_are_asked_in_order(tmp_path: Path, cache: Cache) -> None:
    tool = Tool("tool", (FakeOrigin("1"),))
    environ = {"KUBEBUILDER_ASSETS": str(tmp_path / "assets"), "PATH": str(tmp_path / "bin")}
    assert locate(tool, cache, environ) is None
    in_order = [cache.root / "tool-1" / "tool", tmp_path / "bin" / "tool", tmp_path / "assets" / "tool"]
    for place in in_order:
        make_program(place)
        assert locate(tool, cache, environ) == place


def test_an_installed_program_that_will_not_do_is_passed_over(tmp_path: Path, cache: Cache) -> None:
    make_program(tmp_path / "bin" / "tool")
    cached = make_program(cache.root / "tool-1" / "tool")
    tool = Tool("tool", (FakeOrigin("1"),), accepts=lambda _: False)
    assert locate(tool, cache, {"PATH": str(tmp_path / "bin")}) == cached


def test_another_version_in_the_cache_is_not_taken(cache: Cache) -> None:
    make_program(cache.root / "tool-1" / "tool")
    assert locate(Tool("tool", (FakeOrigin("2"),)), cache, {"PATH": ""}) is None


def test_the_first_origin_that_can_deliver_fills_the_cache_once(bench: Workbench) -> None:
    broken, good, spare = FakeOrigin("download", works=False), FakeOrigin("build"), FakeOrigin("spare")
    tool = Tool("no-such-tool", (broken, good, spare))
    expected = bench.cache.root / "no-such-tool-build" / "tool"
    assert [obtain(tool, bench), obtain(tool, bench)] == [expected, expected]
    assert [len(broken.asked), len(good.asked), len(spare.asked)] == [1, 1, 0]


def test_a_person_is_told_what_comes_next_and_a_failure_only_where_nothing_does(bench: Workbench) -> None:
    told: list[str] = []
    origins = (FakeOrigin("download", works=False), FakeOrigin("build", works=False), FakeOrigin("spare", works=False))
    with pytest.raises(StackError, match=r"(?s)download cannot.*build cannot.*spare cannot be reached"):
        obtain(Tool("no-such-tool", origins), Workbench(bench.cache, bench.processes, told.append))
    assert told == [
        "no-such-tool: not downloadable here (download cannot be reached); trying build",
        "no-such-tool: not downloadable here (build cannot be reached); trying spare",
    ]


def test_an_origin_that_fails_leaves_nothing_in_the_cache(bench: Workbench) -> None:
    with pytest.raises(StackError, match=r"(?s)put it on PATH.*here cannot be reached"):
        obtain(Tool("no-such-tool", (FakeOrigin("here", works=False),)), bench)
    assert [path.name for path in bench.cache.root.iterdir()] == ["lock"]


def test_what_a_killed_process_left_half_done_is_removed(cache: Cache) -> None:
    (cache.root / ".partial-x" / "tool-1").mkdir(parents=True)
    with cache.locked(lambda _: None):
        assert not (cache.root / ".partial-x").exists()


def test_the_cache_follows_the_environment() -> None:
    assert cache_root({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/task-deletion-operator")
    assert cache_root({}) == Path.home() / ".cache" / "task-deletion-operator"


def test_every_program_has_an_origin_and_a_version() -> None:
    for tool in known_tools():
        assert all(version_numbers(origin.version) or "-" in origin.version for origin in tool.origins), tool.name


@pytest.mark.parametrize(
    ("version", "is_accepted"),
    [("v1.36.0", True), ("v1.34.9", True), ("v1.32.4", False), ("v2.36.0", False), ("", False)],
)
def test_kubectl_has_to_be_near_the_api_server(tmp_path: Path, version: str, is_accepted: bool) -> None:
    path = make_program(tmp_path / "kubectl", f"""'{{"clientVersion": {{"gitVersion": "{version}"}}}}'""")
    assert is_near_kubectl(path) is is_accepted


def test_one_build_holds_all_kubernetes_programs(bench: Workbench) -> None:
    etcd, kubectl = (GoModule("kubernetes", "1", name, minutes=1) for name in ("etcd", "kubectl"))
    assert etcd.plan(bench.cache) == "building it from Go modules, once, about 1 minutes"
    built = bench.cache.filled("kubernetes", etcd.build_version, lambda into: (into / "kubernetes").touch())
    assert kubectl.plan(bench.cache) == "taking it from the build of kubernetes that is there"
    for module in (etcd, kubectl):
        directory = bench.cache.filled(module.program, "1", partial(module.fill, bench=bench))
        assert (directory / module.program).resolve() == built.resolve() / "kubernetes"


@pytest.mark.parametrize(("installed", "place"), [("go1.20.1", "cache"), ("go1.99.0", "bin")])
def test_an_installed_go_is_used_unless_it_is_too_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bench: Workbench, installed: str, place: str
) -> None:
    make_program(tmp_path / "bin" / "go", installed)
    make_program(bench.cache.directory("go", GO_PACKAGE.version) / GO_PACKAGE.program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_go(SOURCES / "kubernetes", bench).is_relative_to(tmp_path / place)


@pytest.mark.parametrize(
    ("checksums", "expected"),
    [(HEX, HEX), (f"{HEX}  anything\n", HEX), (f"{'1' * 64}  other\n{HEX} *file\n", HEX)],
    ids=["bare", "one line", "a list"],
)
def test_a_published_checksum_is_found(checksums: str, expected: str) -> None:
    assert expected_checksum("https://host/folder/file", checksums) == expected


def test_a_file_without_a_published_checksum_is_refused() -> None:
    with pytest.raises(UnavailableError, match="no checksum"):
        expected_checksum("https://host/file", f"{HEX}  other\n{HEX}  another\n")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine, and the directory that it serves."""
    directory = tmp_path / "web"
    directory.mkdir()
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", directory
        server.shutdown()
        thread.join()


def publish(directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    (directory / f"{name}.sha256").write_text(hashlib.sha256(content).hexdigest())


def test_a_download_becomes_an_executable_program(web: tuple[str, Path], bench: Workbench) -> None:
    url, directory = web
    publish(directory, "tool", b"#!/bin/sh\n")
    download = Download("1", "tool", f"{url}/tool", f"{url}/tool.sha256")
    program = obtain(Tool("no-such-tool", (download,)), bench)
    assert program.read_bytes() == b"#!/bin/sh\n"
    assert program.stat().st_mode & 0o111


def test_a_member_of_a_downloaded_archive_is_taken(web: tuple[str, Path], bench: Workbench) -> None:
    url, directory = web
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("folder/tool")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"hello"))
    publish(directory, "tool.tar.gz", buffer.getvalue())
    download = Download("1", "tool", f"{url}/tool.tar.gz", f"{url}/tool.tar.gz.sha256", "folder/tool")
    assert obtain(Tool("no-such-tool", (download,)), bench).read_bytes() == b"hello"


def test_a_download_with_another_checksum_is_refused(web: tuple[str, Path], bench: Workbench) -> None:
    url, directory = web
    publish(directory, "tool", b"as published")
    (directory / "tool").write_bytes(b"tampered with")
    download = Download("1", "tool", f"{url}/tool", f"{url}/tool.sha256")
    with pytest.raises(StackError, match="does not have the published checksum"):
        obtain(Tool("no-such-tool", (download,)), bench)


def test_a_host_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, bench: Workbench) -> None:
    monkeypatch.setattr(origins, "silent_hosts", set())
    url = "http://127.0.0.1:1/tool"  # nothing listens on this port
    download = Download("1", "tool", url, f"{url}.sha256")
    with pytest.raises(UnavailableError, match="refused"):
        download.fill(bench.cache.root, bench)
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 cannot be reached"):
        download.fill(bench.cache.root, bench)
