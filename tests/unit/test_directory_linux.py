"""The system calls of the directory backend, also where the kernel or a sandbox lacks the modern ones."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskdeletion.backends.directory import linux
from taskdeletion.backends.directory.checks import unescape


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture(params=["openat2", "without openat2"])
def _any_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    modern = request.param == "openat2"
    if modern and not linux.has_openat2():
        pytest.skip("this kernel or sandbox has no openat2")
    monkeypatch.setattr(linux, "has_openat2", lambda: modern)


@pytest.mark.usefixtures("_any_kernel")
def test_a_directory_opens(tmp_path: Path, directory: int) -> None:
    (tmp_path / "sub").mkdir()
    opened = linux.open_beneath(directory, "sub", linux.DIRECTORY)
    assert os.path.sameopenfile(opened, os.open(tmp_path / "sub", os.O_RDONLY))
    assert not linux.is_mount_point(directory, "sub")


@pytest.mark.usefixtures("_any_kernel")
@pytest.mark.parametrize("name", ["link", "file", "fifo", "dangling"])
def test_what_is_no_directory_is_refused_without_waiting(tmp_path: Path, directory: int, name: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "link").symlink_to("sub")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked
        linux.open_beneath(directory, name, linux.DIRECTORY)
    assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP)


@pytest.mark.usefixtures("_any_kernel")
def test_another_mount_is_refused() -> None:
    top = os.open("/", os.O_RDONLY)
    assert linux.is_mount_point(top, "proc")
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is checked
        linux.open_beneath(top, "proc", linux.DIRECTORY)
    assert caught.value.errno == errno.EXDEV
    os.close(top)


@pytest.mark.parametrize("name", ["", ".", "..", "link/", "a/b", "/etc"])
def test_only_a_single_name_is_opened(directory: int, name: str) -> None:
    with pytest.raises(ValueError, match="not the name"):
        linux.open_beneath(directory, name, linux.DIRECTORY)


def test_mounts_that_cannot_be_told_apart_are_an_error_and_not_an_absent_entry() -> None:
    with pytest.raises(OSError, match="/proc") as caught:
        linux.mount_id(1_000_000)
    assert caught.value.errno == errno.ENOSYS


@pytest.fixture(params=["renameat2", "without the flag"])
def _any_rename(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without the flag":
        monkeypatch.setattr(linux, "_renameat2", lambda directory, old, new: False)


@pytest.mark.usefixtures("_any_rename")
def test_a_rename_moves(tmp_path: Path, directory: int) -> None:
    (tmp_path / "old").mkdir()
    linux.rename_noreplace(directory, "old", "new")
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.usefixtures("_any_rename")
def test_a_rename_never_replaces(tmp_path: Path, directory: int) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    with pytest.raises(FileExistsError):
        linux.rename_noreplace(directory, "old", "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


@pytest.mark.usefixtures("_any_rename")
def test_a_rename_of_what_is_absent_says_so(directory: int) -> None:
    with pytest.raises(FileNotFoundError):
        linux.rename_noreplace(directory, "old", "new")


@pytest.mark.parametrize(
    ("field", "path"),
    [
        (rb"/plain", b"/plain"),
        (rb"/a\040b", b"/a b"),
        (rb"/tab\011line\012back\134", b"/tab\tline\nback\\"),
        (rb"/\134040", rb"/\040"),
    ],
)
def test_a_path_of_mountinfo_is_read_as_the_kernel_wrote_it(field: bytes, path: bytes) -> None:
    assert unescape(field) == path
