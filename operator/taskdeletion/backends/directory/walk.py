"""Empties, or only measures, everything under one name of a root: the same walk for both, by descriptor.

Called by `DirectoryRoot`. Iterative, with few descriptors and a streamed listing; one entry that fails never stops
the rest. Follows no symbolic link, enters no mount, opens nothing but directories, starts no thread.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from taskdeletion.api import reasons
from taskdeletion.backends.directory.faults import fault_from, mount_inside
from taskdeletion.backends.directory.linux import DIRECTORY, HANDLE, is_mount_point, open_beneath
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.results import Halt

_UNLINKS_PER_HALT = 256
_NAMES_PER_SORT = 8192
_OPEN_LEVELS = 32
_ROUNDS = 5
_SEVERITY: dict[FaultKind, int] = {"waiting": 0, "retriable": 1, "permanent": 2}
_NOT_EMPTY = (errno.ENOTEMPTY, errno.EEXIST)
_NO_DIRECTORY = (errno.ENOTDIR, errno.ELOOP)


@dataclass(frozen=True, slots=True)
class Purged:
    """What one purge removed, or one measure found.

    `files`: non-directories. `bytes`: st_size of those whose last link went; a file with another hard link counts
    as a file and frees 0 bytes.
    """

    files: int
    bytes: int


@dataclass(slots=True)
class _Level:
    """A directory between the root and where the walk is. `descriptor`: -1 while closed to save descriptors."""

    name: str
    descriptor: int
    identity: tuple[int, int] = (0, 0)
    writable: bool = True
    children: list[str] = field(default_factory=list)
    rounds: int = 0
    begun: bool = False
    failed: bool = False

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Purge:
    """Removes everything under `name` of the open directory `root`. One object per run."""

    def __init__(self, root: int, name: str, halt: Halt) -> None:
        # Its own descriptor: closing the root in another thread must never hand the number to another directory.
        self._top = _Level("", os.dup(root), children=[name])
        self._name = name
        self._halt = halt
        self._levels = [self._top]
        self._files = 0
        self._bytes = 0
        self._failures = 0
        self._worst: Fault | None = None

    def run(self) -> tuple[Purged, Fault | None]:
        """Counts, and the fault that stopped it, or else the most severe of those met, or None."""
        try:
            self._walk()
            self._confirm()
        except Fault as fault:
            return Purged(self._files, self._bytes), fault
        finally:
            for level in self._levels:
                level.close()
        return Purged(self._files, self._bytes), self._summed_up()

    def _walk(self) -> None:
        while True:
            level = self._levels[-1]
            if level.children:
                self._enter(level, level.children.pop())
            elif level is self._top:
                return
            else:
                self._leave(level, self._levels[-2])

    # --- going down ---------------------------------------------------------------------------------------------

    def _enter(self, parent: _Level, name: str) -> None:
        self._ask_halt()
        try:
            level = self._open(parent, name)
        except OSError as error:
            self._could_not_enter(parent, name, error)
            return
        self._levels.append(level)
        self._spare_descriptors()
        self._list(level)

    def _open(self, parent: _Level, name: str) -> _Level:
        try:
            descriptor = open_beneath(parent.descriptor, name, DIRECTORY)
        except PermissionError:
            descriptor = self._open_unreadable(parent, name)
        level = _Level(name, descriptor)
        found = os.fstat(descriptor)
        level.identity = found.st_dev, found.st_ino
        self._prepare(level, found)
        return level

    def _open_unreadable(self, parent: _Level, name: str) -> int:
        """A directory of our own without permissions is opened by giving them back, on the inode that we hold."""
        handle = open_beneath(parent.descriptor, name, HANDLE | os.O_DIRECTORY)
        try:
            found = os.fstat(handle)
            if found.st_uid == os.geteuid():
                os.chmod(f"/proc/self/fd/{handle}", found.st_mode & 0o7777 | 0o700)
            return os.open(".", DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)

    def _prepare(self, level: _Level, found: os.stat_result) -> None:
        if found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
            with suppress(OSError):  # what it forbids is reported where it fails
                os.fchmod(level.descriptor, found.st_mode & 0o7777 | 0o700)

    def _could_not_enter(self, parent: _Level, name: str, error: OSError) -> None:
        if error.errno in _NO_DIRECTORY:
            self._remove_swapped(parent, name)
        elif error.errno == errno.EXDEV:
            self._fail(parent, mount_inside())
        elif error.errno != errno.ENOENT:
            self._fail(parent, fault_from(error, "a directory cannot be opened"))

    def _spare_descriptors(self) -> None:
        index = len(self._levels) - 1 - _OPEN_LEVELS
        if index > 0:
            self._levels[index].close()

    # --- one directory ------------------------------------------------------------------------------------------

    def _list(self, level: _Level) -> None:
        """Remove what is no directory while listing, remember the directories."""
        level.rounds += 1
        with self._failing(level, "a directory cannot be listed"), os.scandir(level.descriptor) as entries:
            while chunk := list(islice(entries, _NAMES_PER_SORT)):
                if len(chunk) == _NAMES_PER_SORT:
                    chunk.sort(key=os.DirEntry.inode)  # big directories: the disk's order, not the hash's
                for start in range(0, len(chunk), _UNLINKS_PER_HALT):
                    if start or level.begun:
                        self._ask_halt()
                    self._take(level, chunk[start : start + _UNLINKS_PER_HALT])
                level.begun = True

    def _take(self, level: _Level, entries: list[os.DirEntry[str]]) -> None:
        unlink = self._unlinker(level)
        for entry in entries:  # the one hot loop: no call in it that is not needed
            try:
                if entry.is_dir(follow_symlinks=False):
                    level.children.append(entry.name)
                    continue
                found = entry.stat(follow_symlinks=False)
                unlink(entry.name)
                self._files += 1
                if found.st_nlink == 1 or self._is_last_link(found):
                    self._bytes += found.st_size
            except OSError as error:
                self._could_not_remove(level, entry.name, error)

    def _remove_swapped(self, level: _Level, name: str) -> None:
        """What was a directory a moment ago is something else now: it goes too, unfollowed."""
        try:
            found = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
            self._unlinker(level)(name)
            self._files += 1
            self._bytes += found.st_size if found.st_nlink == 1 else 0
        except OSError as error:
            self._could_not_remove(level, name, error)

    def _could_not_remove(self, level: _Level, name: str, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.EISDIR):
            return  # someone else was faster, or swapped it: the next round sees what it is now
        if error.errno != errno.EBUSY:
            self._fail(level, fault_from(error, "an entry cannot be deleted"))
        elif is_mount_point(level.descriptor, name):
            self._fail(level, mount_inside())
        elif name.startswith(".nfs"):
            self._keep_leftover(level, name)
        else:
            self._fail(level, fault_from(error, "an entry is in use"))

    def _keep_leftover(self, level: _Level, name: str) -> None:
        """An open file that an NFS client only renamed. One that came up after our unlinks was counted by them."""
        if level.begun:
            with suppress(OSError):
                found = os.stat(name, dir_fd=level.descriptor, follow_symlinks=False)
                self._files = max(0, self._files - 1)
                self._bytes = max(0, self._bytes - (found.st_size if found.st_nlink == 1 else 0))
        message = "a deleted file is still open on an NFS client"
        self._fail(level, Fault("retriable", reasons.NFS_LEFTOVERS, message))

    def _unlinker(self, level: _Level) -> Callable[[str], None]:
        return partial(os.unlink, dir_fd=level.descriptor)

    def _is_last_link(self, found: os.stat_result) -> bool:  # noqa: ARG002 - the measure needs it
        return False

    # --- going up -----------------------------------------------------------------------------------------------

    def _leave(self, level: _Level, parent: _Level) -> None:
        self._reopen(parent, level)
        if level.failed:
            parent.failed = True
        else:
            try:
                self._rmdir(parent, level.name)
            except OSError as error:
                if error.errno in _NOT_EMPTY and level.rounds < _ROUNDS:
                    self._list(level)
                    return
                self._could_not_leave(parent, level.name, error)
        level.close()
        self._levels.pop()

    def _rmdir(self, parent: _Level, name: str) -> None:
        os.rmdir(name, dir_fd=parent.descriptor)

    def _reopen(self, parent: _Level, level: _Level) -> None:
        """Back to a parent that was closed: '..' counts only while it is the directory that we came from."""
        if parent.descriptor >= 0:
            return
        try:
            descriptor = os.open("..", DIRECTORY, dir_fd=level.descriptor)
        except OSError as error:
            raise fault_from(error, "the way back from a deep directory is gone") from error
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != parent.identity:
            os.close(descriptor)
            raise Fault("retriable", reasons.STILL_WRITTEN, "a directory was moved away while it was being deleted")
        parent.descriptor = descriptor

    def _could_not_leave(self, parent: _Level, name: str, error: OSError) -> None:
        if error.errno in _NO_DIRECTORY:
            self._remove_swapped(parent, name)
        elif error.errno in _NOT_EMPTY:
            self._fail(parent, _still_written())
        elif error.errno != errno.ENOENT:
            self._fail(parent, fault_from(error, "a directory cannot be removed"))

    # --- the outcome --------------------------------------------------------------------------------------------

    def _confirm(self) -> None:
        """No fault is a promise that the name is gone: look."""
        if self._failures:
            return
        try:
            os.stat(self._name, dir_fd=self._top.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise fault_from(error, "the directory cannot be looked at") from error
        self._fail(self._top, _still_written())

    def _ask_halt(self) -> None:
        if fault := self._halt():
            raise fault

    @contextmanager
    def _failing(self, level: _Level, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # removed by someone else while it is open
        except OSError as error:
            self._fail(level, fault_from(error, action))

    def _fail(self, level: _Level, fault: Fault) -> None:
        level.failed = True
        self._failures += 1
        if self._worst is None or _SEVERITY[fault.kind] > _SEVERITY[self._worst.kind]:
            self._worst = fault

    def _summed_up(self) -> Fault | None:
        if self._worst is None:
            return None
        entries = "1 entry" if self._failures == 1 else f"{self._failures} entries"
        message = f"{self._worst.message} ({entries} could not be deleted)"
        return Fault(self._worst.kind, self._worst.reason, message)


class Measure(Purge):
    """The same walk with every effect taken out: what a purge would remove, and what would stop it."""

    def __init__(self, root: int, name: str, halt: Halt) -> None:
        super().__init__(root, name, halt)
        self._links: Counter[tuple[int, int]] = Counter()

    def _open_unreadable(self, parent: _Level, name: str) -> int:  # noqa: ARG002 - the purge needs them
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _prepare(self, level: _Level, found: os.stat_result) -> None:
        may_write = os.access(".", os.W_OK | os.X_OK, dir_fd=level.descriptor, effective_ids=True)
        level.writable = may_write or found.st_uid == os.geteuid()

    def _unlinker(self, level: _Level) -> Callable[[str], None]:
        return _would_unlink if level.writable else _would_be_denied

    def _is_last_link(self, found: os.stat_result) -> bool:
        """A file whose every link lies in the tree frees its bytes with the last of them."""
        inode = found.st_dev, found.st_ino
        self._links[inode] += 1
        return self._links[inode] == found.st_nlink

    def _rmdir(self, parent: _Level, name: str) -> None:
        """A purge removes the empty directory here."""

    def _confirm(self) -> None:
        """A purge looks whether the name is gone here."""


def _would_unlink(name: str) -> None:
    """A purge unlinks the entry here."""


def _would_be_denied(name: str) -> None:  # noqa: ARG001 - stands in for unlink
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _still_written() -> Fault:
    return Fault("retriable", reasons.STILL_WRITTEN, "something keeps writing into the directory")
