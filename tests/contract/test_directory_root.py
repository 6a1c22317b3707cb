"""The store's root on a real file system: opening, looking, claiming, undoing. Purges: test_directory_purge.py."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Found
from taskdeletion.backends.directory import root as root_module
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
OTHER = "99999999-2222-3333-4444-555555555555"
pytestmark = pytest.mark.usefixtures("walk_kind")
CLAIMED = Sibling("claimed", OWNER, "task_1")
DELETING = Sibling("deleting", OWNER, "task_1")


@pytest.fixture
def root(tmp_path: Path) -> Iterator[DirectoryRoot]:
    with DirectoryRoot.open(tmp_path, ".", require_mount=False) as opened:
        yield opened


def make_task(at: Path, name: str = "task_1") -> Path:
    (at / name / "sub").mkdir(parents=True)
    (at / name / "sub" / "data").write_text("data")
    return at / name


def names(at: Path) -> set[str]:
    return set(os.listdir(at))


# --- opening ------------------------------------------------------------------------------------------------------


def opening_fault(volume: Path, sub_path: str, *, require_mount: bool = False) -> tuple[FaultKind, str]:
    with pytest.raises(Fault) as caught:
        DirectoryRoot.open(volume, sub_path, require_mount=require_mount)
    assert str(volume) not in caught.value.message
    return caught.value.kind, caught.value.reason


def test_a_root_below_the_volume_opens(tmp_path: Path) -> None:
    make_task(tmp_path / "data" / "training")
    with DirectoryRoot.open(tmp_path, "data/training", require_mount=False) as root:
        assert root.look(["task_1"]) == {"task_1": Found(directory=True, siblings=())}


def test_an_absent_volume_is_not_mounted(tmp_path: Path) -> None:
    assert opening_fault(tmp_path / "none", "data") == ("waiting", reasons.VOLUME_NOT_MOUNTED)


def test_a_plain_directory_is_no_mounted_volume(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert opening_fault(tmp_path, "data", require_mount=True) == ("waiting", reasons.VOLUME_NOT_MOUNTED)


def test_a_volume_that_is_a_file_is_not_mounted(tmp_path: Path) -> None:
    (tmp_path / "volume").touch()
    assert opening_fault(tmp_path / "volume", "data") == ("waiting", reasons.VOLUME_NOT_MOUNTED)


def test_the_root_of_the_file_system_is_a_mount_point() -> None:
    with DirectoryRoot.open(Path("/"), ".") as root:
        assert root.look(["no_such_task"])["no_such_task"] == Found(directory=False, siblings=())


@pytest.mark.parametrize("sub_path", ["none", "none/deeper", "data/none"])
def test_a_missing_root_is_an_error_and_not_absent(tmp_path: Path, sub_path: str) -> None:
    (tmp_path / "data").mkdir()
    assert opening_fault(tmp_path, sub_path) == ("waiting", reasons.STORE_ROOT_MISSING)


@pytest.mark.parametrize(
    "sub_path", ["link", "link/deeper", "real/../real", "..", "/etc", "file", "file/deeper", "loop"]
)
def test_a_root_through_links_dots_or_files_is_unsafe(tmp_path: Path, sub_path: str) -> None:
    (tmp_path / "real" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    assert opening_fault(tmp_path, sub_path) == ("waiting", reasons.STORE_ROOT_UNSAFE)


def test_opening_and_failing_to_open_leak_no_descriptor(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opening_fault(tmp_path, "none")
    opening_fault(tmp_path, ".", require_mount=True)
    DirectoryRoot.open(tmp_path, ".", require_mount=False).close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- looking ------------------------------------------------------------------------------------------------------


def test_look_finds_the_directory_and_everybodys_siblings(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    expected = (Sibling("claimed", OTHER, "task_1"), DELETING, Sibling("deleting", OTHER, "task_1"))
    for sibling in reversed(expected):
        (tmp_path / sibling.name).mkdir()
    assert root.look(["task_1", "task_10"]) == {
        "task_1": Found(directory=True, siblings=expected),
        "task_10": Found(directory=False, siblings=()),
    }


def test_look_takes_a_link_or_a_file_for_the_directory(tmp_path: Path, root: DirectoryRoot) -> None:
    (tmp_path / "task_1").symlink_to("nowhere")
    (tmp_path / "task_2").touch()
    assert [found.directory for found in root.look(["task_1", "task_2"]).values()] == [True, True]


def test_a_directory_that_moves_during_the_listing_is_not_absent(
    tmp_path: Path, root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CLAIMED.name).mkdir()

    def undone_before_the_listing() -> list[Sibling]:
        (tmp_path / CLAIMED.name).rename(tmp_path / "task_1")
        return []

    monkeypatch.setattr(root, "list_siblings", undone_before_the_listing)
    assert root.look(["task_1"])["task_1"].directory


def test_list_siblings_knows_only_exact_names(tmp_path: Path, root: DirectoryRoot) -> None:
    for name in (".deleting-task_1", ".claimed-x-task_1", f"{CLAIMED.name}\n", "deleting", f".trash-{OWNER}-task_1"):
        (tmp_path / name).mkdir()
    (tmp_path / DELETING.name).mkdir()
    assert root.list_siblings() == [DELETING]


def test_a_root_removed_while_open_is_an_error_and_not_absent(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with DirectoryRoot.open(tmp_path, "data", require_mount=False) as root:
        (tmp_path / "data").rmdir()
        with pytest.raises(Fault) as caught:
            root.look(["task_1"])
        problem = root.probe()
    assert caught.value.reason == reasons.STORE_ROOT_MISSING
    assert problem is not None
    assert problem.reason == reasons.STORE_ROOT_MISSING


@pytest.mark.parametrize("task_id", ["", ".", "..", "a/b", ".hidden", "task\n", "../task_1", "x" * 129])
def test_what_is_no_task_id_never_becomes_a_name(root: DirectoryRoot, task_id: str) -> None:
    sibling = Sibling("deleting", OWNER, task_id)
    calls: list[Callable[[], object]] = [
        lambda: root.look([task_id]),
        lambda: root.check_purgeable(task_id),
        lambda: root.claim(task_id, OWNER),
        lambda: root.undo(task_id, OWNER),
        lambda: root.begin_purge(sibling),
        lambda: root.purge(sibling, never_halt),
        lambda: root.measure(task_id, never_halt),
        lambda: root.measure(sibling, never_halt),
    ]
    for call in calls:
        with pytest.raises(ValueError):  # noqa: PT011 - the gate's own message is not what is tested
            call()


def test_an_owner_that_is_no_uid_never_becomes_a_name(root: DirectoryRoot) -> None:
    with pytest.raises(ValueError, match="not a sibling"):
        root.claim("task_1", "../x")


# --- claiming -----------------------------------------------------------------------------------------------------


def test_claim_moves_the_directory_whole_and_again_changes_nothing(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    root.claim("task_1", OWNER)
    root.sync()
    assert names(tmp_path) == {CLAIMED.name}
    assert (tmp_path / CLAIMED.name / "sub" / "data").read_text() == "data"


def test_claim_of_an_absent_directory_does_nothing(tmp_path: Path, root: DirectoryRoot) -> None:
    root.claim("task_1", OWNER)
    assert names(tmp_path) == set()


def test_claim_leaves_the_neighbour(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path, "task_1")
    make_task(tmp_path, "task_10")
    root.claim("task_1", OWNER)
    assert names(tmp_path) == {CLAIMED.name, "task_10"}


@pytest.mark.parametrize("own", [CLAIMED, DELETING], ids=str)
def test_claim_never_takes_a_new_directory_where_the_own_sibling_is(
    tmp_path: Path, root: DirectoryRoot, own: Sibling
) -> None:
    (tmp_path / own.name).mkdir()
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    assert names(tmp_path) == {own.name, "task_1"}
    assert list((tmp_path / own.name).iterdir()) == []


def test_claim_beside_the_sibling_of_another_request_moves_the_directory(tmp_path: Path, root: DirectoryRoot) -> None:
    other = Sibling("deleting", OTHER, "task_1")
    (tmp_path / other.name).mkdir()
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    assert names(tmp_path) == {other.name, CLAIMED.name}


def test_claim_moves_a_link_itself(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path, "target")
    (tmp_path / "task_1").symlink_to(tmp_path / "target")
    root.claim("task_1", OWNER)
    assert (tmp_path / CLAIMED.name).is_symlink()
    assert (tmp_path / "target" / "sub" / "data").exists()


def test_a_rename_that_happened_and_answers_enoent_is_a_claim(
    tmp_path: Path, root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_nfs_may_answer(directory: int, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
        raise FileNotFoundError(errno.ENOENT, "no such file")

    make_task(tmp_path)
    monkeypatch.setattr(root_module, "rename_noreplace", as_nfs_may_answer)
    root.claim("task_1", OWNER)
    assert names(tmp_path) == {CLAIMED.name}
    assert root.undo("task_1", OWNER)
    assert names(tmp_path) == {"task_1"}
    root.claim("task_1", OWNER)
    assert root.begin_purge(CLAIMED) == DELETING
    assert names(tmp_path) == {DELETING.name}


@pytest.mark.parametrize(
    ("number", "kind", "reason"),
    [
        (errno.EXDEV, "permanent", reasons.CROSSES_DEVICE),
        (errno.EPERM, "permanent", reasons.PERMISSION_DENIED),
        (errno.EACCES, "permanent", reasons.PERMISSION_DENIED),
        (errno.EROFS, "permanent", reasons.READ_ONLY),
        (errno.EBUSY, "retriable", reasons.BUSY),
        (errno.ENOSPC, "retriable", reasons.IO_ERROR),
        (errno.EIO, "retriable", reasons.IO_ERROR),
        (errno.ENOENT, "retriable", reasons.IO_ERROR),
    ],
)
def test_a_refused_rename_is_a_named_fault_with_nothing_moved(
    tmp_path: Path, root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch, number: int, kind: str, reason: str
) -> None:
    def refuse(directory: int, old: str, new: str) -> None:
        raise OSError(number, os.strerror(number), "a name that must not show")

    make_task(tmp_path)
    monkeypatch.setattr(root_module, "rename_noreplace", refuse)
    with pytest.raises(Fault) as caught:
        root.claim("task_1", OWNER)
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    assert "must not show" not in caught.value.message
    assert names(tmp_path) == {"task_1"}


# --- undoing ------------------------------------------------------------------------------------------------------


def test_undo_puts_the_directory_back_once(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    assert root.undo("task_1", OWNER)
    assert not root.undo("task_1", OWNER)
    assert (tmp_path / "task_1" / "sub" / "data").read_text() == "data"
    assert names(tmp_path) == {"task_1"}


@pytest.mark.parametrize("replacement", ["full directory", "empty directory", "file", "dangling link"])
def test_undo_never_replaces(tmp_path: Path, root: DirectoryRoot, replacement: str) -> None:
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    if replacement == "file":
        (tmp_path / "task_1").write_text("new")
    elif replacement == "dangling link":
        (tmp_path / "task_1").symlink_to("nowhere")
    else:
        (tmp_path / "task_1").mkdir()
    if replacement == "full directory":
        (tmp_path / "task_1" / "new").touch()
    inode = os.lstat(tmp_path / "task_1").st_ino
    with pytest.raises(Fault) as caught:
        root.undo("task_1", OWNER)
    assert (caught.value.kind, caught.value.reason) == ("permanent", reasons.RENAME_NOT_UNDONE)
    assert "task_1 " in caught.value.message
    assert CLAIMED.name in caught.value.message
    assert os.lstat(tmp_path / "task_1").st_ino == inode
    assert (tmp_path / CLAIMED.name / "sub" / "data").exists()


def test_undo_touches_neither_a_begun_purge_nor_another_owner(tmp_path: Path, root: DirectoryRoot) -> None:
    (tmp_path / DELETING.name).mkdir()
    (tmp_path / Sibling("claimed", OTHER, "task_1").name).mkdir()
    assert not root.undo("task_1", OWNER)
    assert len(names(tmp_path)) == 2


# --- beginning a purge --------------------------------------------------------------------------------------------


def test_begin_purge_marks_the_sibling_once(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    root.claim("task_1", OWNER)
    assert root.begin_purge(CLAIMED) == DELETING
    assert root.begin_purge(CLAIMED) == DELETING
    assert root.begin_purge(DELETING) == DELETING
    assert names(tmp_path) == {DELETING.name}


def test_begin_purge_of_an_absent_sibling_does_nothing(tmp_path: Path, root: DirectoryRoot) -> None:
    assert root.begin_purge(CLAIMED) == CLAIMED
    assert root.begin_purge(DELETING) == DELETING
    assert names(tmp_path) == set()


def test_begin_purge_never_replaces_an_earlier_one(tmp_path: Path, root: DirectoryRoot) -> None:
    (tmp_path / CLAIMED.name).mkdir()
    (tmp_path / DELETING.name).mkdir()
    with pytest.raises(Fault) as caught:
        root.begin_purge(CLAIMED)
    assert (caught.value.kind, caught.value.reason) == ("retriable", reasons.BUSY)
    assert names(tmp_path) == {CLAIMED.name, DELETING.name}


def test_a_sync_that_fails_is_retriable(root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(Fault) as caught:
        root.sync()
    assert (caught.value.kind, caught.value.reason) == ("retriable", reasons.IO_ERROR)


def test_nothing_is_deleted_before_the_rename_is_synced(
    tmp_path: Path, root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    make_task(tmp_path)
    root.claim("task_1", OWNER)
    monkeypatch.setattr(os, "fsync", fail)
    purged, fault = root.purge(CLAIMED, never_halt)
    assert purged.files == 0
    assert fault is not None
    assert fault.reason == reasons.IO_ERROR
    assert (tmp_path / DELETING.name / "sub" / "data").exists()


# --- the probe ----------------------------------------------------------------------------------------------------


def test_the_probe_of_a_good_root_finds_nothing_and_leaves_nothing(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    assert root.probe() is None
    assert names(tmp_path) == {"task_1"}


def test_a_probe_that_fails_half_way_leaves_nothing(
    tmp_path: Path, root: DirectoryRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: int, old: str, new: str) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("taskdeletion.backends.directory.checks.rename_noreplace", refuse)
    problem = root.probe()
    assert problem is not None
    assert problem.reason == reasons.IO_ERROR
    assert names(tmp_path) == set()


def test_a_plain_directory_and_an_absent_one_are_purgeable(tmp_path: Path, root: DirectoryRoot) -> None:
    make_task(tmp_path)
    assert root.check_purgeable("task_1") is None
    assert root.check_purgeable("task_2") is None
