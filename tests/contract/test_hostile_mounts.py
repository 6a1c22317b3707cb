"""Mounts in and around a store: nothing is ever deleted through one, and a volume that is not there is not empty."""

from collections.abc import Callable
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged, linux
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem, never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import mount, needs_mounts, start_helper, unmount
from tests.support.trees import (
    OTHER,
    OWNER,
    SIBLING,
    TREE,
    Result,
    Scene,
    entries_of,
    fault_of,
    make_tree,
    on_call,
    purge_side_by_side,
    snapshot,
)

pytestmark = needs_mounts
MOUNTED = ("permanent", reasons.MOUNT_INSIDE)
NOT_MOUNTED = ("waiting", reasons.VOLUME_NOT_MOUNTED)
MISSING = ("waiting", reasons.STORE_ROOT_MISSING)
UNSAFE = ("waiting", reasons.STORE_ROOT_UNSAFE)


@pytest.fixture(params=["openat2", "without openat2"], autouse=True)
def _any_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mounts are noticed by newer kernels, and by comparing them on older ones."""
    modern = request.param == "openat2"
    if modern and not linux.has_openat2():
        pytest.skip("this kernel or sandbox has no openat2")
    monkeypatch.setattr(linux, "has_openat2", lambda: modern)


# --- inside a task ------------------------------------------------------------------------------------------------


def bind(scene: Scene, at: Path) -> None:
    mount(scene.outside / "a", at)


def tmpfs(scene: Scene, at: Path) -> None:
    mount(None, at, "tmpfs", 0)
    make_tree(at)
    scene.hand_over(at)


def proc(scene: Scene, at: Path) -> None:
    mount(Path("/proc/self"), at)


def own_root(scene: Scene, at: Path) -> None:
    mount(scene.root, at)


def stacked(scene: Scene, at: Path) -> None:
    tmpfs(scene, at)
    bind(scene, at)


@pytest.mark.parametrize(
    ("place", "mount_at", "stay"),
    [
        ("last", bind, 3),
        ("a/b", bind, 3),
        ("", bind, TREE.files),
        ("a/b", tmpfs, 3),
        ("", tmpfs, TREE.files),
        ("a/b", proc, 3),
        ("a/b", own_root, 3),
        ("a/b", stacked, 3),
    ],
)
def test_what_is_mounted_inside_is_untouched_and_the_rest_goes(
    scene: Scene, place: str, mount_at: Callable[[Scene, Path], None], stay: int
) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)
    at = scene.sibling / place

    def purge(root: DirectoryRoot) -> tuple[list[Result], bool]:
        before = snapshot(at, without=[at / SIBLING.name, at / OTHER.name]) if mount_at is not proc else None
        measured = root.measure(SIBLING, never_halt)
        found = [measured, *purge_side_by_side(root, SIBLING, OTHER)]
        return found, before is None or snapshot(at, without=[at / SIBLING.name, at / OTHER.name]) == before

    with scene.nothing_else_changes(opened=False):
        (measured, found, other), is_same = scene.run(purge, prepare=lambda: mount_at(scene, at))
    assert [fault_of(fault) for _, fault in (measured, found, other)] == [MOUNTED, MOUNTED, None]
    assert measured[0] == found[0] == Purged(TREE.files - stay, TREE.bytes - 5 * stay)
    assert other[0] == TREE
    assert is_same
    assert sum(path.is_file() for path in entries_of(scene.sibling)) == stay
    assert scene.purge() == (Purged(stay, 5 * stay), None)


def test_a_file_mounted_on_a_file_is_untouched(scene: Scene) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes(opened=False):
        found, other = scene.run(
            lambda root: purge_side_by_side(root, SIBLING, OTHER),
            prepare=lambda: mount(scene.outside / "file-0", scene.sibling / "a" / "file-0"),
        )
    assert (found[0], fault_of(found[1])) == (Purged(TREE.files - 1, TREE.bytes - 5), MOUNTED)
    assert other == (TREE, None)


def test_a_mount_at_or_below_a_task_is_known_before_the_claim(scene: Scene) -> None:
    for name in ("task_3", "task_4"):
        make_tree(scene.root / name)
    odd = scene.root / "task_4" / "a" / "new\nline and \\ blank\t"
    odd.mkdir()
    scene.hand_over(scene.root / "task_3", scene.root / "task_4")

    def prepare() -> None:
        for place in (scene.root / "task_3", odd):
            mount(scene.outside, place)

    def try_all(root: DirectoryRoot) -> list[object]:
        with pytest.raises(Fault) as claim:
            root.claim("task_3", OWNER)
        return [
            fault_of(claim.value),
            *(fault_of(root.check_purgeable(name)) for name in ("task_3", "task_4", "task_10")),
        ]

    with scene.nothing_else_changes(opened=False):
        assert scene.run(try_all, prepare=prepare) == [MOUNTED, MOUNTED, MOUNTED, None]


def test_a_task_with_a_mount_can_be_moved_aside_and_back_with_it(scene: Scene) -> None:
    """Where something is mounted after the look: the claim moves it, the purge refuses it, the undo brings it back."""
    make_tree(scene.root / "task_3")
    scene.hand_over(scene.root / "task_3")

    def go_and_return(root: DirectoryRoot) -> list[object]:
        root.claim("task_3", OWNER)
        measured = root.measure(Sibling("claimed", OWNER, "task_3"), never_halt)
        return [
            fault_of(measured[1]),
            root.undo("task_3", OWNER),
            (scene.root / "task_3" / "a" / "a" / "file-0").exists(),
        ]

    with scene.nothing_else_changes(opened=False, links=False):
        prepared = lambda: mount(scene.outside, scene.root / "task_3" / "a")  # noqa: E731 - used once
        assert scene.run(go_and_return, prepare=prepared) == [MOUNTED, True, True]


# --- the volume ---------------------------------------------------------------------------------------------------


def opening_fault(scene: Scene, sub_path: str = "root") -> tuple[str, str] | None:
    with pytest.raises(Fault) as caught:
        DirectoryRoot.open(scene.volume, sub_path, require_mount=True)
    return fault_of(caught.value)


def test_a_volume_that_is_not_mounted_is_waited_for_and_never_read_as_empty(scene: Scene) -> None:
    """The folder below the mount holds the same names: none of them counts."""
    with scene.nothing_else_changes():
        assert scene.run_alone(lambda: opening_fault(scene)) == NOT_MOUNTED


def test_a_mounted_volume_opens_and_a_mount_below_it_is_an_unsafe_root(scene: Scene) -> None:
    (scene.outside / "root").mkdir()

    def prepare() -> None:
        mount(scene.outside, scene.volume)  # the same disk, as local volumes are

    def unsafe() -> None:
        prepare()
        mount(scene.limbo.parent, scene.volume / "root")

    def open_it() -> bool:
        DirectoryRoot.open(scene.volume, "root").close()
        return True

    with scene.nothing_else_changes(opened=False):
        assert scene.run_alone(open_it, prepare=prepare)
        assert scene.run_alone(lambda: opening_fault(scene), prepare=unsafe) == UNSAFE
        assert scene.run_alone(lambda: opening_fault(scene, "none"), prepare=prepare) == MISSING


def test_a_volume_unmounted_while_it_is_open_is_finished_and_what_was_below_it_stays(scene: Scene) -> None:
    """The open root holds the file system. Below the mount point are the same names; none of them is touched."""
    disk = scene.limbo / "disk"
    make_tree(disk).joinpath("root").mkdir()
    gone = make_tree(disk / "root" / SIBLING.name)
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling, disk)
    hidden = snapshot(scene.sibling)
    helpers: list[Callable[[], None]] = []

    def prepare() -> None:
        mount(disk, scene.volume)
        helpers.append(start_helper(lambda: unmount(scene.volume)))

    def purge() -> tuple[Result, tuple[str, str] | None, Problem | None]:
        with DirectoryRoot.open(scene.volume, "root") as root:
            found = root.purge(SIBLING, on_call(3, helpers[0]))
            return found, opening_fault(scene), root.probe()

    with scene.nothing_else_changes():
        assert scene.run_alone(purge, prepare=prepare) == ((TREE, None), NOT_MOUNTED, None)
    assert not gone.exists()
    assert snapshot(scene.sibling) == hidden
