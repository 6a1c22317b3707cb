"""Purges and measures on a real file system: what goes, what counts, how it stops. Hostile trees: test_hostile_*.py."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
SIBLING = Sibling("deleting", OWNER, "task_1")
pytestmark = pytest.mark.usefixtures("walk_kind")
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


# --- halting and others ------------------------------------------------------------------------------------------


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
    assert 0 < purged.files < 600


def test_a_tree_that_vanishes_while_the_walk_is_in_it_is_no_fault(root: DirectoryRoot, sibling: Path) -> None:
    deep = sibling / "a" / "b"
    deep.mkdir(parents=True)

    def remove(call: int) -> None:
        for path in (deep, deep.parent, sibling) if call == 3 else ():
            path.rmdir()

    assert root.purge(SIBLING, halt_calling(remove)) == (Purged(files=0, bytes=0), None)


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


def test_no_descriptor_is_left_open_wherever_a_purge_stops(root: DirectoryRoot, sibling: Path) -> None:
    make_deep(sibling, 50)
    before = os.listdir("/proc/self/fd")
    for asked in (0, 1, 20, 45):
        answers = iter([None] * asked + [STOP])
        assert root.purge(SIBLING, answers.__next__)[1] is STOP
        assert os.listdir("/proc/self/fd") == before
    assert root.purge(SIBLING, never_halt)[1] is None
    assert os.listdir("/proc/self/fd") == before


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
