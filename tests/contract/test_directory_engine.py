"""Purges by many threads at a time, natively and in pure Python: exact counts, limits, halting, descriptors, forks.

Threads come where operations are slow; here every operation counts as slow, except where it says otherwise.
"""

import errno
import os
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import Crew, DirectoryRoot, Purged, crew, entries
from taskdeletion.backends.directory.branches import _Branches
from taskdeletion.backends.directory.walk import Directory, Walk
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import run_in_child
from tests.support.walks import WalkKind, walk_kind

__all__ = ["walk_kind"]

OWNER = "11111111-2222-3333-4444-555555555555"
SIBLING = Sibling("deleting", OWNER, "task_1")
OTHER = Sibling("deleting", OWNER, "task_2")
STOP = Fault("retriable", reasons.INTERRUPTED, "shutting down")
NOTHING = Purged(files=0, bytes=0)

pytestmark = pytest.mark.usefixtures("walk_kind")


@pytest.fixture(autouse=True)
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation counts as slow."""
    set_slow(monkeypatch, nanoseconds=-1)


def set_slow(monkeypatch: pytest.MonkeyPatch, *, nanoseconds: int) -> None:
    monkeypatch.setattr(crew, "SLOW_NS", nanoseconds)
    monkeypatch.setattr(entries, "SLOW_NS", nanoseconds)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    for sibling in (SIBLING, OTHER):
        (tmp_path / "root" / sibling.name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def sibling(volume: Path) -> Path:
    return volume / "root" / SIBLING.name


@pytest.fixture
def root(volume: Path) -> Iterator[DirectoryRoot]:
    with DirectoryRoot.open(volume, "root", require_mount=False, crew=Crew()) as opened:
        yield opened


def make_wide(at: Path, directories: int, files: int) -> Purged:
    """Directories side by side, each with so many files of 5 bytes."""
    for number in range(directories):
        (at / f"d{number}").mkdir(parents=True)
        for index in range(files):
            (at / f"d{number}" / f"f{index}").write_bytes(b"12345")
    return Purged(directories * files, directories * files * 5)


def make_deep(at: Path, levels: int) -> None:
    """A chain of directories, with a file in each."""
    current = os.open(at, os.O_RDONLY)
    for _ in range(levels):
        os.mknod("f", dir_fd=current)
        os.mkdir("d", dir_fd=current)
        deeper = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = deeper
    os.close(current)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Crowd:
    """A halt that notes which threads ask. After two calls, the first of them wait until `size` are there."""

    def __init__(self, size: int) -> None:
        self._all_there = threading.Barrier(size)
        self._lock = threading.Lock()
        self._calls = 0
        self.threads: set[int] = set()

    def __call__(self) -> Fault | None:
        with self._lock:
            self._calls += 1
            is_new = self._calls > 2 and threading.get_ident() not in self.threads
            if is_new:
                self.threads.add(threading.get_ident())
            is_awaited = is_new and len(self.threads) <= self._all_there.parties
        if is_awaited:
            self._all_there.wait(20)
        return None


# --- threads ------------------------------------------------------------------------------------------------------


def test_threads_join_where_operations_are_slow_and_the_counts_stay_exact(root: DirectoryRoot, sibling: Path) -> None:
    made = make_wide(sibling, 60, 20)
    crowd = Crowd(4)
    assert root.purge(SIBLING, crowd) == (made, None)
    assert len(crowd.threads) >= 4
    assert not sibling.exists()


def test_a_measure_by_many_threads_counts_what_the_purge_does(root: DirectoryRoot, sibling: Path) -> None:
    made = make_wide(sibling, 60, 20)
    crowd = Crowd(4)
    assert root.measure(SIBLING, crowd) == (made, None)
    assert root.purge(SIBLING, never_halt) == (made, None)


def test_a_small_tree_that_answers_at_once_is_left_to_the_callers_thread(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_slow(monkeypatch, nanoseconds=10**9)
    make_wide(sibling, 30, 20)
    crowd = Crowd(1)
    root.purge(SIBLING, crowd)
    assert crowd.threads == {threading.get_ident()}


def test_no_more_threads_work_for_a_store_than_its_limit(volume: Path, sibling: Path) -> None:
    made = make_wide(sibling, 60, 20)
    crowd = Crowd(3)
    with DirectoryRoot.open(volume, "root", require_mount=False, crew=Crew(limit=3)) as root:
        assert root.purge(SIBLING, crowd) == (made, None)
    assert len(crowd.threads) == 3


def test_purges_side_by_side_share_the_limit_of_their_store(volume: Path, sibling: Path) -> None:
    made = make_wide(sibling, 30, 20)
    assert make_wide(sibling.parent / OTHER.name, 30, 20) == made
    crowd = Crowd(3)
    results: dict[Sibling, tuple[Purged, Fault | None]] = {}
    with DirectoryRoot.open(volume, "root", require_mount=False, crew=Crew(limit=3)) as opened:

        def purge(one: Sibling) -> None:
            results[one] = opened.purge(one, crowd)

        opened.side_by_side(purge, [SIBLING, OTHER])
    assert results == {SIBLING: (made, None), OTHER: (made, None)}
    assert len(crowd.threads) == 3


def test_a_store_that_is_stuck_does_not_hold_up_another(volume: Path, tmp_path: Path) -> None:
    """Its threads take every helper there is; the other store's caller goes on alone."""
    helpers = 4
    stuck, goes_on = volume / "root", tmp_path / "other"
    make_wide(stuck / SIBLING.name, 30, 2)
    made = make_wide(goes_on / SIBLING.name, 30, 2)
    released = threading.Event()
    shared = Crew(helpers=helpers)
    calls = iter(range(1, sys.maxsize))
    waiting: set[int] = set()

    def wait() -> None:
        if next(calls) > 2:  # the tree is open, and helpers are called
            waiting.add(threading.get_ident())
            assert released.wait(30)

    def purge_stuck() -> None:
        with DirectoryRoot.open(volume, "root", require_mount=False, crew=shared) as root:
            root.purge(SIBLING, wait)

    thread = threading.Thread(target=purge_stuck)
    thread.start()
    try:
        wait_until(lambda: len(waiting) == 1 + helpers, seconds=20)
        with DirectoryRoot.open(tmp_path, "other", require_mount=False, crew=shared) as root:
            assert root.purge(SIBLING, never_halt) == (made, None)
    finally:
        released.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent(root: DirectoryRoot, sibling: Path) -> None:
    make_wide(sibling, 20, 20)
    root.purge(SIBLING, Crowd(4))  # its helpers wait for more
    made = make_wide(sibling, 20, 20)
    assert run_in_child(lambda: root.purge(SIBLING, Crowd(4))) == (made, None)
    assert not sibling.exists()


# --- hard links ---------------------------------------------------------------------------------------------------


def make_linked(places: list[Path], files: int) -> None:
    """In every place a name of each of the files, which are of 5 bytes."""
    for place in places:
        place.mkdir(parents=True)
    for index in range(files):
        (places[0] / f"f{index}").write_bytes(b"12345")
        for place in places[1:]:
            os.link(places[0] / f"f{index}", place / f"f{index}")


def test_files_with_names_in_many_directories_free_their_bytes_once(root: DirectoryRoot, sibling: Path) -> None:
    make_linked([sibling / f"d{number}" for number in range(16)], 100)
    expected = Purged(files=1600, bytes=500)
    assert root.measure(SIBLING, Crowd(4)) == (expected, None)
    assert root.purge(SIBLING, Crowd(4)) == (expected, None)


def test_files_with_names_in_two_tasks_free_their_bytes_with_the_second(root: DirectoryRoot, sibling: Path) -> None:
    make_linked([sibling / "d", sibling.parent / OTHER.name / "d"], 300)
    results: list[tuple[Purged, Fault | None]] = []
    root.side_by_side(lambda one: results.append(root.purge(one, Crowd(1))), [SIBLING, OTHER])
    assert [fault for _, fault in results] == [None, None]
    assert sum(purged.files for purged, _ in results) == 600
    assert sum(purged.bytes for purged, _ in results) == 1500


# --- ends that come early -----------------------------------------------------------------------------------------


def stop_at(call: int) -> Halt:
    """A halt that stops from the call with that number on."""
    calls = iter(range(1, sys.maxsize))
    return lambda: STOP if next(calls) >= call else None


@pytest.mark.parametrize("call", [1, 2, 10, 50])
def test_a_halt_stops_every_thread_and_the_next_purge_ends_it(root: DirectoryRoot, sibling: Path, call: int) -> None:
    made = make_wide(sibling, 60, 20)
    before = open_descriptors()
    first, fault = root.purge(SIBLING, stop_at(call))
    assert fault is STOP
    assert open_descriptors() == before
    left = sum(path.is_file() for path in sibling.rglob("*"))
    assert first.files + left == made.files
    second, fault = root.purge(SIBLING, never_halt)
    assert fault is None
    assert (first.files + second.files, first.bytes + second.bytes) == (made.files, made.bytes)


def test_what_nobody_foresaw_is_raised_to_the_caller_when_no_thread_runs_any_more(
    root: DirectoryRoot, sibling: Path
) -> None:
    make_wide(sibling, 60, 2)
    before = open_descriptors()
    calls = iter(range(20))

    def end_unexpectedly() -> None:
        next(calls)

    with pytest.raises(StopIteration):
        root.purge(SIBLING, end_unexpectedly)
    assert open_descriptors() == before
    assert root.purge(SIBLING, never_halt)[1] is None


def test_side_by_side_ends_with_what_one_of_the_calls_raised(root: DirectoryRoot) -> None:
    def fail(number: int) -> None:
        if number == 3:
            raise KeyError(number)

    with pytest.raises(KeyError):
        root.side_by_side(fail, range(10))


@pytest.mark.parametrize(("operations", "has_helpers"), [(2, True), (None, False)], ids=["noted", "not noted"])
def test_helpers_come_for_calls_that_say_how_slow_they_were(
    root: DirectoryRoot, operations: int | None, *, has_helpers: bool
) -> None:
    threads: set[int] = set()
    never = threading.Event()

    def be_slow(_: int) -> None:
        threads.add(threading.get_ident())
        never.wait(0.002)

    root.side_by_side(be_slow, range(40), operations=operations)
    assert (len(threads) > 1) == has_helpers


def test_one_directory_that_cannot_go_does_not_stop_the_others(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_wide(sibling, 40, 5)
    remove = Walk._rmdir

    def refuse(walk: Walk, parent: Directory, name: str) -> None:
        if name == "d7":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        remove(walk, parent, name)

    monkeypatch.setattr(Walk, "_rmdir", refuse)
    purged, fault = root.purge(SIBLING, never_halt)
    assert purged == made
    assert fault is not None
    assert (fault.kind, fault.reason) == ("retriable", reasons.IO_ERROR)
    assert "(1 entry could not be deleted)" in fault.message
    assert [path.name for path in sibling.iterdir()] == ["d7"]


# --- descriptors --------------------------------------------------------------------------------------------------


def purge_with_few_descriptors(volume: Path) -> tuple[Purged, Fault | None]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
    with DirectoryRoot.open(volume, "root", require_mount=False, crew=Crew()) as root:
        return root.purge(SIBLING, Crowd(4))


def test_many_deep_branches_go_with_128_descriptors(volume: Path, sibling: Path) -> None:
    for number in range(40):
        (sibling / str(number)).mkdir()
        make_deep(sibling / str(number), 60)
    assert run_in_child(lambda: purge_with_few_descriptors(volume)) == (Purged(40 * 60, 0), None)
    assert not sibling.exists()


def test_without_a_descriptor_to_spare_a_deep_tree_goes_all_the_same(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Crew, "take_descriptor", lambda _: False)
    made = make_wide(sibling, 10, 5)
    make_deep(sibling / "d0", 100)
    expected = Purged(made.files + 100, made.bytes)
    assert root.measure(SIBLING, never_halt) == (expected, None)
    assert root.purge(SIBLING, never_halt) == (expected, None)
    assert not sibling.exists()


@pytest.mark.parametrize("has_descriptors", [True, False])
def test_a_directory_that_was_moved_away_meanwhile_never_leads_elsewhere(
    root: DirectoryRoot, sibling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_descriptors: bool
) -> None:
    if not has_descriptors:
        monkeypatch.setattr(Crew, "take_descriptor", lambda _: False)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    depth, deep = 60, sibling
    for _ in range(depth):
        deep /= "d"
    deep.mkdir(parents=True)
    calls = iter(range(1, sys.maxsize))

    def move() -> None:
        if next(calls) == depth + 1:  # before the last is entered
            (sibling / "d" / "d").rename(tmp_path / "outside" / "moved")

    purged, fault = root.purge(SIBLING, move)
    assert purged == NOTHING
    assert fault is not None
    assert (fault.kind, fault.reason) == ("retriable", reasons.STILL_WRITTEN)
    assert (tmp_path / "outside" / "precious").read_text() == "precious"


def test_names_of_a_flat_directory_are_looked_at_side_by_side_before_they_go(
    root: DirectoryRoot, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_wide(sibling, 1, 300)
    remove, two_look, looking = entries.chosen.remove, threading.Barrier(2), set[int]()

    def remove_noting(directory: int, names: Any, start: int, *, unlink: bool) -> entries.Batch:
        if not unlink and threading.get_ident() not in looking and len(looking) < 2:
            looking.add(threading.get_ident())
            two_look.wait(20)
        return remove(directory, names, start, unlink=unlink)

    monkeypatch.setattr(entries.chosen, "remove", remove_noting)
    assert root.purge(SIBLING, never_halt) == (made, None)
    assert len(looking) == 2


# --- the two ways alike -------------------------------------------------------------------------------------------


def remove_all(directory: Path, *, unlink: bool) -> list[entries.Batch]:
    batches = []
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for chunk in entries.chosen.list_chunks(descriptor):
            rest: int | None = 0
            while rest is not None and chunk.others:
                batches.append(entries.chosen.remove(descriptor, chunk.others, rest, unlink=unlink))
                rest = batches[-1].rest
    finally:
        os.close(descriptor)
    return batches


@pytest.mark.parametrize("unlink", [True, False])
def test_what_is_not_plain_is_handed_back(tmp_path: Path, unlink: bool) -> None:
    make_linked([tmp_path / "one", tmp_path / "two"], 2)
    (tmp_path / "one" / os.fsdecode(b"\xff\nlong" + b"x" * 249)).write_bytes(b"123")
    (tmp_path / "one" / "link").symlink_to("/")
    (tmp_path / "one" / "directory").mkdir()
    (batch,) = remove_all(tmp_path / "one", unlink=unlink)
    assert (batch.looked_at, batch.files, batch.bytes) == (4, 2, 4)
    assert (sorted(batch.linked), batch.directories, batch.failed) == (["f0", "f1"], [], [])
    assert len(os.listdir(tmp_path / "one")) == (3 if unlink else 5)


def test_what_fails_is_named_with_its_errno(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "becomes a directory").touch()
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    (chunk,) = entries.chosen.list_chunks(descriptor)
    (tmp_path / "file").unlink()
    (tmp_path / "becomes a directory").unlink()
    (tmp_path / "becomes a directory").mkdir()
    batch = entries.chosen.remove(descriptor, chunk.others, 0, unlink=True)
    os.close(descriptor)
    assert batch.failed == [("file", errno.ENOENT)]
    assert batch.directories == ["becomes a directory"]
    assert batch.files == 0


def test_a_big_directory_comes_in_batches(tmp_path: Path) -> None:
    for number in range(3000):
        os.mknod(tmp_path / f"f{number * 7919 % 3000}")
    batches = remove_all(tmp_path, unlink=False)
    assert max(batch.looked_at for batch in batches) <= 256
    assert sum(batch.files for batch in batches) == 3000


def test_the_pieces_of_a_batch_are_what_the_next_removal_goes_through(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"f{number}").write_bytes(b"x" * number)
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    (chunk,) = entries.chosen.list_chunks(descriptor)
    start = 0
    for expected in (256, 44):
        pieces = entries.chosen.split(chunk.others, start)
        looked_at = [entries.chosen.remove(descriptor, piece, 0, unlink=False) for piece in pieces]
        removed = entries.chosen.remove(descriptor, chunk.others, start, unlink=True)
        assert sum(batch.files for batch in looked_at) == removed.files == expected
        assert sum(batch.bytes for batch in looked_at) == removed.bytes
        start = removed.rest or 0
    os.close(descriptor)


def test_the_native_helper_is_there_where_it_can_be_built(walk_kind: WalkKind) -> None:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    assert entries.HAS_NATIVE
    assert isinstance(entries.chosen, entries.NativeEntries) == (walk_kind == "native")


def test_a_directory_waits_for_its_children_however_late_they_are_handed_over(
    volume: Path, sibling: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that lists goes on only when another one is through with the rest of the listing."""
    for number in range(24):
        place = sibling / f"d{number // 3}" / f"e{number % 3}"
        place.mkdir(parents=True)
        (place / "file").write_bytes(b"12345")
    through: dict[int, threading.Event] = {}
    go_on, add = _Branches._go_on, crew.Shift.add

    def go_on_and_say(branches: _Branches, item: Any) -> None:
        go_on(branches, item)
        through.setdefault(id(item[0]), threading.Event()).set()

    def add_and_wait(shift: crew.Shift, function: Any, items: Any) -> None:
        add(shift, function, items)
        if function.__func__ is go_on_and_say and shift.helpers:
            through.setdefault(id(items[0][0]), threading.Event()).wait(0.2)

    monkeypatch.setattr(_Branches, "_go_on", go_on_and_say)
    monkeypatch.setattr(crew.Shift, "add", add_and_wait)
    workers = Crew()
    with DirectoryRoot.open(volume, "root", require_mount=False, crew=workers) as root:
        budget = workers._descriptors
        assert root.measure(SIBLING, never_halt) == (Purged(files=24, bytes=120), None)
        assert root.purge(SIBLING, never_halt) == (Purged(files=24, bytes=120), None)
        assert workers._descriptors == budget
    assert not sibling.exists()
