"""`python -m bench`: which lines run, what is written, how it exits."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bench.__main__ as command
from bench.discovery import SelectionError, discover, select
from bench.line import OURS, Contest, Line
from bench.machine import find_file_system, find_processor, look_around
from bench.measuring import CannotRunError, Result, measure


class Fixed:
    """Every run of a contestant takes as long."""

    contestants: Sequence[str] = (OURS, "peer", "third")

    def __init__(self, ours: float) -> None:
        self._figures = {OURS: ours, "peer": 1.0, "third": 4.0}

    def prepare(self, contestant: str) -> None:
        assert contestant in self.contestants

    def run(self, contestant: str) -> float:
        return self._figures[contestant]


def build_line(name: str, ours: float = 0.5) -> Line:
    @contextmanager
    def opened() -> Iterator[Contest]:
        yield Fixed(ours)

    return Line(name=name, work="a|b", peer="peer", target=1.0, aim=None, open=opened, rounds=6, note=f"about {name}")


@contextmanager
def lacking() -> Iterator[Contest]:
    raise CannotRunError("there is no cargo; install Rust")
    yield


@contextmanager
def broken() -> Iterator[Contest]:
    raise KeyError("secret detail")
    yield


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `--write` writes in this test."""
    place = tmp_path / "benchmarks.md"
    monkeypatch.setattr(command, "PAGE", place)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    return place


def use(monkeypatch: pytest.MonkeyPatch, *lines: Line) -> None:
    """Have the command know just these lines."""
    monkeypatch.setattr(command, "discover", lambda: list(lines))


def test_names_and_their_beginnings_select_lines() -> None:
    lines = [build_line(name) for name in ("redis-one", "redis-one-more", "objects", "redis-two")]

    def chosen(*names: str) -> list[str]:
        return [line.name for line in select(lines, names)]

    assert chosen() == ["redis-one", "redis-one-more", "objects", "redis-two"]
    assert chosen("objects", "redis") == ["redis-one", "redis-one-more", "objects", "redis-two"]
    assert chosen("redis-one") == ["redis-one"]
    assert chosen("redis-t", "redis-two") == ["redis-two"]


def test_a_name_that_no_line_has_is_refused() -> None:
    with pytest.raises(SelectionError, match="no line is named nothing"):
        select([build_line("one")], ["nothing"])


def write_modules(folder: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> str:
    """A package with these modules; returns its name, which no other test uses."""
    name = f"lines_of_{folder.name.replace('-', '_')}"
    (folder / name).mkdir()
    for module, source in {"__init__": "", **sources}.items():
        (folder / name / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    return name


def discover_in(folder: Path, name: str) -> list[str]:
    try:
        return [line.name for line in discover(name, [str(folder / name)])]
    finally:
        for module in [found for found in sys.modules if found.startswith(name)]:
            del sys.modules[module]


LINE = "from bench.line import Line\nLINES = [Line('{}', 'w', None, None, None, None)]\n"


def test_every_module_of_lines_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write_modules(tmp_path, monkeypatch, second=LINE.format("b"), first=LINE.format("a"))

    assert discover_in(tmp_path, name) == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("import a_module_that_is_not_there", r"\.bad cannot be used: ModuleNotFoundError"),
        ("", r"\.bad cannot be used: AttributeError"),
        ("LINES = [1]", r"\.bad\.LINES is not a list of lines"),
        (LINE.format("a"), "two lines have the name a"),
    ],
)
def test_a_module_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, problem: str
) -> None:
    name = write_modules(tmp_path, monkeypatch, bad=source, good=LINE.format("a"))

    with pytest.raises(SelectionError, match=problem):
        discover_in(tmp_path, name)


def test_the_page_holds_every_line_of_the_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacks = Line(name="lacks", work="w", peer="peer", target=2.0, aim=1.5, open=lacking, unit="MB")
    use(monkeypatch, build_line("fast"), build_line("slow", 3.0), lacks)

    assert command.main(["--write"]) == 0

    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert rows[2:] == [
        r"| fast | a\|b | peer | 1 |  | 0.5 s | 1 s | 0.5 [0.5, 0.5] | yes | about fast |",
        r"| slow | a\|b | peer | 1 |  | 3 s | 1 s | 3 [3, 3] | no | about slow |",
        "| lacks | w | peer | 2 | 1.5 |  |  |  | not run: there is no cargo; install Rust |  |",
    ]
    assert "**1 of 3 lines reach their ratio.**" in page.read_text()
    assert "- fast: third 4 s, ratio 0.125 [0.125, 0.125]" in page.read_text()
    assert "- command: python -m bench --write" in page.read_text()


def test_a_page_of_some_lines_is_refused(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, build_line("fast"))

    with pytest.raises(SystemExit) as refused:
        command.main(["fast", "--write"])

    assert refused.value.code == 2
    assert not page.exists()


def test_an_interrupted_run_goes_on_with_what_its_commit_has_not_measured(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    place = replace(look_around("x"), commit="abc", is_dirty=False)
    monkeypatch.setattr(command, "look_around", lambda line: replace(place, command=line))
    slow = build_line("slow", 3.0)
    use(monkeypatch, build_line("fast"), slow)
    monkeypatch.setattr(command, "measure", interrupted_at(slow, measure))
    with pytest.raises(KeyboardInterrupt):
        command.main(["--resume", "--write"])
    assert not page.exists()

    monkeypatch.undo()
    monkeypatch.setattr(command, "PAGE", page)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(command, "look_around", lambda line: replace(place, command=line))
    use(monkeypatch, build_line("fast", 9.0), slow)  # measured again it would be nine times as slow
    assert command.main(["--resume", "--write"]) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert "| 0.5 s | 1 s |" in rows[2]
    assert "| 3 s | 1 s |" in rows[3]

    monkeypatch.setattr(command, "look_around", lambda line: replace(place, commit="def", command=line))
    assert command.main(["--resume", "--write"]) == 0
    assert "| 9 s | 1 s |" in page.read_text()


def interrupted_at(line: Line, usual: Callable[..., Result]) -> Callable[..., Result]:
    """Somebody presses Ctrl-C when this line is to be measured."""

    def measure_or_stop(wanted: Line, **options: Any) -> Result:
        if wanted is line:
            raise KeyboardInterrupt
        return usual(wanted, **options)

    return measure_or_stop


def test_figures_of_changes_that_are_not_committed_are_not_kept(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "KEPT", tmp_path / "kept")
    place = replace(look_around("x"), is_dirty=True)
    monkeypatch.setattr(command, "look_around", lambda line: place)
    use(monkeypatch, build_line("fast"))
    with pytest.raises(SystemExit) as refused:
        command.main(["--resume"])
    assert refused.value.code == 2
    assert not (tmp_path / "kept").exists()


def test_nothing_is_written_unless_asked_for(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, build_line("fast"))

    assert command.main([]) == 0
    assert not page.exists()


def test_a_missed_target_fails_only_a_strict_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, build_line("fast"), build_line("slow", 3.0))

    assert command.main([]) == 0
    assert command.main(["--strict"]) == 1
    assert command.main(["--strict", "fast"]) == 0


def test_a_contestant_that_fails_ends_its_line_and_not_the_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Line(name="failing", work="w", peer=None, target=2.0, aim=None, open=broken)
    use(monkeypatch, failing, build_line("fast"))

    assert command.main(["--write"]) == 1

    assert "| failed: KeyError |" in page.read_text()
    assert "secret detail" not in page.read_text()
    assert "**1 of 2 lines reach their ratio.**" in page.read_text()


def test_too_few_rounds_are_said(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, build_line("fast"))

    command.main(["--write", "--rounds", "3"])

    assert "no: too few rounds for 95 % (these give 75.0%)" in page.read_text()


def test_an_absolute_figure_stands_with_its_interval_and_unit(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = build_line("alone")
    use(monkeypatch, Line(name="alone", work="w", peer=None, target=200, aim=150, open=line.open, unit="MB"))

    command.main(["--write"])

    assert "| alone | w | none | 200 MB | 150 MB | 0.5 [0.5, 0.5] MB |  |  | yes, the aim too |  |" in page.read_text()


def test_the_file_system_is_that_of_the_innermost_and_latest_mount() -> None:
    mounts = (
        "/dev/a / ext4 rw 0 0\ntmpfs /data tmpfs rw 0 0\n/dev/b /data/my\\040disk xfs rw 0 0\nx /data btrfs rw 0 0\n"
    )

    assert find_file_system(mounts, Path("/home")) == "ext4"
    assert find_file_system(mounts, Path("/data/x")) == "btrfs"
    assert find_file_system(mounts, Path("/data/my disk/x")) == "xfs"
    assert find_file_system(mounts, Path("/database")) == "ext4"


def test_the_processor_is_named_as_the_kernel_names_it() -> None:
    assert find_processor("processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n") == "Some CPU @ 2GHz"
