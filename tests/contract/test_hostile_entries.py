"""Every kind of entry that a task's directory can hold, and every permission: what goes, and what stays why."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from tests.support.children import ORDINARY, ROOT, needs_root
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
    purge_side_by_side,
    snapshot,
    watched,
)

DENIED = ("permanent", reasons.PERMISSION_DENIED)
#: An owner who is neither root nor the ordinary user.
FOREIGN = 65533
_GET_FLAGS, _SET_FLAGS, IMMUTABLE, APPEND_ONLY = 0x80086601, 0x40086602, 0x10, 0x20


def purge_beside_another(scene: Scene) -> Result:
    """The purge of task_1, with that of a harmless task at the same time, which has to succeed."""
    with scene.nothing_else_changes():
        found, other = scene.run(lambda root: purge_side_by_side(root, SIBLING, OTHER))
    assert other == (TREE, None)
    return found  # type: ignore[no-any-return]  # what comes from a child has no type


# --- kinds --------------------------------------------------------------------------------------------------------


def make_socket(at: Path) -> None:
    folder = os.open(at.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{folder}/{at.name}")  # the path itself may be too long for a socket
    os.close(folder)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(os.mkfifo, id="fifo"),
        pytest.param(make_socket, id="socket"),
        pytest.param(lambda at: os.mknod(at, 0o666 | stat.S_IFCHR, os.makedev(1, 3)), id="null", marks=needs_root),
        pytest.param(lambda at: os.mknod(at, 0o666 | stat.S_IFCHR, os.makedev(5, 1)), id="console", marks=needs_root),
        pytest.param(lambda at: os.mknod(at, 0o666 | stat.S_IFBLK, os.makedev(7, 0)), id="disk", marks=needs_root),
        pytest.param(lambda at: os.mknod(at, 0o666 | stat.S_IFCHR, 0), id="whiteout", marks=needs_root),
    ],
)
@pytest.mark.parametrize("is_task_itself", [False, True], ids=["inside", "as the task"])
def test_special_files_are_unlinked_and_never_opened(
    scene: Scene, make: Callable[[Path], None], is_task_itself: bool
) -> None:
    if is_task_itself:
        scene.sibling.rmdir()
        make(scene.sibling)
        paths = [scene.sibling]
    else:
        (scene.sibling / "deep").mkdir()
        paths = [scene.sibling / "special", scene.sibling / "deep" / "special"]
        for path in paths:
            make(path)
    scene.hand_over(scene.sibling)
    expected = Purged(files=len(paths), bytes=0)
    with watched(paths) as events:
        assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (expected, None)
        assert events() == []
        assert purge_beside_another(scene) == (expected, None)
        opened = [event for event in events() if event.is_opened]
    assert opened == []
    assert not os.path.lexists(scene.sibling)


def test_every_name_that_an_entry_can_have_goes(scene: Scene) -> None:
    single = [bytes([byte]) for byte in range(1, 256) if byte not in b"./"]
    odd = [b"new\nline", b"\xff\xfe\xc3\x28", b"-rf", b"*", b"...", b".x", b"..x", os.fsencode(SIBLING.name)]
    names = [*single, *odd, *(one * 255 for one in (b"x", b" ", b"\n", b"\xff")), "ä".encode() * 127 + b"b"]
    for number, name in enumerate(map(os.fsdecode, names)):
        directory = scene.sibling / str(number % 2) / f"{number}-directory" / name / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"1")
        (directory.parent / "link").symlink_to(name)
    scene.hand_over(scene.sibling)
    expected = Purged(2 * len(names), len(names) + sum(map(len, names)))
    with scene.nothing_else_changes():
        assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (expected, None)
    assert purge_beside_another(scene) == (expected, None)
    assert not scene.sibling.exists()


# --- what may not go ----------------------------------------------------------------------------------------------


@contextmanager
def frozen(flag: int, *paths: Path) -> Iterator[None]:
    """Immutable or append-only entries, as chattr makes them; skips where the file system has no such flags."""
    try:
        for path in paths:
            _set_flag(path, flag)
        yield
    finally:
        for path in paths:
            with suppress(FileNotFoundError):
                _set_flag(path, 0)


def _set_flag(path: Path, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        flags = bytearray(8)
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        others = int.from_bytes(flags, "little") & ~(IMMUTABLE | APPEND_ONLY)
        fcntl.ioctl(descriptor, _SET_FLAGS, (others | flag).to_bytes(8, "little"))
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            pytest.skip("this file system has no immutable files")
        raise
    finally:
        os.close(descriptor)


@needs_root
@pytest.mark.parametrize("flag", [IMMUTABLE, APPEND_ONLY], ids=["immutable", "append-only"])
@pytest.mark.parametrize(("place", "stay"), [("a/file-0", 1), ("a", 3), ("a/b", 3), ("", 3)])
def test_frozen_entries_stay_and_the_rest_goes(scene: Scene, flag: int, place: str, stay: int) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)
    with frozen(flag, scene.sibling / place):
        purged, fault = purge_beside_another(scene)
    assert purged == Purged(TREE.files - stay, TREE.bytes - 5 * stay)
    assert fault_of(fault) == DENIED
    assert len([path for path in entries_of(scene.sibling) if path.is_file()]) == stay
    assert scene.purge() == (Purged(stay, 5 * stay), None)


@needs_root
@pytest.mark.parametrize("flag", [IMMUTABLE, APPEND_ONLY], ids=["immutable", "append-only"])
@pytest.mark.parametrize("place", ["task_1", "."])
def test_a_frozen_task_or_root_is_known_before_the_claim(scene: Scene, flag: int, place: str) -> None:
    def try_all(root: DirectoryRoot) -> list[object]:
        with pytest.raises(Fault) as claim:
            root.claim("task_1", OWNER.replace("1", "8"))
        return [fault_of(root.check_purgeable("task_1")), fault_of(claim.value)]

    with frozen(flag, scene.root / place), scene.nothing_else_changes(opened=False):
        assert scene.run(try_all) == [DENIED, DENIED]


@dataclass(frozen=True)
class Foreign:
    """A directory of another user inside the task. `stay`: how many of its 3 files an ordinary user cannot delete."""

    mode: int
    stay: int


@needs_root
@pytest.mark.parametrize(
    "foreign",
    [
        pytest.param(Foreign(0o755, 3), id="readable"),
        pytest.param(Foreign(0o700, 3), id="closed"),
        pytest.param(Foreign(0o000, 3), id="without permissions"),
        pytest.param(Foreign(0o1777, 3), id="sticky"),
        pytest.param(Foreign(0o777, 0), id="open to all"),
    ],
)
def test_a_foreign_directory_stays_for_an_ordinary_user_and_goes_for_root(scene: Scene, foreign: Foreign) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)
    place = scene.sibling / "a" / "foreign"
    make_tree(place, depth=1)
    for path in entries_of(place):
        os.chown(path, FOREIGN, FOREIGN)
    place.chmod(foreign.mode)
    stay = 0 if scene.user == ROOT else foreign.stay
    before = snapshot(place)
    purged, fault = purge_beside_another(scene)
    assert purged == Purged(TREE.files + 3 - stay, TREE.bytes + 15 - 5 * stay)
    assert fault_of(fault) == (DENIED if stay else None)
    assert "foreign" not in (fault.message if fault else "")
    if stay:
        assert snapshot(place) == before
        assert [path.name for path in entries_of(scene.sibling) if path.is_dir()] == [SIBLING.name, "a", "foreign"]


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600])
def test_our_own_directories_without_permissions_are_repaired_and_go(scene: Scene, mode: int) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)
    closed_outside = make_tree(scene.outside / "closed")
    scene.hand_over(closed_outside)
    (scene.sibling / "a" / "link").symlink_to(closed_outside)
    for path in reversed([*entries_of(scene.sibling)]):
        if not path.is_symlink():
            path.chmod(mode)
    closed_outside.chmod(0)
    expected = Purged(TREE.files + 1, TREE.bytes + len(str(closed_outside)))
    assert purge_beside_another(scene) == (expected, None)
    assert closed_outside.stat().st_mode & 0o777 == 0
    closed_outside.chmod(0o755)


def test_a_measure_repairs_nothing(scene: Scene) -> None:
    make_tree(scene.sibling)
    (scene.sibling / "a" / "b").chmod(0)
    (scene.sibling / "last").chmod(0o500)
    scene.hand_over(scene.sibling)
    before = snapshot(scene.base)
    purged, fault = scene.run(lambda root: root.measure(SIBLING, never_halt))
    assert snapshot(scene.base) == before
    stay = 3 if scene.user == ORDINARY else 0
    assert purged == Purged(TREE.files - stay, TREE.bytes - 5 * stay)
    assert fault_of(fault) == (DENIED if stay else None)
