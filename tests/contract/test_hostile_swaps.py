"""Entries that are swapped, moved away or moved in while a purge runs: at every moment at which it can be stopped.

The swap happens while the purge waits for the answer of its halt, so that each run hits one exact moment.
"""

import os
import resource
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.results import never_halt
from tests.support.children import do_nothing, exchange, mount, needs_mounts, start_helper, unmount
from tests.support.trees import SIBLING, TREE, Result, Scene, fault_of, make_tree, on_call

Act = Callable[[], object]
Swap = Callable[[Scene], object]
#: More files than any of the swaps brings in.
ADDED = 9
#: So few that a walk closes the folders far above it.
DESCRIPTORS = 64
INNER = ("", "a", "a/b", "b", "last")
STILL_WRITTEN = ("retriable", reasons.STILL_WRITTEN)
IO_ERROR = ("retriable", reasons.IO_ERROR)
MOUNTED = ("permanent", reasons.MOUNT_INSIDE)


def link_for(place: str) -> Swap:
    """The directory is moved out, and a link to the same place of the outside is there instead."""

    def swap(scene: Scene) -> None:
        (scene.sibling / place).rename(scene.limbo / "out")
        (scene.sibling / place).symlink_to(scene.outside / place)

    return swap


def exchange_for_link(place: str) -> Swap:
    """The same in one atomic step."""

    def swap(scene: Scene) -> None:
        (scene.limbo / "link").symlink_to(scene.outside / place)
        exchange(scene.sibling / place, scene.limbo / "link")

    return swap


def move_out(place: str) -> Swap:
    """The directory is moved among others, whose names are those of its own entries."""
    return lambda scene: (scene.sibling / place).rename(scene.limbo / "out")


def move_up(scene: Scene) -> None:
    """A directory becomes a neighbour of the task, in the store's root: its parent is not what it was."""
    (scene.sibling / "a" / "b").rename(scene.limbo / "b")
    (scene.sibling / "a").rename(scene.limbo / "b" / "a")


def move_in(place: str) -> Swap:
    """Something full comes in; it is the task's from then on."""

    def swap(scene: Scene) -> None:
        make_tree(scene.limbo / "new", depth=2)
        (scene.limbo / "new").rename(scene.sibling / place / "new")

    return swap


def change_kind(scene: Scene) -> None:
    """Directories become files and links, files become directories."""
    (scene.sibling / "a").rename(scene.limbo / "a")
    os.mkfifo(scene.sibling / "a")
    (scene.sibling / "b").rename(scene.limbo / "b")
    (scene.sibling / "b").write_bytes(b"12345")
    for name in ("file-0", "file-1"):
        (scene.sibling / name).unlink()
    (scene.sibling / "file-0").mkdir()
    (scene.sibling / "file-1").symlink_to(scene.outside)


def link_for_closed(scene: Scene) -> None:
    """A directory without permissions, about to be repaired, is a link to one outside."""
    (scene.sibling / "a" / "b").rename(scene.limbo / "b")
    (scene.sibling / "a" / "b").symlink_to(scene.outside / "closed")


SWAPS: list[object] = [
    *(pytest.param(link_for(place), id=f"link for {place or 'the task'}") for place in INNER),
    *(pytest.param(exchange_for_link(place), id=f"exchanged link for {place or 'the task'}") for place in INNER),
    *(pytest.param(move_out(place), id=f"{place or 'the task'} moved out") for place in INNER),
    *(pytest.param(move_in(place), id=f"moved into {place or 'the task'}") for place in ("", "a/b")),
    pytest.param(move_up, id="parent below child"),
    pytest.param(change_kind, id="other kinds"),
    pytest.param(link_for_closed, id="link for a closed directory"),
]


@dataclass(frozen=True, slots=True)
class Run:
    """A purge that was disturbed once, and one behind it that was not. `swapped` is empty where the swap came late."""

    swapped: tuple[bool, ...]
    first: Result
    second: Result
    is_gone: bool


def disturb_at_every_moment(scene: Scene, root: DirectoryRoot, swap: Act, repair: Act = do_nothing) -> list[Run]:
    """One run for each call of halt in a purge; how many there are is found by trying."""
    runs: list[Run] = []
    while True:
        called, run = disturb(scene, root, swap, repair, moment=len(runs) + 1)
        empty(scene.limbo)
        if not called:
            return runs
        runs.append(run)


def disturb(scene: Scene, root: DirectoryRoot, swap: Act, repair: Act, *, moment: int) -> tuple[bool, Run]:
    """A purge of a new tree with a swap at this call of halt; whether there was such a call.

    `repair` runs before the second purge.
    """
    make_tree(scene.sibling)
    (scene.sibling / "a" / "b").chmod(0o300)
    called: list[bool] = []
    swapped: list[bool] = []

    def effect() -> None:
        called.append(True)
        with suppress(FileNotFoundError):  # the purge was there first: nothing to swap any more
            swap()
            swapped.append(True)

    first = root.purge(SIBLING, on_call(moment, effect))
    repair()
    second = root.purge(SIBLING, never_halt)
    return bool(called), Run(tuple(swapped), first, second, not os.path.lexists(scene.sibling))


def empty(folder: Path) -> None:
    """Remove what is in the limbo. No link in it is followed."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
            empty(path)
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize("swap", SWAPS)
def test_a_swap_at_any_moment_changes_nothing_outside(scene: Scene, swap: Swap) -> None:
    closed = make_tree(scene.outside / "closed")
    scene.hand_over(closed)
    closed.chmod(0)
    scene.sibling.rmdir()
    with scene.nothing_else_changes():
        runs = scene.run(lambda root: disturb_at_every_moment(scene, root, lambda: swap(scene)))
    closed.chmod(0o755)
    assert len(runs) >= 8, "a purge asks before each of the 8 directories"
    assert any(run.swapped for run in runs)
    for run in runs:
        assert fault_of(run.first[1]) in (None, STILL_WRITTEN, IO_ERROR)
        assert run.second[1] is None
        assert run.is_gone
        assert run.first[0].files + run.second[0].files <= TREE.files + ADDED


@pytest.mark.parametrize("moved", [1, 2, 40])
def test_a_deep_directory_moved_out_with_the_purge_in_it_never_leads_elsewhere(scene: Scene, moved: int) -> None:
    """A walk that closed the folders above has to find back; where it is now, the names around are the same."""
    deep = Path(*["a"] * 60)

    def build() -> None:
        (scene.sibling / deep).mkdir(parents=True)
        for path in (scene.sibling, *(scene.sibling / parent for parent in (deep, *deep.parents))):
            (path / "file-0").write_bytes(b"12345")

    def purge(root: DirectoryRoot) -> list[tuple[Result, Result, bool]]:
        found: list[tuple[Result, Result, bool]] = []
        for moment in range(30, 130, 10):
            build()
            swapped: list[bool] = []

            def swap(swapped: list[bool] = swapped) -> None:
                with suppress(FileNotFoundError):
                    (scene.sibling / Path(*["a"] * moved)).rename(scene.limbo / "a")
                    swapped.append(True)

            found.append((root.purge(SIBLING, on_call(moment, swap)), root.purge(SIBLING, never_halt), bool(swapped)))
            empty(scene.limbo)
        return found

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    scene.sibling.rmdir()
    with scene.nothing_else_changes():
        found = scene.run(purge, prepare=prepare)
    assert any(swapped for _, _, swapped in found)
    for (_, fault), (_, last), _ in found:
        assert fault_of(fault) in (None, STILL_WRITTEN, IO_ERROR)
        assert last is None
    assert not os.path.lexists(scene.sibling)


@needs_mounts
@pytest.mark.parametrize("place", ["", "a", "a/b", "a/file-0", "last"])
def test_a_mount_at_any_moment_changes_nothing_outside(scene: Scene, place: str) -> None:
    """Root mounts the outside while the user purges, and takes it away before the second purge."""
    helpers: list[Act] = []

    def mount_outside() -> None:
        with suppress(FileNotFoundError):  # the purge was there first
            mount(scene.outside / place, scene.sibling / place)

    def unmount_again() -> None:
        with suppress(OSError):  # it was not mounted
            unmount(scene.sibling / place)

    def prepare() -> None:
        helpers.extend([start_helper(mount_outside), start_helper(unmount_again)])

    scene.sibling.rmdir()
    with scene.nothing_else_changes(opened=False):  # who mounts opens
        runs = scene.run(lambda root: disturb_at_every_moment(scene, root, *helpers), prepare=prepare)
    faults = {fault_of(run.first[1]) for run in runs}
    assert MOUNTED in faults
    assert faults <= {MOUNTED, None}
    for run in runs:
        assert run.second[1] is None
        assert run.is_gone
        assert run.first[0].files + run.second[0].files == TREE.files


@needs_mounts
def test_a_root_that_is_replaced_while_it_is_open_is_the_only_one_worked_on(scene: Scene) -> None:
    """Whatever takes its name: the purge stays where it began, and claims nothing of the newcomer."""
    make_tree(scene.sibling)
    newcomer = scene.outside / "root"
    make_tree(newcomer)
    make_tree(newcomer / SIBLING.name)
    scene.hand_over(scene.sibling, newcomer)
    scene.volume.chmod(0o777)

    def purge(root: DirectoryRoot) -> Result:
        def replace() -> None:
            scene.root.rename(scene.volume / "old")
            scene.root.symlink_to(newcomer)

        found = root.purge(SIBLING, on_call(3, replace))
        scene.root.unlink()
        (scene.volume / "old").rename(scene.root)
        return found

    before = scene.snapshot()
    assert scene.run(purge) == (TREE, None)
    after = scene.snapshot()
    for found in (before, after):
        del found[str(scene.volume)]  # we renamed in it
    assert after == before
