"""Forged siblings, and roots that vanish: a name proves nothing, and an absent root is never an absent task."""

import os
import shutil
from collections.abc import Callable

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.trees import OWNER, SIBLING, STRANGER, TREE, Result, Scene, entries_of, fault_of, make_tree, on_call

CLAIMED = Sibling("claimed", OWNER, "task_1")
MISSING = ("waiting", reasons.STORE_ROOT_MISSING)
FORGERIES = [
    Sibling("deleting", STRANGER, "task_1").name,
    Sibling("claimed", STRANGER, "task_1").name,
    Sibling("deleting", OWNER, "task_11").name,
    Sibling("claimed", OWNER, "task_11").name,
    f".deleting-{OWNER.upper().replace('1', 'A')}-task_1",
    f".deleting-{OWNER}-task_1 ",
    f".deleting-{OWNER}-task_1\n",
    f".deleting-{OWNER}-.task_1",
    f".deleting-{OWNER}",
    ".deleting-x-task_1",
    ".deleting-task_1",
    f".deleted-{OWNER}-task_1",
    f"x.deleting-{OWNER}-task_1",
]


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_only_exactly_the_named_sibling_goes_whatever_is_beside_it(scene: Scene, kind: str) -> None:
    make_tree(scene.sibling)
    for name in FORGERIES:
        path = scene.root / name
        if kind == "directory":
            make_tree(path, depth=1)
        elif kind == "file" and not path.exists():
            path.write_bytes(b"12345")
        elif not path.exists():
            path.symlink_to(scene.sibling)
    scene.hand_over(scene.root)
    with scene.nothing_else_changes():
        assert scene.purge() == (TREE, None)
    assert not scene.sibling.exists()


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "link to the task"])
@pytest.mark.parametrize("sibling", [SIBLING, CLAIMED], ids=lambda sibling: sibling.kind)
def test_a_forged_sibling_that_is_no_directory_goes_itself(scene: Scene, sibling: Sibling, kind: str) -> None:
    scene.sibling.rmdir()
    path = scene.root / sibling.name
    targets = {
        "link": scene.outside,
        "dangling link": scene.base / "nowhere",
        "link to the task": scene.root / "task_1",
    }
    if kind == "file":
        path.write_bytes(b"12345")
    else:
        path.symlink_to(targets[kind])
    scene.hand_over(path)
    expected = Purged(1, path.lstat().st_size)
    before = {name: entry for name, entry in scene.snapshot().items() if name != str(path)}
    assert scene.run(lambda root: root.measure(sibling, never_halt)) == (expected, None)
    assert scene.run(lambda root: root.purge(sibling, never_halt)) == (expected, None)
    assert scene.snapshot() == before
    assert not os.path.lexists(path)


def test_a_claim_beside_a_forged_one_takes_nothing(scene: Scene) -> None:
    """Whoever makes the sibling of a claim first keeps the directory where it is."""
    (scene.root / CLAIMED.name).symlink_to(scene.outside)
    scene.hand_over(scene.root / CLAIMED.name)
    with scene.nothing_else_changes():
        scene.run(lambda root: root.claim("task_1", OWNER))


@pytest.mark.parametrize("place", ["file", "empty directory", "full directory", "link", "dangling link"])
def test_an_undo_never_replaces_and_never_follows(scene: Scene, place: str) -> None:
    make_tree(scene.root / Sibling("claimed", OWNER, "task_3").name)
    task = scene.root / "task_3"
    if place == "file":
        task.write_bytes(b"12345")
    elif place.endswith("directory"):
        make_tree(task, depth=1) if place.startswith("full") else task.mkdir()
    else:
        task.symlink_to(scene.outside if place == "link" else "nowhere")
    scene.hand_over(scene.root)

    def undo(root: DirectoryRoot) -> object:
        with pytest.raises(Fault) as caught:
            root.undo("task_3", OWNER)
        return fault_of(caught.value)

    with scene.nothing_else_changes():
        assert scene.run(undo) == ("permanent", reasons.RENAME_NOT_UNDONE)


def test_an_undo_that_finds_a_forged_sibling_moves_that_itself(scene: Scene) -> None:
    """A link under the name of a claim becomes the task's entry, as a link. What it leads to stays."""
    claimed = scene.root / Sibling("claimed", OWNER, "task_3").name
    claimed.symlink_to(scene.outside)
    scene.hand_over(claimed)
    outside = {name: entry for name, entry in scene.snapshot().items() if name != str(claimed)}
    assert scene.run(lambda root: root.undo("task_3", OWNER))
    assert (scene.root / "task_3").readlink() == scene.outside
    assert {name: entry for name, entry in scene.snapshot().items() if not name.endswith("task_3")} == outside


# --- roots that vanish --------------------------------------------------------------------------------------------


def remove_root(scene: Scene) -> None:
    """The store's root with all that is in it, also while a purge removes some of that."""
    while scene.root.exists():
        shutil.rmtree(scene.root, ignore_errors=True)


ACTIONS: dict[str, Callable[[DirectoryRoot], object]] = {
    "look": lambda root: root.look(["task_1"]),
    "list_siblings": lambda root: root.list_siblings(),
    "claim": lambda root: root.claim("task_1", OWNER),
    "undo": lambda root: root.undo("task_1", OWNER),
    "check_purgeable": lambda root: root.check_purgeable("task_1"),
    "begin_purge": lambda root: root.begin_purge(CLAIMED),
    "purge": lambda root: root.purge(SIBLING, never_halt)[1],
    "measure": lambda root: root.measure("task_1", never_halt)[1],
    "probe": lambda root: root.probe(),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_root_that_was_removed_is_missing_and_its_tasks_are_not_absent(scene: Scene, action: str) -> None:
    """In its place there is another root with the same names, which the open one is not."""

    def act(root: DirectoryRoot) -> object:
        scene.volume.chmod(0o755)
        remove_root(scene)
        scene.outside.rename(scene.root)
        make_tree(scene.root / "task_1")
        try:
            found = ACTIONS[action](root)
        except Fault as fault:
            return fault_of(fault)
        return fault_of(found) if isinstance(found, Fault) else getattr(found, "reason", found)

    assert scene.run(act) in (MISSING, reasons.STORE_ROOT_MISSING)
    assert len([path for path in entries_of(scene.root) if path.is_file()]) == 2 * TREE.files


def test_a_root_that_vanishes_during_a_purge_ends_it(scene: Scene) -> None:
    """All that the purge had before it is gone; another look says that the root is missing."""
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)

    def purge(root: DirectoryRoot) -> tuple[Result, object]:
        found = root.purge(SIBLING, on_call(3, lambda: remove_root(scene)))
        return found, root.probe()

    (purged, fault), problem = scene.run(purge)
    assert fault_of(fault) in (None, MISSING)
    assert purged.files < TREE.files
    assert problem.reason == reasons.STORE_ROOT_MISSING
    assert not scene.root.exists()
    assert len([path for path in entries_of(scene.outside) if path.is_file()]) == TREE.files
