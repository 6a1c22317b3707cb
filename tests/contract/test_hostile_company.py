"""Others who work in a task's directory while it is purged: writers, other deleters, and an adversary at random."""

import os
import shutil
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from mmap import mmap
from pathlib import Path

import pytest

from dev.pipeline import wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.results import never_halt
from tests.support.adversary import Adversary
from tests.support.children import CONFINED, ChildError, do_nothing, start_companion
from tests.support.trees import OTHER, SIBLING, TREE, Result, Scene, fault_of, make_tree, on_call, purge_side_by_side

STILL_WRITTEN = ("retriable", reasons.STILL_WRITTEN)
IO_ERROR = ("retriable", reasons.IO_ERROR)
DENIED = ("permanent", reasons.PERMISSION_DENIED)
BUSY = ("retriable", reasons.BUSY)
MOUNTED = ("permanent", reasons.MOUNT_INSIDE)


class Company:
    """A process beside that repeats `act` from `start` to `stop`, with the rights of who made it."""

    def __init__(self, act: Callable[[], bool], clean_up: Callable[[], object] = do_nothing) -> None:
        self._done = mmap(-1, 8)  # shared with the process

        def serve(orders: socket.socket) -> None:
            orders.recv(1)
            orders.setblocking(False)
            done = 0
            while not _has_order(orders):
                done += act()
                self._done[:] = done.to_bytes(8, "little")
            clean_up()
            orders.setblocking(True)
            orders.send(b"+")

        self._orders = start_companion(serve)

    @property
    def done(self) -> int:
        """How many times `act` did something."""
        return int.from_bytes(self._done[:], "little")

    def start(self) -> None:
        """Begin."""
        self._orders.send(b"!")

    def stop(self) -> None:
        """End, and clean up."""
        self._orders.send(b".")
        if self._orders.recv(1) != b"+":
            raise ChildError("the process beside failed; it said why on stderr")


def _has_order(orders: socket.socket) -> bool:
    with suppress(BlockingIOError):
        orders.recv(1)
        return True
    return False


# --- writers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_a_writer_that_never_stops_ends_the_purge_and_not_the_others(scene: Scene, kind: str) -> None:
    """It gives up after a bounded number of rounds; the writer is asked for more by each of them."""
    (scene.sibling / "sub").mkdir()
    scene.hand_over(scene.sibling)
    numbers = count()

    def write() -> None:
        path = scene.sibling / f"new-{next(numbers)}"
        path.touch() if kind == "file" else path.mkdir()

    def purge(root: DirectoryRoot) -> tuple[Result, Result, int]:
        found = root.purge(SIBLING, write)
        return found, root.purge(OTHER, never_halt), next(numbers)

    with scene.nothing_else_changes():
        (purged, fault), other, written = scene.run(purge)
    assert fault_of(fault) == STILL_WRITTEN
    assert 0 < written < 40
    assert purged.files <= written
    assert other == (TREE, None)
    assert scene.purge()[1] is None
    assert not scene.sibling.exists()


def test_a_writer_that_stops_in_time_does_not_fail_the_purge(scene: Scene) -> None:
    (scene.sibling / "sub").mkdir()
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes():
        assert scene.purge(on_call(2, (scene.sibling / "late").touch)) == (Purged(1, 0), None)


def test_a_process_that_writes_as_fast_as_it_can_never_holds_a_purge_up(scene: Scene) -> None:
    """Whether the listing sees what is new is up to the file system: the purge ends, with or without it."""
    company: list[Company] = []
    numbers = count()

    def write() -> bool:
        with suppress(FileNotFoundError):  # the purge was done before we came
            (scene.sibling / f"new-{next(numbers)}").touch()
            return True
        return False

    def purge(root: DirectoryRoot) -> tuple[list[Result], int]:
        company[0].start()
        wait_until(lambda: company[0].done > 100, what="the writer's beginning")
        found = purge_side_by_side(root, SIBLING, OTHER)
        company[0].stop()
        return [*found, root.purge(SIBLING, never_halt)], company[0].done

    with scene.nothing_else_changes():
        (found, other, last), written = scene.run(purge, prepare=lambda: company.append(Company(write)))
    assert fault_of(found[1]) in (None, STILL_WRITTEN)
    assert other == (TREE, None)
    assert last[1] is None
    assert found[0].files + last[0].files == written


def test_a_directory_that_comes_back_under_the_siblings_name_is_still_written(scene: Scene) -> None:
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes():
        found = scene.run(lambda root: purge_and_bring_back(scene, root))
    assert set(found) == {None, STILL_WRITTEN}


def purge_and_bring_back(scene: Scene, root: DirectoryRoot) -> list[tuple[str, str] | None]:
    """Purges until one of them met the directory that somebody makes again and again."""
    company = Company(lambda: _makes(scene.sibling))
    company.start()
    found: list[tuple[str, str] | None] = []
    while len(set(found)) < 2:
        found.append(fault_of(root.purge(SIBLING, never_halt)[1]))
        assert len(found) < 20_000
    company.stop()
    return found


def _makes(path: Path) -> bool:
    with suppress(FileExistsError):
        path.mkdir()
        return True
    return False


# --- other deleters -----------------------------------------------------------------------------------------------


def make_many(scene: Scene) -> Purged:
    """A tree that takes several at once a while."""
    for number in range(8):
        make_tree(scene.sibling / str(number))
        for file in range(60):
            (scene.sibling / str(number) / f"more-{file}").write_bytes(b"12345")
    scene.hand_over(scene.sibling)
    return Purged(8 * (TREE.files + 60), 8 * (TREE.bytes + 300))


def test_four_purges_of_one_tree_count_every_file_once(scene: Scene) -> None:
    """Two processes with two threads each: a restarted operator beside one that is not gone yet."""
    whole = make_many(scene)
    reader, writer = os.pipe()

    def beside(orders: socket.socket) -> None:
        if orders.recv(1):
            with DirectoryRoot.open(scene.volume, "root", require_mount=False) as root:
                found = purge_side_by_side(root, SIBLING, SIBLING)
            os.write(writer, repr([(purged.files, purged.bytes, fault_of(fault)) for purged, fault in found]).encode())

    def purge(root: DirectoryRoot) -> list[tuple[int, int, tuple[str, str] | None]]:
        company = start_companion(beside)
        company.send(b"!")
        here = purge_side_by_side(root, SIBLING, SIBLING)
        there: list[tuple[int, int, tuple[str, str] | None]] = eval(os.read(reader, 4096))  # our own child's answer
        return [*((purged.files, purged.bytes, fault_of(fault)) for purged, fault in here), *there]

    with scene.nothing_else_changes():
        found = scene.run(purge)
    assert [fault for _, _, fault in found] == [None] * 4
    assert sum(files for files, _, _ in found) == whole.files
    assert sum(freed for _, freed, _ in found) == whole.bytes
    assert not scene.sibling.exists()


def test_another_program_that_deletes_the_same_tree_is_no_fault(scene: Scene) -> None:
    whole = make_many(scene)

    def purge(root: DirectoryRoot) -> Result:
        other = threading.Thread(target=shutil.rmtree, args=(scene.sibling,), kwargs={"ignore_errors": True})
        other.start()
        found = root.purge(SIBLING, never_halt)
        other.join()
        return found

    with scene.nothing_else_changes():
        purged, fault = scene.run(purge)
    assert fault is None
    assert purged.files <= whole.files
    assert purged.bytes == 5 * purged.files
    assert not scene.sibling.exists()


# --- an adversary -------------------------------------------------------------------------------------------------


def renew(scene: Scene, number: int) -> None:
    """A whole tree again, unless the adversary put something into its place."""
    with suppress(OSError):
        make_tree(scene.limbo / f"new-{number}").rename(scene.sibling)


@pytest.mark.parametrize("seed", range(10))
def test_an_adversary_between_any_two_steps_never_leads_a_purge_outside(scene: Scene, seed: int) -> None:
    """It acts whenever the purge asks whether to halt. What it brings into the tree is the task's; the rest stays."""

    def purge(root: DirectoryRoot) -> tuple[int, list[Result], Result]:
        adversary = new_adversary(scene, seed)
        acts: list[bool] = []

        one_at_a_time = threading.Lock()  # or its own steps would race each other, and one of them go astray

        def halt() -> None:
            with one_at_a_time:
                acts.append(adversary.act())

        found: list[Result] = []
        for number in range(20):
            renew(scene, number)
            found.append(root.purge(SIBLING, halt))
            adversary.clean_up()
        return sum(acts), found, root.purge(SIBLING, never_halt)

    with scene.nothing_else_changes(opened=False):  # who mounts opens
        done, found, last = scene.run(purge)
    assert_only_the_task_went(scene, done, found, last)


@pytest.mark.parametrize("seed", range(3))
def test_an_adversary_beside_never_leads_a_purge_outside(scene: Scene, seed: int) -> None:
    """The same, at any moment: a process of the same user that never waits."""

    def purge(root: DirectoryRoot) -> tuple[int, list[Result], Result]:
        adversary = new_adversary(scene, seed)
        company = Company(adversary.act, adversary.clean_up)
        company.start()
        found: list[Result] = []
        while company.done < 100 or len(found) < 20:
            renew(scene, len(found))
            found.append(root.purge(SIBLING, never_halt))
        company.stop()
        return company.done, found, root.purge(SIBLING, never_halt)

    with scene.nothing_else_changes(opened=False):
        done, found, last = scene.run(purge)
    assert_only_the_task_went(scene, done, found, last)


def new_adversary(scene: Scene, seed: int) -> Adversary:
    """One that mounts too, where its user may."""
    return Adversary(scene, seed, mounts=os.geteuid() == 0 and CONFINED)


def assert_only_the_task_went(scene: Scene, done: int, found: list[Result], last: Result) -> None:
    """Of what the purges said; that nothing outside changed is compared by the caller."""
    assert done > 20
    assert sum(purged.files for purged, _ in found) > TREE.files
    assert {fault_of(fault) for _, fault in found} <= {None, STILL_WRITTEN, IO_ERROR, MOUNTED, BUSY, DENIED}
    assert last[1] is None
    assert not os.path.lexists(scene.sibling)
