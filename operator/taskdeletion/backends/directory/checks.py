"""Asks, before anything is touched, whether it could be: one task's directory, or the root as a whole.

Called by `DirectoryRoot`. Touches no task; the probe leaves nothing of its own behind.
"""

import fcntl
import os
import re
import secrets
import stat
import struct
from contextlib import suppress

from taskdeletion.api import reasons
from taskdeletion.backends.directory.faults import fault_from, mount_inside
from taskdeletion.backends.directory.linux import DIRECTORY, open_beneath, rename_noreplace
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem

_GET_FLAGS = 0x80086601  # FS_IOC_GETFLAGS on 64-bit x86 and ARM
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_CAP_FOWNER = 3
_OCTAL = re.compile(rb"\\([0-7]{3})")


def find_obstacle(root: int, name: str) -> Fault | None:
    """Why the entry `name` of the open directory `root` could not be renamed and emptied by this process."""
    try:
        entry = os.stat(name, dir_fd=root, follow_symlinks=False)
        if os.fstatvfs(root).f_flag & os.ST_RDONLY:
            return Fault("permanent", reasons.READ_ONLY, "the volume is mounted read-only")
    except FileNotFoundError:
        return None
    except OSError as error:
        return fault_from(error, "the directory cannot be looked at")
    if has_mount(root, name):
        return mount_inside()
    return _find_denial(root, name, entry)


def probe(root: int) -> Problem | None:
    """What keeps this process from listing the open directory, or from creating, renaming and removing in it."""
    try:
        with os.scandir(root) as entries:
            next(entries, None)
        _try_rename(root, f".probe-{secrets.token_hex(8)}")
    except OSError as error:
        fault = fault_from(error, "a trial directory in the store's folder failed")
        return Problem(fault.reason, fault.message)
    return None


def has_mount(root: int, name: str) -> bool:
    """Whether anything is mounted at `name` of the open directory `root` or below it, as far as /proc tells."""
    try:
        path = os.fsencode(os.readlink(f"/proc/self/fd/{root}")).rstrip(b"/") + b"/" + os.fsencode(name)
        with open("/proc/self/mountinfo", "rb") as lines:
            points = [unescape(line.split()[4]) for line in lines]
    except OSError:
        return False  # without /proc the walk still refuses every mount it meets
    return any(point == path or point.startswith(path + b"/") for point in points)


def unescape(field: bytes) -> bytes:
    r"""A path as mountinfo writes it, with `\040` for a blank, as the path itself."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field)


def _find_denial(root: int, name: str, entry: os.stat_result) -> Fault | None:
    parent = os.fstat(root)
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=root, effective_ids=True):
        return _denied("the store's folder is not writable")
    if parent.st_mode & stat.S_ISVTX and not (_is_ours(parent) or _is_ours(entry)):
        return _denied("the store's folder is sticky and the directory belongs to another user")
    if not stat.S_ISDIR(entry.st_mode):
        return None
    needed = os.R_OK | os.W_OK | os.X_OK
    writable = os.access(name, needed, dir_fd=root, effective_ids=True, follow_symlinks=False)
    if not (writable or entry.st_uid == os.geteuid()):
        return _denied("the directory belongs to another user and is not writable")
    if _is_frozen(root) or _is_directory_frozen(root, name):
        return _denied("the directory or the store's folder is marked immutable or append-only")
    return None


def _denied(message: str) -> Fault:
    return Fault("permanent", reasons.PERMISSION_DENIED, message)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() or _acts_as_owner()


def _acts_as_owner() -> bool:
    """Whether this process may do to any file what its owner may: root in a container often lacks that."""
    with suppress(OSError), open("/proc/thread-self/status", "rb") as lines:
        for line in lines:
            if line.startswith(b"CapEff:"):
                return bool(int(line.split()[1], 16) >> _CAP_FOWNER & 1)
    return os.geteuid() == 0


def _is_directory_frozen(root: int, name: str) -> bool:
    try:
        descriptor = open_beneath(root, name, DIRECTORY)
    except OSError:
        return False  # not ours to read: the claim or the purge says so
    try:
        return _is_frozen(descriptor)
    finally:
        os.close(descriptor)


def _is_frozen(descriptor: int) -> bool:
    flags = bytearray(8)
    try:
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    except OSError:
        return False  # most network file systems have no such flags
    return bool(struct.unpack("=q", flags)[0] & (_IMMUTABLE | _APPEND_ONLY))


def _try_rename(root: int, name: str) -> None:
    moved = f"{name}-moved"
    os.mkdir(name, mode=0o700, dir_fd=root)
    try:
        rename_noreplace(root, name, moved)
        os.rmdir(moved, dir_fd=root)
    except OSError:
        for left in (name, moved):
            with suppress(OSError):
                os.rmdir(left, dir_fd=root)
        raise
