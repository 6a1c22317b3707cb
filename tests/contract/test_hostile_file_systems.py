"""File systems that refuse: a real one that answers as told, read-only ones, full ones. The rest goes on."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem, never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import mount, needs_mounts, remount_read_only, start_helper
from tests.support.faulty_fs import Misbehaviour, Tree, mount_faulty, needs_fuse
from tests.support.trees import (
    OTHER,
    OWNER,
    SIBLING,
    STRANGER,
    TREE,
    Result,
    Scene,
    fault_of,
    make_tree,
    on_call,
    purge_side_by_side,
)

FIVE = b"12345"
NFS = ("retriable", reasons.NFS_LEFTOVERS)
READ_ONLY = ("permanent", reasons.READ_ONLY)
INNER: Tree = {"sub": {"stays": FIVE, "goes": FIVE}, "other": {"goes": FIVE}, "goes": FIVE}


def purge_faulty(
    scene: Scene, tree: Tree, misbehaviour: Misbehaviour, *, runs: int = 1
) -> tuple[list[Result], Result, list[str]]:
    """Purges of `tree` as task_1, each beside a harmless task_2; that one's result; what is left of task_1."""
    siblings: Tree = {SIBLING.name: tree, OTHER.name: {"deep": {"file": FIVE}, "file": FIVE}}

    def purge(root: DirectoryRoot) -> tuple[list[Result], Result, list[str]]:
        first, other = purge_side_by_side(root, SIBLING, OTHER)
        found = [first, *(root.purge(SIBLING, never_halt) for _ in range(runs - 1))]
        left = [name for _, folders, files in os.walk(scene.sibling) for name in (*folders, *files)]
        return found, other, sorted(left)

    def prepare() -> None:
        mount_faulty(scene.volume, {"root": siblings}, misbehaviour, owner=scene.user.uid)

    with scene.nothing_else_changes():
        found: tuple[list[Result], Result, list[str]] = scene.run(purge, prepare=prepare)
    return found


ERRORS = [
    pytest.param(errno.EBUSY, "retriable", reasons.BUSY, id="EBUSY"),
    pytest.param(errno.ETXTBSY, "retriable", reasons.BUSY, id="ETXTBSY"),
    pytest.param(errno.EPERM, "permanent", reasons.PERMISSION_DENIED, id="EPERM"),
    pytest.param(errno.EACCES, "permanent", reasons.PERMISSION_DENIED, id="EACCES"),
    pytest.param(errno.EROFS, "permanent", reasons.READ_ONLY, id="EROFS"),
    pytest.param(errno.EIO, "retriable", reasons.IO_ERROR, id="EIO"),
    pytest.param(errno.ESTALE, "retriable", reasons.IO_ERROR, id="ESTALE"),
    pytest.param(errno.ENOSPC, "retriable", reasons.IO_ERROR, id="ENOSPC"),
    pytest.param(errno.EDQUOT, "retriable", reasons.IO_ERROR, id="EDQUOT"),
    pytest.param(errno.ETIMEDOUT, "retriable", reasons.IO_ERROR, id="ETIMEDOUT"),
]


@needs_fuse
@pytest.mark.parametrize(("number", "kind", "reason"), ERRORS)
def test_an_unlink_that_fails_is_named_and_the_rest_goes(scene: Scene, number: int, kind: str, reason: str) -> None:
    found, other, left = purge_faulty(scene, INNER, Misbehaviour({("unlink", "stays"): number}), runs=2)
    assert [purged for purged, _ in found] == [Purged(3, 15), Purged(0, 0)]
    assert [fault_of(fault) for _, fault in found] == [(kind, reason)] * 2
    assert found[0][1] is not None
    assert "(1 entry could not be deleted)" in found[0][1].message
    assert "stays" not in found[0][1].message
    assert other == (Purged(2, 10), None)
    assert left == ["stays", "sub"]


@needs_fuse
@pytest.mark.parametrize("operation", ["rmdir", "opendir", "readdir"])
@pytest.mark.parametrize(("number", "kind", "reason"), ERRORS[2:6])
def test_a_directory_that_fails_is_named_and_the_rest_goes(
    scene: Scene, operation: str, number: int, kind: str, reason: str
) -> None:
    found, other, left = purge_faulty(scene, INNER, Misbehaviour({(operation, "sub"): number}))
    inside = 2 if operation == "rmdir" else 0
    assert found[0][0] == Purged(2 + inside, 10 + 5 * inside)
    assert fault_of(found[0][1]) == (kind, reason)
    assert other == (Purged(2, 10), None)
    assert left[-1] == "sub"


@needs_fuse
def test_the_most_severe_of_many_faults_is_reported_with_their_number(scene: Scene) -> None:
    tree: Tree = {str(number): {name: FIVE} for number, name in enumerate(("busy", "denied", "broken"))}
    errors = {("unlink", "busy"): errno.EBUSY, ("unlink", "denied"): errno.EACCES, ("unlink", "broken"): errno.EIO}
    found, other, _ = purge_faulty(scene, tree, Misbehaviour(errors))
    assert fault_of(found[0][1]) == ("permanent", reasons.PERMISSION_DENIED)
    assert found[0][1] is not None
    assert "3 entries" in found[0][1].message
    assert other == (Purged(2, 10), None)


@needs_fuse
def test_a_listing_without_types_is_walked_all_the_same(scene: Scene) -> None:
    found, other, left = purge_faulty(scene, INNER, Misbehaviour(typeless=True))
    assert (found, other, left) == ([(Purged(4, 20), None)], (Purged(2, 10), None), [])


@needs_fuse
def test_files_open_on_an_nfs_client_are_leftovers_and_never_counted(scene: Scene) -> None:
    tree: Tree = {"sub": {"open": b"123", "goes": FIVE}, "goes": FIVE}
    found, other, left = purge_faulty(scene, tree, Misbehaviour(open_elsewhere=frozenset(["open"])), runs=2)
    assert [purged for purged, _ in found] == [Purged(2, 10), Purged(0, 0)]
    assert [fault_of(fault) for _, fault in found] == [NFS, NFS]
    assert other == (Purged(2, 10), None)
    assert [name[:4] for name in left] == [".nfs", "sub"]


@needs_fuse
def test_leftovers_are_not_counted_where_a_subdirectory_has_some_too(scene: Scene) -> None:
    tree: Tree = {"sub": {"open": b"123", "goes": FIVE}, "open": b"1234567", "goes": FIVE}
    found, other, left = purge_faulty(scene, tree, Misbehaviour(open_elsewhere=frozenset(["open"])), runs=2)
    assert [purged for purged, _ in found] == [Purged(2, 10), Purged(0, 0)]
    assert [fault_of(fault) for _, fault in found] == [NFS, NFS]
    assert other == (Purged(2, 10), None)
    assert [name[:4] for name in left] == [".nfs", ".nfs", "sub"]


@needs_fuse
def test_leftovers_of_earlier_deletions_stay_and_stale_ones_go(scene: Scene) -> None:
    tree: Tree = {"sub": {".nfs0001": FIVE, ".nfs0002": b"123"}}
    found, other, left = purge_faulty(scene, tree, Misbehaviour(open_elsewhere=frozenset([".nfs0001"])))
    assert found[0][0] == Purged(1, 3)
    assert fault_of(found[0][1]) == NFS
    assert other == (Purged(2, 10), None)
    assert left == [".nfs0001", "sub"]


# --- read-only ----------------------------------------------------------------------------------------------------


@needs_mounts
def test_a_read_only_volume_is_named_everywhere_and_nothing_changes(scene: Scene) -> None:
    make_tree(scene.sibling)
    scene.hand_over(scene.sibling)

    def read_only() -> None:
        mount(scene.volume, scene.volume)
        remount_read_only(scene.volume)

    def try_all(root: DirectoryRoot) -> list[object]:
        with pytest.raises(Fault) as claim:
            root.claim("task_10", STRANGER)
        problem = root.probe()
        return [
            fault_of(root.check_purgeable("task_10")),
            fault_of(claim.value),
            fault_of(root.purge(SIBLING, never_halt)[1]),
            problem and problem.reason,
        ]

    with scene.nothing_else_changes():
        found = scene.run(try_all, prepare=read_only)
    assert found == [READ_ONLY, READ_ONLY, READ_ONLY, reasons.READ_ONLY]
    assert scene.run(lambda root: root.measure(SIBLING, never_halt)) == (TREE, None)


@needs_mounts
def test_a_volume_that_becomes_read_only_stops_the_purge_where_it_is(scene: Scene) -> None:
    make_tree(scene.sibling)
    for number in range(600):
        (scene.sibling / f"many-{number}").write_bytes(FIVE)
    scene.hand_over(scene.sibling)
    freeze: list[Callable[[], None]] = []

    def prepare() -> None:
        mount(scene.volume, scene.volume)
        freeze.append(start_helper(lambda: remount_read_only(scene.volume)))

    def purge(root: DirectoryRoot) -> tuple[list[Result], bool]:
        halt = on_call(3, freeze[0])
        found = [root.purge(SIBLING, halt), root.purge(OTHER, never_halt)]
        return found, scene.sibling.exists()

    with scene.nothing_else_changes():
        ((purged, fault), other), is_there = scene.run(purge, prepare=prepare)
    assert 0 < purged.files < 600
    assert purged.bytes == 5 * purged.files
    assert [fault_of(fault), fault_of(other[1])] == [READ_ONLY, READ_ONLY]
    assert is_there
    assert scene.purge() == (Purged(600 + TREE.files - purged.files, 5 * (600 + TREE.files - purged.files)), None)


# --- full ---------------------------------------------------------------------------------------------------------


def fill_up(at: Path) -> int:
    """Write until nothing more goes in, neither bytes nor files. How many files that took."""
    count = 0
    with suppress(OSError):
        while True:
            (at / f"full-{count}").write_bytes(bytes(4096 if count < 50 else 0))
            count += 1
    with suppress(OSError), open(at / "full-0", "ab") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    return count + (at / f"full-{count}").exists()


def mount_small_tmpfs(scene: Scene) -> None:
    mount(None, scene.volume, "tmpfs", 0, "size=512k,nr_inodes=200")


def mount_small_ext4(scene: Scene) -> None:
    image = scene.limbo / "image"
    with open(image, "wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", image], check=True)
    subprocess.run(["mount", "-i", "-n", "-o", "loop", image, scene.volume], check=True)


@needs_mounts
@pytest.mark.parametrize(
    "mount_small",
    [
        mount_small_tmpfs,
        pytest.param(
            mount_small_ext4,
            marks=pytest.mark.skipif(
                not (shutil.which("mkfs.ext4") and Path("/dev/loop-control").exists()),
                reason="needs mkfs.ext4 and loop devices",
            ),
        ),
    ],
)
def test_a_full_file_system_is_emptied_and_can_be_written_again(
    scene: Scene, mount_small: Callable[[Scene], None]
) -> None:
    counts: list[int] = []

    def prepare() -> None:
        mount_small(scene)
        make_tree(scene.root.parent / "root", depth=1)
        make_tree(scene.root / "task_1")
        counts.append(fill_up(scene.root / "task_1"))
        scene.hand_over(scene.volume)

    def delete(root: DirectoryRoot) -> tuple[Purged, Fault | None, Problem | None, list[str]]:
        problem = root.probe()
        assert problem is not None
        assert problem.reason == reasons.IO_ERROR
        assert os.strerror(errno.ENOSPC) in problem.message
        assert root.check_purgeable("task_1") is None
        size = sum(path.lstat().st_size for path in (scene.root / "task_1").rglob("*") if path.is_file())
        root.claim("task_1", OWNER)
        purged, fault = root.purge(Sibling("claimed", OWNER, "task_1"), never_halt)
        assert purged == Purged(counts[0] + TREE.files, size)
        return purged, fault, root.probe(), sorted(os.listdir(scene.root))

    with scene.nothing_else_changes():
        purged, fault, problem, left = scene.run(delete, prepare=prepare)
    assert (fault, problem) == (None, None)
    assert purged.files > TREE.files
    assert left == ["file-0", "file-1", "file-2"]
