"""What a walk does at each directory: opens it, removes what is in it, removes it; and what all that comes to.

Called by `branches` and `deep`, which decide the order, from several threads. Follows no symbolic link, enters no
mount, opens nothing but directories, starts no thread. One entry that fails never stops the rest.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import Any

from taskdeletion.api import reasons
from taskdeletion.backends.directory import entries
from taskdeletion.backends.directory.crew import Identity, Lane
from taskdeletion.backends.directory.entries import Batch, Entries
from taskdeletion.backends.directory.faults import fault_from, mount_inside
from taskdeletion.backends.directory.linux import DIRECTORY, HANDLE, is_mount_point, open_beneath
from taskdeletion.backends.directory.opening import root_missing
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.results import Halt

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


@dataclass(slots=True, eq=False)
class Directory:
    """A directory that a walk is in. `descriptor`: -1 while closed.

    `children`, `pending`, `leaving`, `has_leaver`: of who decides the order.
    """

    name: str
    descriptor: int
    parent: "Directory | None" = None
    identity: Identity = (0, 0)
    writable: bool = True
    rounds: int = 0
    begun: bool = False
    failed: bool = False
    pending: int = 1
    children: list[str] = field(default_factory=list)
    leaving: "list[Directory]" = field(default_factory=list)
    has_leaver: bool = False
    leftovers: set[str] = field(default_factory=set)

    def close(self) -> None:
        """Give the descriptor back."""
        descriptor, self.descriptor = self.descriptor, -1  # its number may belong to another the moment it is closed
        if descriptor >= 0:
            os.close(descriptor)


LookAhead = Callable[[Directory, Any, int], None]


class Walk:
    """A purge of everything under `name` of the open directory `root`, one directory at a time. One object per run."""

    unlink = True

    def __init__(self, root: int, name: str, halt: Halt, leadership: Leadership = ALONE) -> None:
        # Its own descriptor: closing the root in another thread must never hand the number to another directory.
        self.top = Directory("", os.dup(root))
        self.name = name
        self.entries: Entries[Any] = entries.chosen
        self.stopped: Fault | None = None
        self._halt = halt
        self._leadership = leadership
        self._lock = threading.Lock()
        self._files = 0
        self._bytes = 0
        self._failures = 0
        self._worst: Fault | None = None

    def attend(self, lane: Lane, look_ahead: LookAhead) -> None:
        """Say for which store this is: it is told how quickly operations go, and guards inodes with several links.

        `look_ahead` is called before a batch of unlinks, with the directory, the names and where the batch begins.
        """
        self._lane = lane
        self._look_ahead = look_ahead

    # --- the outcome --------------------------------------------------------------------------------------------

    @property
    def counted(self) -> Purged:
        """What is gone so far. May be asked from any thread while the walk goes on."""
        with self._lock:
            return Purged(self._files, self._bytes)

    def conclude(self) -> tuple[Purged, Fault | None]:
        """Counts, and the fault that stopped it, or else the most severe of those met, or None."""
        if self.stopped is None:
            try:
                self._require_root()
                self._confirm()
            except Fault as fault:
                self.stopped = fault
        return Purged(self._files, self._bytes), self.stopped or self._summed_up()

    def ask_halt(self) -> None:
        """Raises the Fault to stop with, if there is one."""
        if self.stopped is None and (fault := self._halt()):
            self.stopped = fault
        if self.stopped is not None:
            raise self.stopped

    def fail(self, directory: Directory, fault: Fault) -> None:
        """Something in the directory cannot go, so it stays as well."""
        with self._lock:
            directory.failed = True
            self._failures += 1
            if self._worst is None or _SEVERITY[fault.kind] > _SEVERITY[self._worst.kind]:
                self._worst = fault

    def _summed_up(self) -> Fault | None:
        if self._worst is None:
            return None
        count = "1 entry" if self._failures == 1 else f"{self._failures} entries"
        message = f"{self._worst.message} ({count} could not be deleted)"
        return Fault(self._worst.kind, self._worst.reason, message)

    def _require_root(self) -> None:
        """Nothing is absent in a root that is not there itself."""
        if os.fstat(self.top.descriptor).st_nlink == 0:
            raise root_missing()

    def _confirm(self) -> None:
        """No fault is a promise that the name is gone: look."""
        if self._failures:
            return
        try:
            os.stat(self.name, dir_fd=self.top.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return
        except OSError as error:
            raise fault_from(error, "the directory cannot be looked at") from error
        self.fail(self.top, still_written())

    def _count(self, files: int, freed: int) -> None:
        with self._lock:
            self._files = max(0, self._files + files)
            self._bytes = max(0, self._bytes + freed)

    # --- going down ---------------------------------------------------------------------------------------------

    def open(self, parent: Directory, name: str) -> Directory | None:
        """The directory, open; None where it cannot be entered, which has its consequence. OSError: no descriptors."""
        try:
            with self._lane.noting(2):
                return self._open(parent, name)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            self.could_not_enter(parent, name, error)
            return None

    def _open(self, parent: Directory, name: str) -> Directory:
        try:
            descriptor = open_beneath(parent.descriptor, name, DIRECTORY)
        except PermissionError:
            descriptor = self._open_unreadable(parent, name)
        directory = Directory(name, descriptor, parent)
        try:
            found = os.fstat(descriptor)
            directory.identity = found.st_dev, found.st_ino
            self._prepare(directory, found)
        except OSError:
            directory.close()
            raise
        return directory

    def _open_unreadable(self, parent: Directory, name: str) -> int:
        """A directory of our own without permissions is opened by giving them back, on the inode that we hold."""
        handle = open_beneath(parent.descriptor, name, HANDLE | os.O_DIRECTORY)
        try:
            found = os.fstat(handle)
            if found.st_uid == os.geteuid():
                os.chmod(f"/proc/self/fd/{handle}", found.st_mode & 0o7777 | 0o700)
            return os.open(".", DIRECTORY, dir_fd=handle)
        finally:
            os.close(handle)

    def _prepare(self, directory: Directory, found: os.stat_result) -> None:
        if found.st_uid == os.geteuid() and found.st_mode & 0o700 != 0o700:
            with suppress(OSError):  # what it forbids is reported where it fails
                os.fchmod(directory.descriptor, found.st_mode & 0o7777 | 0o700)

    def could_not_enter(self, parent: Directory, name: str, error: OSError) -> None:
        """What follows from the error of an open."""
        if error.errno in _NO_DIRECTORY:
            self._remove_swapped(parent, name)
        elif error.errno == errno.EXDEV:
            self.fail(parent, mount_inside())
        elif error.errno != errno.ENOENT:
            self.fail(parent, fault_from(error, "a directory cannot be opened"))

    # --- one directory ------------------------------------------------------------------------------------------

    def empty(self, directory: Directory) -> Iterator[list[str]]:
        """Remove what is no directory while listing. Yields names of directories, before more is removed: others can
        begin there, and this can go on in another thread."""
        directory.rounds += 1
        with self._failing(directory, "a directory cannot be listed"):
            begun = monotonic_ns()
            for chunk in self.entries.list_chunks(directory.descriptor):
                if not directory.begun:
                    self._lane.note_time(2, monotonic_ns() - begun)
                if chunk.directories:
                    yield chunk.directories
                yield from self._remove(directory, chunk.others)
                directory.begun = True

    def _remove(self, directory: Directory, names: Any) -> Iterator[list[str]]:
        rest: int | None = 0 if names else None
        while rest is not None:
            if rest or directory.begun:
                self.ask_halt()
            if self.unlink:
                self._look_ahead(directory, names, rest)
                self._leadership.require()
            batch = self.entries.remove(directory.descriptor, names, rest, unlink=self.unlink)
            rest = batch.rest
            self._account(directory, batch)
            self._lane.note(batch.looked_at, batch.slow)
            if batch.directories:
                yield batch.directories

    def _account(self, directory: Directory, batch: Batch) -> None:
        self._count(batch.files, batch.bytes)
        for name in batch.linked:
            self._remove_alone(directory, name)
        for name, number in batch.failed:
            self._could_not_remove(directory, name, OSError(number, os.strerror(number)))

    def _remove_alone(self, directory: Directory, name: str) -> None:
        """An entry whose inode has other names: one of them at a time, or nobody would see the last one go."""
        try:
            found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
            with self._lane.lock_inode((found.st_dev, found.st_ino)):
                found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
                os.unlink(name, dir_fd=directory.descriptor)
            self._count(1, found.st_size if found.st_nlink == 1 else 0)
        except OSError as error:
            self._could_not_remove(directory, name, error)

    def _remove_swapped(self, directory: Directory, name: str) -> None:
        """What was a directory a moment ago is something else now: it goes too, unfollowed."""
        self._remove_alone(directory, name)

    def _could_not_remove(self, directory: Directory, name: str, error: OSError) -> None:
        if error.errno in (errno.ENOENT, errno.EISDIR):
            return  # someone else was faster, or swapped it: the next round sees what it is now
        if error.errno != errno.EBUSY:
            self.fail(directory, fault_from(error, "an entry cannot be deleted"))
        elif is_mount_point(directory.descriptor, name):
            self.fail(directory, mount_inside())
        elif name.startswith(".nfs"):
            self._keep_leftover(directory, name)
        else:
            self.fail(directory, fault_from(error, "an entry is in use"))

    def _keep_leftover(self, directory: Directory, name: str) -> None:
        """An open file that an NFS client only renamed. One that came up after our unlinks was counted by them."""
        directory.leftovers.add(name)
        if directory.begun:
            with suppress(OSError):
                found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
                self._count(-1, -found.st_size if found.st_nlink == 1 else 0)
        message = "a deleted file is still open on an NFS client"
        self.fail(directory, Fault("retriable", reasons.NFS_LEFTOVERS, message))

    @contextmanager
    def _failing(self, directory: Directory, action: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            pass  # removed by someone else while it is open
        except OSError as error:
            self.fail(directory, fault_from(error, action))

    # --- going up -----------------------------------------------------------------------------------------------

    def leave(self, parent: Directory, directory: Directory) -> bool:
        """Remove the directory, which was emptied. False: something new is in it, so it has to be emptied again."""
        if directory.failed:
            parent.failed = True
            self._recount_leftovers(directory)
            return True
        try:
            self._rmdir(parent, directory.name)
        except OSError as error:
            if error.errno in _NOT_EMPTY and directory.rounds < _ROUNDS:
                return False
            self._could_not_leave(parent, directory, error)
        return True

    def _recount_leftovers(self, directory: Directory) -> None:
        """A directory that stays is not listed again; what an NFS client only renamed in it was counted as gone."""
        found: list[str] = []
        if self.unlink and directory.begun:
            with suppress(OSError), os.scandir(directory.descriptor) as listed:
                found = [entry.name for entry in listed if entry.name.startswith(".nfs")]
        for name in found:
            if name not in directory.leftovers:
                self._remove_alone(directory, name)

    def _rmdir(self, parent: Directory, name: str) -> None:
        self._leadership.require()
        os.rmdir(name, dir_fd=parent.descriptor)

    def _could_not_leave(self, parent: Directory, directory: Directory, error: OSError) -> None:
        if error.errno in _NO_DIRECTORY:
            self._remove_swapped(parent, directory.name)
        elif error.errno in _NOT_EMPTY:
            self.fail(parent, still_written())
        elif error.errno == errno.EBUSY and is_mount_point(parent.descriptor, directory.name):
            self.fail(parent, mount_inside())
        elif error.errno != errno.ENOENT:
            self.fail(parent, fault_from(error, "a directory cannot be removed"))
        elif _is_elsewhere(directory):
            self.fail(parent, moved_away())


def _is_elsewhere(directory: Directory) -> bool:
    """Whether the directory, which is not under its name any more, still exists."""
    with suppress(OSError):  # a server that has forgotten it
        return os.fstat(directory.descriptor).st_nlink > 0
    return False


def still_written() -> Fault:
    """The Fault for entries that come up again and again."""
    return Fault("retriable", reasons.STILL_WRITTEN, "something keeps writing into the directory")


def moved_away() -> Fault:
    """The Fault for a directory that left the tree while the walk was in it."""
    return Fault("retriable", reasons.STILL_WRITTEN, "a directory was moved away while it was being deleted")
