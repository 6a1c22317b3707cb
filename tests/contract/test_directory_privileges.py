"""What an ordinary user may not do to a store's root, and that it is known before anything is claimed."""

import os

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import ORDINARY, needs_root
from tests.support.trees import OWNER, Scene, entries_of, fault_of, make_tree

DENIED = ("permanent", reasons.PERMISSION_DENIED)
pytestmark = [needs_root, pytest.mark.parametrize("user", [ORDINARY], ids=["ordinary"], indirect=True)]


def give_to_root(scene: Scene, name: str) -> None:
    """The tree belongs to root, and its user is another one."""
    for path in entries_of(scene.root / name):
        os.chown(path, 0, 0, follow_symlinks=False)


@pytest.mark.parametrize(
    ("foreign", "mode", "root_mode", "expected"),
    [
        pytest.param(True, 0o755, 0o777, DENIED, id="foreign and not writable"),
        pytest.param(True, 0o777, 0o777, None, id="foreign and writable"),
        pytest.param(False, 0o000, 0o777, None, id="our own without permissions"),
        pytest.param(False, 0o755, 0o755, DENIED, id="root not writable"),
        pytest.param(False, 0o755, 0o1777, None, id="sticky root, our own"),
        pytest.param(True, 0o777, 0o1777, DENIED, id="sticky root, foreign"),
    ],
)
def test_whether_a_directory_may_go_is_known_before_the_claim(
    scene: Scene, foreign: bool, mode: int, root_mode: int, expected: tuple[str, str] | None
) -> None:
    os.chown(scene.root, 0, 0)
    scene.root.chmod(root_mode)
    make_tree(scene.root / "task_3")
    scene.hand_over(scene.root / "task_3")
    if foreign:
        give_to_root(scene, "task_3")
    (scene.root / "task_3").chmod(mode)
    with scene.nothing_else_changes(opened=False):
        assert scene.run(lambda root: fault_of(root.check_purgeable("task_3"))) == expected


@pytest.mark.parametrize("mode", [0o755, 0o555, 0o1777])
def test_a_root_that_forbids_it_refuses_claim_undo_and_purge(scene: Scene, mode: int) -> None:
    """Sticky: the directories in it are another user's."""
    claimed = Sibling("claimed", OWNER, "task_4")
    for name in ("task_3", claimed.name):
        make_tree(scene.root / name)
        give_to_root(scene, name)
    os.chown(scene.root, 0, 0)
    scene.root.chmod(mode)

    def try_all(root: DirectoryRoot) -> list[object]:
        found: list[object] = [fault_of(root.purge(claimed, never_halt)[1])]
        for attempt in (lambda: root.claim("task_3", OWNER), lambda: root.undo("task_4", OWNER)):
            with pytest.raises(Fault) as caught:
                attempt()
            found.append(fault_of(caught.value))
        return found

    with scene.nothing_else_changes():
        assert scene.run(try_all) == [DENIED] * 3


def test_a_root_that_is_not_writable_is_said_by_the_probe(scene: Scene) -> None:
    os.chown(scene.root, 0, 0)
    scene.root.chmod(0o755)
    with scene.nothing_else_changes():
        problem = scene.run(lambda root: root.probe())
    assert problem.reason == reasons.PERMISSION_DENIED


def test_a_root_that_is_not_readable_is_waited_for(scene: Scene) -> None:
    os.chown(scene.root, 0, 0)
    scene.root.chmod(0o700)

    def open_it() -> object:
        with pytest.raises(Fault) as caught:
            DirectoryRoot.open(scene.volume, "root", require_mount=False)
        return fault_of(caught.value)

    with scene.nothing_else_changes():
        assert scene.run_alone(open_it) == ("waiting", reasons.PERMISSION_DENIED)
