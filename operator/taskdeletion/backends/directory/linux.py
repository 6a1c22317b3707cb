"""The system calls that Python's `os` lacks, each for one name of an open directory.

Called by the other files of this package. Follows no symbolic link and crosses no mount; raises plain OSError and
knows nothing of tasks.
"""

import ctypes
import errno
import os
from functools import cache
from typing import Final

#: How a directory is opened for listing. O_NONBLOCK: a name that turned into a FIFO must not block the open.
DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: How a name is held without opening what it stands for.
HANDLE: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_OPENAT2: Final = 437  # the same number on every architecture
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x01, 0x02, 0x04, 0x08
_RENAME_NOREPLACE: Final = 1


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_beneath(directory: int, name: str, flags: int) -> int:
    """Open one name of an open directory, neither through a symbolic link nor onto another mount.

    OSError says why not: EXDEV where `name` is a mount point, ELOOP or ENOTDIR where it is a link or no directory.
    """
    if "/" in name or name in ("", ".", ".."):
        raise ValueError("not the name of a directory entry")
    if has_openat2():
        return _openat2(directory, name, flags)
    return _open_and_compare(directory, name, flags)


@cache
def has_openat2() -> bool:
    """Whether the kernel has openat2 (5.6) and the sandbox allows it."""
    directory = os.open("/", HANDLE)
    try:
        os.close(_openat2(directory, ".", HANDLE))
    except OSError as error:
        return error.errno not in (errno.ENOSYS, errno.EPERM)
    finally:
        os.close(directory)
    return True


def is_mount_point(directory: int, name: str) -> bool:
    """Whether something is mounted on `name`, a bind mount of the same file system included."""
    try:
        os.close(open_beneath(directory, name, HANDLE))
    except OSError as error:
        return error.errno == errno.EXDEV
    return False


def mount_id(descriptor: int) -> int:
    """The id of the mount that an open descriptor lies on. Tells bind mounts apart, which st_dev does not."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(b"mnt_id:"))
    except (FileNotFoundError, StopIteration) as error:
        # ENOENT would read as "this entry is gone"
        raise OSError(errno.ENOSYS, "mounts cannot be told apart without /proc") from error


def rename_noreplace(directory: int, old: str, new: str) -> None:
    """Rename within one open directory; FileExistsError where `new` is there already."""
    if _renameat2(directory, old, new):
        return
    # NFS and old kernels cannot refuse to replace: look first
    if _exists(directory, new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def _renameat2(directory: int, old: str, new: str) -> bool:
    """False where the flag is not available, which EINVAL, ENOSYS and a sandbox's EPERM say."""
    if not hasattr(_LIBC, "renameat2"):
        return False
    if _LIBC.renameat2(directory, os.fsencode(old), directory, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number))


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@cache
def _how(flags: int) -> _OpenHow:
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS
    return _OpenHow(flags, 0, resolve)


def _openat2(directory: int, name: str, flags: int) -> int:
    how = _how(flags)
    while True:
        result: int = _LIBC.syscall(_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def _open_and_compare(directory: int, name: str, flags: int) -> int:
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        _require_same_mount(descriptor, directory)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _require_same_mount(one: int, other: int) -> None:
    if mount_id(one) != mount_id(other):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
