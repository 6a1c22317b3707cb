"""The directory backend among mounts, foreign owners and missing permissions, each in a child process of its own."""

import ctypes
import errno
import os
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged, linux
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
SIBLING = Sibling("deleting", OWNER, "task_1")
NOBODY = 65534
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 0x4000, 1 << 18
PR_SET_DUMPABLE = 4


# --- children -----------------------------------------------------------------------------------------------------


def error_in_child(check: Callable[[], None]) -> str:
    """Run `check` in a forked child; the traceback of what it raised, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            check()
        except BaseException:  # noqa: BLE001 - it is passed on, and the child must end here
            os.write(writer, traceback.format_exc().encode(errors="replace"))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # a changed uid hides /proc/self; a process started as nobody sees it


def as_nobody(check: Callable[[], None]) -> None:
    def run() -> None:
        become_nobody()
        check()

    assert error_in_child(run) == ""


def own_mounts() -> None:
    if LIBC.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount(None, "/", None, MS_REC | MS_PRIVATE)


def mount(
    source: Path | None, target: Path | str, kind: str | None = None, flags: int = MS_BIND, data: str = ""
) -> None:
    encoded = [None if value is None else os.fsencode(value) for value in (source, target, kind)]
    if LIBC.mount(*encoded, ctypes.c_ulong(flags), data.encode() or None) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def with_mounts(check: Callable[[], None]) -> None:
    """`check` opens the root itself: a descriptor from before would not see the new mounts."""

    def run() -> None:
        own_mounts()
        check()

    assert error_in_child(run) == ""


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make files of another owner")
needs_mounts = pytest.mark.skipif(error_in_child(own_mounts) != "", reason="this machine allows no mounts of our own")


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume").chmod(0o777)
    return tmp_path / "volume"


@pytest.fixture
def root(volume: Path) -> Iterator[DirectoryRoot]:
    """Opened before the child changes its user: nobody may not walk down to a temporary directory."""
    with DirectoryRoot.open(volume, ".", require_mount=False) as opened:
        yield opened


def make_tree(at: Path, *, owner: int = NOBODY, mode: int = 0o755) -> Path:
    at.mkdir(parents=True)
    (at / "data").write_bytes(b"12345")
    os.chown(at, owner, owner)
    at.chmod(mode)
    return at


def fault_of(fault: Fault | None) -> tuple[str, str]:
    assert fault is not None
    return fault.kind, fault.reason


DENIED = ("permanent", reasons.PERMISSION_DENIED)
MOUNTED = ("permanent", reasons.MOUNT_INSIDE)
READ_ONLY = ("permanent", reasons.READ_ONLY)


# --- owners and permissions ---------------------------------------------------------------------------------------


@needs_root
def test_a_foreign_subdirectory_is_denied_and_the_rest_goes(volume: Path, root: DirectoryRoot) -> None:
    sibling = make_tree(volume / SIBLING.name)
    make_tree(sibling / "ours")
    make_tree(sibling / "foreign", owner=0)
    make_tree(sibling / "foreign" / "ours")
    (sibling / "ours" / "data").chmod(0o000)

    def check() -> None:
        expected = Purged(files=3, bytes=15)
        for purged, fault in (root.measure(SIBLING, never_halt), root.purge(SIBLING, never_halt)):
            assert purged == expected
            assert fault_of(fault) == DENIED
            assert fault is not None
            assert "foreign" not in fault.message

    as_nobody(check)
    assert sorted(path.name for path in sibling.rglob("*")) == ["data", "foreign", "ours"]


@needs_root
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o400, 0o500, 0o300])
def test_directories_of_our_own_without_permissions_go(volume: Path, root: DirectoryRoot, mode: int) -> None:
    sibling = make_tree(volume / SIBLING.name)
    make_tree(sibling / "locked" / "inner", mode=mode)
    for path in (sibling / "locked", sibling):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(mode)

    def check() -> None:
        assert root.check_purgeable("task_1") is None
        assert root.purge(SIBLING, never_halt) == (Purged(files=2, bytes=10), None)

    as_nobody(check)
    assert list(volume.iterdir()) == []


@needs_root
def test_a_measure_never_changes_permissions(volume: Path, root: DirectoryRoot) -> None:
    sibling = make_tree(volume / SIBLING.name)
    make_tree(sibling / "locked", mode=0o000)

    def check() -> None:
        purged, fault = root.measure(SIBLING, never_halt)
        assert purged == Purged(files=1, bytes=5)
        assert fault_of(fault) == DENIED

    as_nobody(check)
    assert (sibling / "locked").stat().st_mode & 0o777 == 0


@needs_root
def test_a_foreign_unreadable_directory_stays_and_keeps_its_mode(volume: Path, root: DirectoryRoot) -> None:
    sibling = make_tree(volume / SIBLING.name)
    make_tree(sibling / "foreign", owner=0, mode=0o700)

    def check() -> None:
        purged, fault = root.purge(SIBLING, never_halt)
        assert purged == Purged(files=1, bytes=5)
        assert fault_of(fault) == DENIED

    as_nobody(check)
    assert (sibling / "foreign" / "data").exists()
    assert (sibling / "foreign").stat().st_mode & 0o777 == 0o700


@needs_root
@pytest.mark.parametrize(
    ("owner", "mode", "root_mode", "expected"),
    [
        pytest.param(0, 0o755, 0o777, DENIED, id="foreign and not writable"),
        pytest.param(0, 0o777, 0o777, None, id="foreign and writable"),
        pytest.param(NOBODY, 0o000, 0o777, None, id="our own without permissions"),
        pytest.param(NOBODY, 0o755, 0o755, DENIED, id="root not writable"),
        pytest.param(NOBODY, 0o755, 0o1777, None, id="sticky root, our own"),
        pytest.param(0, 0o777, 0o1777, DENIED, id="sticky root, foreign"),
    ],
)
def test_whether_a_directory_may_go_is_known_before_the_claim(
    volume: Path, root: DirectoryRoot, owner: int, mode: int, root_mode: int, expected: tuple[str, str] | None
) -> None:
    make_tree(volume / "task_1", owner=owner, mode=mode)
    volume.chmod(root_mode)

    def check() -> None:
        fault = root.check_purgeable("task_1")
        assert (fault and fault_of(fault)) == expected

    as_nobody(check)
    assert [path.name for path in volume.iterdir()] == ["task_1"]


@needs_root
def test_root_may_purge_what_belongs_to_others(volume: Path, root: DirectoryRoot) -> None:
    make_tree(volume / "task_1", mode=0o000)
    volume.chmod(0o1755)
    assert root.check_purgeable("task_1") is None


@needs_root
def test_a_root_that_is_not_writable_refuses_claim_and_probe(volume: Path, root: DirectoryRoot) -> None:
    make_tree(volume / "task_1")
    volume.chmod(0o755)

    def check() -> None:
        with pytest.raises(Fault) as caught:
            root.claim("task_1", OWNER)
        assert fault_of(caught.value) == DENIED
        problem = root.probe()
        assert problem is not None
        assert problem.reason == reasons.PERMISSION_DENIED

    as_nobody(check)
    assert [path.name for path in volume.iterdir()] == ["task_1"]


@needs_root
def test_a_root_that_is_not_readable_is_waited_for(tmp_path: Path) -> None:
    volume = os.open(tmp_path, os.O_PATH)
    tmp_path.chmod(0o755)
    (tmp_path / "data").mkdir(mode=0o700)

    def check() -> None:
        with pytest.raises(Fault) as caught:
            DirectoryRoot.open(Path(f"/proc/self/fd/{volume}"), "data", require_mount=False)
        assert fault_of(caught.value) == ("waiting", reasons.PERMISSION_DENIED)

    as_nobody(check)
    os.close(volume)


# --- mounts -------------------------------------------------------------------------------------------------------


@needs_mounts
@pytest.mark.parametrize("kind", ["bind of the same file system", "tmpfs"])
@pytest.mark.parametrize("openat2", [True, False])
def test_a_mount_inside_is_refused_untouched_and_the_rest_goes(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, kind: str, openat2: bool
) -> None:
    monkeypatch.setattr(linux, "has_openat2", lambda: openat2)
    precious = make_tree(tmp_path / "precious")
    sibling = make_tree(volume / SIBLING.name)
    make_tree(sibling / "other" / "deep")
    inside = sibling / "sub" / "mounted"
    inside.mkdir(parents=True)

    def check() -> None:
        if kind == "tmpfs":
            mount(None, inside, "tmpfs", 0)
            (inside / "data").touch()
        else:
            mount(precious, inside)
        with DirectoryRoot.open(volume, ".", require_mount=False) as root:
            assert fault_of(root.measure(SIBLING, never_halt)[1]) == MOUNTED
            purged, fault = root.purge(SIBLING, never_halt)
        assert purged == Purged(files=2, bytes=10)
        assert fault_of(fault) == MOUNTED
        assert (inside / "data").exists()
        assert os.listdir(sibling) == ["sub"]

    with_mounts(check)
    assert (precious / "data").read_bytes() == b"12345"


@needs_mounts
@pytest.mark.parametrize("openat2", [True, False])
def test_a_file_mounted_on_a_file_is_a_mount_inside(
    tmp_path: Path, volume: Path, monkeypatch: pytest.MonkeyPatch, openat2: bool
) -> None:
    monkeypatch.setattr(linux, "has_openat2", lambda: openat2)
    (tmp_path / "precious").write_text("precious")
    sibling = make_tree(volume / SIBLING.name)

    def check() -> None:
        mount(tmp_path / "precious", sibling / "data")
        with DirectoryRoot.open(volume, ".", require_mount=False) as root:
            assert fault_of(root.purge(SIBLING, never_halt)[1]) == MOUNTED

    with_mounts(check)
    assert (tmp_path / "precious").read_text() == "precious"


@needs_mounts
def test_a_task_that_is_a_mount_point_is_refused_by_check_claim_and_purge(tmp_path: Path, volume: Path) -> None:
    precious = make_tree(tmp_path / "precious")
    for name in ("task_1", SIBLING.name):
        (volume / name).mkdir()

    def check() -> None:
        for name in ("task_1", SIBLING.name):
            mount(precious, volume / name)
        with DirectoryRoot.open(volume, ".", require_mount=False) as root:
            assert fault_of(root.purge(SIBLING, never_halt)[1]) == MOUNTED
            assert fault_of(root.check_purgeable("task_1")) == MOUNTED
            with pytest.raises(Fault) as caught:
                root.claim("task_1", OWNER.replace("1", "8"))
            assert fault_of(caught.value) == MOUNTED

    with_mounts(check)
    assert (precious / "data").exists()


@needs_mounts
def test_a_mount_below_a_task_is_known_before_the_claim(tmp_path: Path) -> None:
    volume = tmp_path / "with blank\tand \\ in it"
    deep = volume / "task_1" / "new\nline"
    deep.mkdir(parents=True)
    (volume / "task_10").mkdir()
    (tmp_path / "source").mkdir()

    def check() -> None:
        mount(tmp_path / "source", deep)
        with DirectoryRoot.open(volume, ".", require_mount=False) as root:
            assert fault_of(root.check_purgeable("task_1")) == MOUNTED
            assert root.check_purgeable("task_10") is None
        with DirectoryRoot.open(volume, "task_1", require_mount=False) as root:
            assert root.check_purgeable("new") is None

    with_mounts(check)


@needs_mounts
def test_a_mounted_volume_opens_and_a_mount_below_it_is_an_unsafe_root(tmp_path: Path, volume: Path) -> None:
    (tmp_path / "disk" / "data").mkdir(parents=True)

    def check() -> None:
        mount(tmp_path / "disk", volume)  # the same disk, as local volumes are
        DirectoryRoot.open(volume, "data").close()
        mount(None, volume / "data", "tmpfs", 0)
        with pytest.raises(Fault) as caught:
            DirectoryRoot.open(volume, "data")
        assert fault_of(caught.value) == ("waiting", reasons.STORE_ROOT_UNSAFE)

    with_mounts(check)


@needs_mounts
def test_a_read_only_volume_is_named_everywhere(volume: Path) -> None:
    make_tree(volume / "task_1")
    make_tree(volume / SIBLING.name)

    def check() -> None:
        mount(volume, volume)
        mount(None, volume, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
        with DirectoryRoot.open(volume, ".") as root:
            assert fault_of(root.check_purgeable("task_1")) == READ_ONLY
            with pytest.raises(Fault) as caught:
                root.claim("task_1", OWNER.replace("1", "8"))
            assert fault_of(caught.value) == READ_ONLY
            assert fault_of(root.purge(SIBLING, never_halt)[1]) == READ_ONLY
            problem = root.probe()
            assert problem is not None
            assert problem.reason == reasons.READ_ONLY

    with_mounts(check)
    assert (volume / SIBLING.name / "data").exists()


@needs_mounts
def test_a_full_volume_is_an_io_error_of_the_probe(volume: Path) -> None:
    def check() -> None:
        mount(None, volume, "tmpfs", 0, "nr_inodes=1")
        with DirectoryRoot.open(volume, ".") as root:
            problem = root.probe()
        assert problem is not None
        assert problem.reason == reasons.IO_ERROR
        assert os.strerror(errno.ENOSPC) in problem.message

    with_mounts(check)


@needs_mounts
def test_an_immutable_directory_is_known_before_the_claim(volume: Path) -> None:
    set_flags, immutable = 0x40086602, 0x10

    def check() -> None:
        import fcntl  # noqa: PLC0415 - only here

        make_tree(volume / "task_1")
        directory = os.open(volume / "task_1", os.O_RDONLY)
        try:
            fcntl.ioctl(directory, set_flags, immutable.to_bytes(8, "little"))
        except OSError:
            return  # a file system without such flags
        try:
            with DirectoryRoot.open(volume, ".", require_mount=False) as root:
                assert fault_of(root.check_purgeable("task_1")) == DENIED
        finally:
            fcntl.ioctl(directory, set_flags, bytes(8))

    with_mounts(check)
