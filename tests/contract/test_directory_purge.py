"""Purges and measures on a real file system. Mounts and foreign owners: test_directory_privileges.py."""

import errno
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
SIBLING = Sibling("deleting", OWNER, "task_1")
STOP = Fault("retriable", reasons.INTERRUPTED, "shutting down")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[DirectoryRoot]:
    (tmp_path / "root").mkdir()
    with DirectoryRoot.open(tmp_path, "root", require_mount=False) as opened:
        yield opened


@pytest.fixture
def sibling(tmp_path: Path, root: DirectoryRoot) -> Path:
    """The path of a sibling whose purge has begun; still empty."""
    path = tmp_path / "root" / SIBLING.name
    path.mkdir()
    return path


@pytest.fixture
def big_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume in memory where the machine has one: creating many files is not what is tested."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=memory if usable else tmp_path) as volume:
        (Path(volume) / "root" / SIBLING.name).mkdir(parents=True)
        yield Path(volume)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that no purge may touch, with one file."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    return tmp_path / "outside"


def fill(at: Path, count: int, content: bytes = b"12345") -> None:
    for number in range(count):
        (at / f"file-{number}").write_bytes(content)


def halt_calling(effect: Callable[[int], object]) -> Callable[[], None]:
    """A halt that never stops and calls `effect` with the number of the call, from 1."""
    calls = iter(range(1, sys.maxsize))

    def halt() -> None:
        effect(next(calls))

    return halt


def reason(fault: Fault | None) -> tuple[str, str]:
    assert fault is not None
    return fault.kind, fault.reason


def snapshot(at: Path) -> list[tuple[str, int, int, int, int]]:
    found = []
    for folder, folders, files in os.walk(at):
        for name in [*folders, *files]:
            entry = os.lstat(Path(folder, name))
            found.append((name, entry.st_ino, entry.st_mode, entry.st_mtime_ns, entry.st_ctime_ns))
    return sorted(found)


# --- what goes, and what it counts --------------------------------------------------------------------------------


def test_a_purge_removes_all_and_counts_it_and_a_second_finds_nothing(root: DirectoryRoot, sibling: Path) -> None:
    (sibling / "a" / "b").mkdir(parents=True)
    (sibling / "empty").mkdir()
    fill(sibling, 3)
    fill(sibling / "a" / "b", 4)
    assert root.purge(SIBLING, never_halt) == (Purged(files=7, bytes=35), None)
    assert not sibling.exists()
    assert root.purge(SIBLING, never_halt) == (Purged(files=0, bytes=0), None)


def test_a_purge_of_an_absent_sibling_is_no_fault(root: DirectoryRoot) -> None:
    assert root.purge(SIBLING, never_halt) == (Purged(files=0, bytes=0), None)


def test_a_claimed_sibling_is_marked_before_it_is_emptied(root: DirectoryRoot, tmp_path: Path) -> None:
    (tmp_path / "root" / "task_1").mkdir()
    root.claim("task_1", OWNER)
    claimed = Sibling("claimed", OWNER, "task_1")
    assert root.purge(claimed, lambda: STOP) == (Purged(files=0, bytes=0), STOP)
    assert os.listdir(tmp_path / "root") == [SIBLING.name]


def test_only_exactly_the_named_sibling_goes(root: DirectoryRoot, sibling: Path) -> None:
    neighbours = [
        "task_1",
        "task_10",
        Sibling("deleting", OWNER, "task_10").name,
        Sibling("deleting", OWNER.replace("1", "8"), "task_1").name,
    ]
    for name in neighbours:
        (sibling.parent / name).mkdir()
        fill(sibling.parent / name, 1)
    root.purge(SIBLING, never_halt)
    assert sorted(os.listdir(sibling.parent)) == sorted(neighbours)
    assert all((sibling.parent / name / "file-0").exists() for name in neighbours)


@pytest.mark.parametrize("kind", ["file", "fifo", "link"])
def test_a_sibling_that_is_no_directory_is_removed_itself(root: DirectoryRoot, outside: Path, kind: str) -> None:
    path = outside.parent / "root" / SIBLING.name
    if kind == "file":
        path.write_bytes(b"123")
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(outside)
    size = os.lstat(path).st_size
    assert root.measure(SIBLING, never_halt) == (Purged(files=1, bytes=size), None)
    assert root.purge(SIBLING, never_halt) == (Purged(files=1, bytes=size), None)
    assert not os.path.lexists(path)
    assert (outside / "precious").exists()


def test_special_files_are_unlinked_and_never_opened(root: DirectoryRoot, sibling: Path) -> None:
    os.mkfifo(sibling / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        descriptor = os.open(sibling, os.O_RDONLY | os.O_DIRECTORY)
        server.bind(f"/proc/self/fd/{descriptor}/socket")
        os.close(descriptor)
        assert root.purge(SIBLING, never_halt) == (Purged(files=2, bytes=0), None)


def test_any_name_that_a_file_can_have_goes(root: DirectoryRoot, sibling: Path) -> None:
    for name in (b"new\nline", b"\xff\xfe", b"-rf", b"*", b" ", b"..."):
        (sibling / os.fsdecode(name)).touch()
        (sibling / os.fsdecode(name + b".d")).mkdir()
    assert root.purge(SIBLING, never_halt) == (Purged(files=6, bytes=0), None)


def test_a_hard_linked_file_counts_and_frees_nothing(root: DirectoryRoot, sibling: Path, outside: Path) -> None:
    os.link(outside / "precious", sibling / "link")
    fill(sibling, 1)
    assert root.measure(SIBLING, never_halt) == (Purged(files=2, bytes=5), None)
    assert root.purge(SIBLING, never_halt) == (Purged(files=2, bytes=5), None)
    assert (outside / "precious").read_text() == "precious"


def test_a_file_whose_every_link_goes_frees_its_bytes_once(root: DirectoryRoot, sibling: Path) -> None:
    fill(sibling, 1)
    (sibling / "sub").mkdir()
    os.link(sibling / "file-0", sibling / "sub" / "again")
    assert root.measure(SIBLING, never_halt) == (Purged(files=2, bytes=5), None)
    assert root.purge(SIBLING, never_halt) == (Purged(files=2, bytes=5), None)


def test_a_hundred_thousand_files_in_one_directory_are_counted_exactly(big_volume: Path) -> None:
    directory = os.open(big_volume / "root" / SIBLING.name, os.O_RDONLY)
    for number in range(100_000):
        os.mknod(f"f{number}", dir_fd=directory)
    os.close(directory)
    asked: list[int] = []
    with DirectoryRoot.open(big_volume, "root", require_mount=False) as root:
        assert root.purge(SIBLING, halt_calling(asked.append)) == (Purged(files=100_000, bytes=0), None)
    assert len(asked) >= 100_000 // 256


# --- links --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["{outside}", "../../outside", "{root}", "..", ".", "nowhere", "/"])
def test_links_are_removed_and_never_followed(root: DirectoryRoot, sibling: Path, outside: Path, target: str) -> None:
    (sibling.parent / "task_2").mkdir()
    (sibling / "link").symlink_to(target.format(outside=outside, root=sibling.parent))
    purged, fault = root.purge(SIBLING, never_halt)
    assert (purged.files, fault) == (1, None)
    assert (outside / "precious").exists()
    assert os.listdir(sibling.parent) == ["task_2"]


def test_a_link_swapped_in_for_a_subdirectory_is_not_followed(
    root: DirectoryRoot, sibling: Path, outside: Path
) -> None:
    (sibling / "sub").mkdir()

    def swap(call: int) -> None:
        if call == 2:  # directly before `sub` is entered
            (sibling / "sub").rename(outside.parent / "moved")
            (sibling / "sub").symlink_to(outside)

    purged, fault = root.purge(SIBLING, halt_calling(swap))
    assert (purged.files, fault) == (1, None)
    assert (outside / "precious").exists()
    assert not sibling.exists()


def test_a_link_swapped_in_for_the_sibling_itself_is_not_followed(
    root: DirectoryRoot, sibling: Path, outside: Path
) -> None:
    (sibling / "sub").mkdir()
    fill(sibling / "sub", 2)

    def swap(call: int) -> None:
        if call == 2:
            sibling.rename(outside.parent / "moved")
            sibling.symlink_to(outside)

    purged, fault = root.purge(SIBLING, halt_calling(swap))
    assert (purged.files, fault) == (3, None)
    assert (outside / "precious").exists()
    assert not os.path.lexists(sibling)


def test_a_directory_moved_away_with_the_walk_in_it_never_leads_elsewhere(
    root: DirectoryRoot, sibling: Path, outside: Path
) -> None:
    depth, deep = 60, sibling
    for level in range(depth):
        deep /= f"d{level}"
    deep.mkdir(parents=True)

    def move(call: int) -> None:
        if call == depth + 1:  # before the last is entered: its early ancestors are closed by now
            (sibling / "d0" / "d1").rename(outside / "d1")

    purged, fault = root.purge(SIBLING, halt_calling(move))
    assert purged.files == 0
    assert reason(fault) == ("retriable", reasons.STILL_WRITTEN)
    assert (outside / "precious").exists()


# --- halting, writers, others -------------------------------------------------------------------------------------


def test_a_halted_purge_resumes(root: DirectoryRoot, sibling: Path) -> None:
    fill(sibling, 600)
    answers = iter([None, None, STOP])
    first, fault = root.purge(SIBLING, lambda: next(answers))
    assert fault is STOP
    assert 0 < first.files < 600
    second, fault = root.purge(SIBLING, never_halt)
    assert fault is None
    assert first.files + second.files == 600
    assert first.bytes + second.bytes == 3000


def test_halt_is_asked_before_anything_goes(root: DirectoryRoot, sibling: Path) -> None:
    fill(sibling, 1)
    assert root.purge(SIBLING, lambda: STOP) == (Purged(files=0, bytes=0), STOP)
    assert (sibling / "file-0").exists()


def test_a_writer_that_never_stops_ends_the_purge_as_still_written(root: DirectoryRoot, sibling: Path) -> None:
    (sibling / "sub").mkdir()
    purged, fault = root.purge(SIBLING, halt_calling(lambda call: (sibling / f"new-{call}").touch()))
    assert reason(fault) == ("retriable", reasons.STILL_WRITTEN)
    assert 0 < purged.files < 20
    assert sibling.exists()
    assert root.purge(SIBLING, never_halt)[1] is None


def test_a_writer_that_stops_does_not_fail_the_purge(root: DirectoryRoot, sibling: Path) -> None:
    (sibling / "sub").mkdir()

    def write(call: int) -> None:
        if call <= 3:
            (sibling / f"new-{call}").touch()

    assert root.purge(SIBLING, halt_calling(write)) == (Purged(files=3, bytes=0), None)


def test_what_another_process_removes_meanwhile_is_neither_counted_nor_a_fault(
    root: DirectoryRoot, sibling: Path
) -> None:
    fill(sibling, 600)
    (sibling / "sub").mkdir()

    def remove(call: int) -> None:
        for path in sibling.glob("file-*") if call == 2 else ():
            path.unlink()

    purged, fault = root.purge(SIBLING, halt_calling(remove))
    assert fault is None
    assert purged.files == 256


def test_a_tree_that_vanishes_while_the_walk_is_in_it_is_no_fault(root: DirectoryRoot, sibling: Path) -> None:
    deep = sibling / "a" / "b"
    deep.mkdir(parents=True)

    def remove(call: int) -> None:
        for path in (deep, deep.parent, sibling) if call == 3 else ():
            path.rmdir()

    assert root.purge(SIBLING, halt_calling(remove)) == (Purged(files=0, bytes=0), None)


# --- what cannot go -----------------------------------------------------------------------------------------------


def refuse_unlink(monkeypatch: pytest.MonkeyPatch, refusals: dict[str, int]) -> None:
    real = os.unlink

    def unlink(name: str, *, dir_fd: int) -> None:
        if number := refusals.get(name):
            raise OSError(number, os.strerror(number), name)
        real(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", unlink)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EBUSY, ("retriable", reasons.BUSY)),
        (errno.EPERM, ("permanent", reasons.PERMISSION_DENIED)),
        (errno.EACCES, ("permanent", reasons.PERMISSION_DENIED)),
        (errno.EROFS, ("permanent", reasons.READ_ONLY)),
        (errno.EIO, ("retriable", reasons.IO_ERROR)),
    ],
)
def test_one_entry_that_fails_never_stops_the_rest(
    root: DirectoryRoot,
    sibling: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    expected: tuple[str, str],
) -> None:
    (sibling / "sub").mkdir()
    (sibling / "other").mkdir()
    (sibling / "sub" / "stays").touch()
    fill(sibling, 3)
    refuse_unlink(monkeypatch, {"stays": number})
    purged, fault = root.purge(SIBLING, never_halt)
    assert purged.files == 3
    assert reason(fault) == expected
    assert fault is not None
    assert "(1 entry could not be deleted)" in fault.message
    assert "stays" not in fault.message
    assert [path.name for path in sibling.rglob("*")] == ["sub", "stays"]


def test_the_most_severe_fault_is_reported_with_the_number_of_all(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("busy", "denied", "frozen")):
        (sibling / str(number)).mkdir()
        (sibling / str(number) / name).touch()
    refuse_unlink(monkeypatch, {"busy": errno.EBUSY, "denied": errno.EACCES, "frozen": errno.EIO})
    fault = root.purge(SIBLING, never_halt)[1]
    assert reason(fault) == ("permanent", reasons.PERMISSION_DENIED)
    assert fault is not None
    assert "3 entries" in fault.message


def test_a_file_open_on_an_nfs_client_is_a_leftover_and_not_deleted(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.unlink

    def silly_rename(name: str, *, dir_fd: int) -> None:
        if name.startswith(".nfs"):
            raise OSError(errno.EBUSY, "busy")
        if name == "open":
            os.rename(name, ".nfs0000000000000001", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            real(name, dir_fd=dir_fd)

    fill(sibling, 2)
    (sibling / "open").write_bytes(b"123")
    monkeypatch.setattr(os, "unlink", silly_rename)
    purged, fault = root.purge(SIBLING, never_halt)
    assert purged == Purged(files=2, bytes=10)
    assert reason(fault) == ("retriable", reasons.NFS_LEFTOVERS)
    purged, fault = root.purge(SIBLING, never_halt)
    assert purged == Purged(files=0, bytes=0)
    assert reason(fault) == ("retriable", reasons.NFS_LEFTOVERS)


def test_a_stale_nfs_leftover_that_nobody_holds_goes(root: DirectoryRoot, sibling: Path) -> None:
    (sibling / ".nfs0000000000000001").write_bytes(b"123")
    assert root.purge(SIBLING, never_halt) == (Purged(files=1, bytes=3), None)


# --- measuring ----------------------------------------------------------------------------------------------------


def test_a_measure_counts_what_a_purge_would_and_changes_nothing(root: DirectoryRoot, sibling: Path) -> None:
    (sibling / "a" / "locked").mkdir(parents=True)
    fill(sibling, 3)
    fill(sibling / "a" / "locked", 4)
    (sibling / "link").symlink_to("a")
    (sibling / "a" / "locked").chmod(0o500)
    before = snapshot(sibling.parent)
    measured = root.measure(SIBLING, never_halt)
    assert snapshot(sibling.parent) == before
    assert measured == (Purged(files=8, bytes=36), None)
    assert root.purge(SIBLING, never_halt) == measured


def test_a_measure_of_a_task_counts_its_directory(root: DirectoryRoot, tmp_path: Path) -> None:
    (tmp_path / "root" / "task_1").mkdir()
    fill(tmp_path / "root" / "task_1", 2)
    assert root.measure("task_1", never_halt) == (Purged(files=2, bytes=10), None)
    assert root.measure("task_10", never_halt) == (Purged(files=0, bytes=0), None)


def test_a_measure_halts(root: DirectoryRoot, sibling: Path) -> None:
    fill(sibling, 2)
    assert root.measure(SIBLING, lambda: STOP) == (Purged(files=0, bytes=0), STOP)


# --- descriptors --------------------------------------------------------------------------------------------------


def make_deep(at: Path, levels: int) -> None:
    current = os.open(at, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=current)
        deeper = os.open("d", os.O_RDONLY, dir_fd=current)
        os.mknod("f", dir_fd=current)
        os.close(current)
        current = deeper
    os.close(current)


def purge_with_few_descriptors(volume: Path) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    with DirectoryRoot.open(volume, "root", require_mount=False) as root:
        assert root.measure(SIBLING, never_halt) == (Purged(files=5000, bytes=0), None)
        assert root.purge(SIBLING, never_halt) == (Purged(files=5000, bytes=0), None)


def test_a_tree_of_five_thousand_levels_goes_with_256_descriptors(big_volume: Path) -> None:
    sibling = big_volume / "root" / SIBLING.name
    make_deep(sibling, 5000)
    process = get_context("spawn").Process(target=purge_with_few_descriptors, args=(big_volume,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert not sibling.exists()


def test_no_descriptor_is_left_open_whatever_happens(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_deep(sibling, 50)
    (sibling / "stays").touch()
    before = len(os.listdir("/proc/self/fd"))
    answers = iter([None] * 45 + [STOP])
    root.purge(SIBLING, lambda: next(answers))
    refuse_unlink(monkeypatch, {"stays": errno.EIO})
    root.purge(SIBLING, never_halt)
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_the_root_during_a_purge_does_not_divert_it(root: DirectoryRoot, sibling: Path, outside: Path) -> None:
    (sibling / "sub").mkdir()
    opened: list[int] = []

    def close(call: int) -> None:
        if call == 2:
            root.close()
            opened.append(os.open(outside, os.O_RDONLY))  # takes the number that has become free

    assert root.purge(SIBLING, halt_calling(close)) == (Purged(files=0, bytes=0), None)
    os.close(opened[0])
    assert not sibling.exists()
    assert (outside / "precious").exists()
