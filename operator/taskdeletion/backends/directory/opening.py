"""Finds a store's root beneath its volume and opens it; what is not there or not safe is a waiting Fault.

Called by `DirectoryRoot.open`. Resolves name by name on descriptors, so that nothing swapped in between is followed.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taskdeletion.api import reasons
from taskdeletion.backends.directory.linux import DIRECTORY, HANDLE, mount_id, open_beneath
from taskdeletion.domain.faults import Fault


def open_store_root(volume: Path, sub_path: str, *, require_mount: bool) -> int:
    """A descriptor of `<volume>/<sub_path>`, open for listing. Raises Fault, always `waiting`."""
    names = _names(sub_path)
    with _volume_faults():
        descriptor = os.open(volume, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if require_mount:
            _require_mount(descriptor)
        with _root_faults():
            return _descend(descriptor, names)
    finally:
        os.close(descriptor)


def _names(sub_path: str) -> list[str]:
    names = [name for name in sub_path.split("/") if name not in ("", ".")]
    if sub_path.startswith("/") or ".." in names:
        raise _unsafe()
    return names


def _descend(volume: int, names: list[str]) -> int:
    current = os.dup(volume)
    try:
        for name in names:
            deeper = open_beneath(current, name, HANDLE | os.O_DIRECTORY)
            os.close(current)
            current = deeper
        return os.open(".", DIRECTORY, dir_fd=current)
    finally:
        os.close(current)


def _require_mount(volume: int) -> None:
    """The parent of a mount's root lies on another mount; st_dev would miss a bind mount of the same disk."""
    with _volume_faults():
        parent = os.open("..", HANDLE | os.O_DIRECTORY, dir_fd=volume)
        try:
            if mount_id(parent) == mount_id(volume) and not os.path.sameopenfile(parent, volume):
                raise _not_mounted()
        finally:
            os.close(parent)


@contextmanager
def _volume_faults() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_mounted() from error
    except OSError as error:
        raise _unreachable(error, "the volume") from error


@contextmanager
def _root_faults() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise root_missing() from error
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
            raise _unsafe() from error
        raise _unreachable(error, "the store's folder") from error


def root_missing() -> Fault:
    """The Fault for a root that is not there: an error, never "already absent"."""
    return Fault("waiting", reasons.STORE_ROOT_MISSING, "the store's folder does not exist on its volume; create it")


def _not_mounted() -> Fault:
    return Fault("waiting", reasons.VOLUME_NOT_MOUNTED, "the store's volume is not mounted here")


def _unsafe() -> Fault:
    message = "the store's folder is no plain directory of its volume: its path holds a link, '..', a mount or a file"
    return Fault("waiting", reasons.STORE_ROOT_UNSAFE, message)


def _unreachable(error: OSError, what: str) -> Fault:
    denied = error.errno in (errno.EACCES, errno.EPERM)
    reason = reasons.PERMISSION_DENIED if denied else reasons.UNAVAILABLE
    return Fault("waiting", reason, f"{what} cannot be opened: {os.strerror(error.errno or errno.EIO)}")
