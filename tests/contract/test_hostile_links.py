"""Links in a task's directory, or in its place: they go themselves, what they lead to stays."""

import os
import stat
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import needs_mounts
from tests.support.trees import OTHER, OWNER, SIBLING, TREE, Scene, fault_of, make_tree, purge_side_by_side

TARGETS = [
    pytest.param("{outside}", id="absolute"),
    pytest.param("{outside}/", id="absolute, with a slash at the end"),
    pytest.param("../../../outside", id="relative"),
    pytest.param("{outside}/file-0", id="to a file"),
    pytest.param("{root}/task_10", id="to a neighbour"),
    pytest.param("{root}", id="to the root of the store"),
    pytest.param("/", id="to the root of all", marks=needs_mounts),
    pytest.param("..", id="to its parent"),
    pytest.param(".", id="to itself"),
    pytest.param("link", id="a loop"),
    pytest.param("nowhere", id="dangling"),
    pytest.param("/proc/self/root", id="magic", marks=needs_mounts),
]


@pytest.mark.parametrize("target", TARGETS)
def test_links_inside_go_and_their_targets_stay(scene: Scene, target: str) -> None:
    make_tree(scene.sibling)
    links = [scene.sibling / place / "link" for place in ("", "a", "a/b")]
    for link in links:
        link.symlink_to(target.format(outside=scene.outside, root=scene.root))
    scene.hand_over(scene.sibling)
    expected = Purged(TREE.files + 3, TREE.bytes + 3 * links[0].lstat().st_size)
    top = os.listdir("/")
    with scene.nothing_else_changes():
        assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (expected, None)
        assert scene.purge() == (expected, None)
    assert not scene.sibling.exists()
    assert os.listdir("/") == top


@pytest.mark.parametrize("target", TARGETS)
def test_a_task_that_is_a_link_is_claimed_and_purged_itself(scene: Scene, target: str) -> None:
    task = scene.root / "task_3"
    task.symlink_to(target.format(outside=scene.outside, root=scene.root))
    scene.hand_over(task)
    expected = Purged(files=1, bytes=task.lstat().st_size)
    claimed = Sibling("claimed", OWNER, "task_3")

    def delete(root: DirectoryRoot) -> object:
        assert root.check_purgeable("task_3") is None
        assert root.measure("task_3", never_halt) == (expected, None)
        root.claim("task_3", OWNER)
        return root.purge(claimed, never_halt)

    before = {name: entry for name, entry in scene.snapshot().items() if name != str(task)}
    assert scene.run(delete) == (expected, None)
    assert scene.snapshot() == before
    assert not os.path.lexists(task)


def test_a_claim_that_is_a_link_is_put_back_as_the_link(scene: Scene) -> None:
    task = scene.root / "task_3"
    task.symlink_to(scene.outside)
    scene.hand_over(task)

    def go_and_return(root: DirectoryRoot) -> bool:
        root.claim("task_3", OWNER)
        return root.undo("task_3", OWNER)

    with scene.nothing_else_changes(links=False):
        assert scene.run(go_and_return)
    assert task.readlink() == scene.outside


@pytest.mark.parametrize("task_id", ["task_1/", "link/", "task_1//", "./task_1", "task_1/.", "../root/task_1"])
def test_a_name_with_a_slash_is_never_resolved(scene: Scene, task_id: str) -> None:
    (scene.root / "link").symlink_to(scene.outside)

    def try_all(root: DirectoryRoot) -> int:
        refused = 0
        for attempt in (
            lambda: root.look([task_id]),
            lambda: root.check_purgeable(task_id),
            lambda: root.claim(task_id, OWNER),
            lambda: root.undo(task_id, OWNER),
            lambda: root.measure(task_id, never_halt),
            lambda: root.begin_purge(Sibling("claimed", OWNER, task_id)),
            lambda: root.purge(Sibling("deleting", OWNER, task_id), never_halt),
        ):
            with pytest.raises(ValueError):  # noqa: PT011 - the gate's own message is not what is tested
                attempt()
            refused += 1
        return refused

    with scene.nothing_else_changes():
        assert scene.run(try_all) == 7


@pytest.mark.parametrize("sub_path", ["link", "link/", "link//", "link/.", "root/link", "root/link/"])
def test_a_store_behind_a_link_is_unsafe_with_a_slash_at_the_end_too(scene: Scene, sub_path: str) -> None:
    (scene.volume / "link").symlink_to(scene.outside)
    (scene.root / "link").symlink_to(scene.outside)

    def open_it() -> tuple[str, str] | None:
        with pytest.raises(Fault) as caught:
            DirectoryRoot.open(scene.volume, sub_path, require_mount=False)
        return fault_of(caught.value)

    with scene.nothing_else_changes():
        assert scene.run_alone(open_it) == ("waiting", reasons.STORE_ROOT_UNSAFE)


# --- hard links ---------------------------------------------------------------------------------------------------


def test_a_file_with_a_hard_link_outside_goes_and_frees_nothing(scene: Scene) -> None:
    make_tree(scene.sibling)
    os.link(scene.outside / "file-0", scene.sibling / "a" / "hard")
    os.link(scene.root / "task_10" / "file-0", scene.sibling / "hard")
    expected = Purged(TREE.files + 2, TREE.bytes)
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes(links=False):
        assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (expected, None)
        assert scene.purge() == (expected, None)
    assert (scene.outside / "file-0").lstat().st_nlink == 1


def test_the_bytes_of_a_file_are_freed_with_the_last_of_its_links(scene: Scene) -> None:
    (scene.sibling / "deep").mkdir()
    (scene.sibling / "one").write_bytes(b"12345")
    for name in ("two", "deep/three"):
        os.link(scene.sibling / "one", scene.sibling / name)
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes():
        assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (Purged(3, 5), None)
        assert scene.purge() == (Purged(3, 5), None)


def test_a_file_that_two_tasks_share_is_freed_by_the_second(scene: Scene) -> None:
    (scene.sibling / "shared").write_bytes(b"1234567")
    os.link(scene.sibling / "shared", scene.root / OTHER.name / "shared")
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes():
        assert scene.purge() == (Purged(1, 0), None)
        assert scene.run(lambda root: root.purge(OTHER, never_halt)) == (Purged(TREE.files + 1, TREE.bytes + 7), None)


def test_two_tasks_that_share_many_files_free_each_once(scene: Scene) -> None:
    """Both look at the number of links before either removes one: neither may count what the other frees."""
    for number in range(300):
        (scene.sibling / f"shared-{number}").write_bytes(b"1234567")
        os.link(scene.sibling / f"shared-{number}", scene.root / OTHER.name / f"shared-{number}")
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes():
        found = scene.run(lambda root: purge_side_by_side(root, SIBLING, OTHER))
    assert [fault for _, fault in found] == [None, None]
    assert [purged.files for purged, _ in found] == [300, 300 + TREE.files]
    assert sum(purged.bytes for purged, _ in found) <= 300 * 7 + TREE.bytes
    assert not scene.sibling.exists()


def test_a_hard_link_to_a_link_a_fifo_and_a_socket_is_one_too(scene: Scene) -> None:
    (scene.outside / "soft").symlink_to("file-0")
    os.mkfifo(scene.outside / "fifo")
    for name in ("soft", "fifo"):
        os.link(scene.outside / name, scene.sibling / name, follow_symlinks=False)
    scene.hand_over(scene.sibling)
    with scene.nothing_else_changes(links=False):
        assert scene.purge() == (Purged(2, 0), None)
    assert stat.S_ISFIFO(Path(scene.outside / "fifo").lstat().st_mode)
