"""The same walk with every effect taken out: what a purge would remove, and what would stop it.

Called by `DirectoryRoot.measure`. Changes nothing, permissions included.
"""

import errno
import os
from collections import Counter

from taskdeletion.backends.directory.crew import Identity
from taskdeletion.backends.directory.entries import Batch
from taskdeletion.backends.directory.faults import fault_from
from taskdeletion.backends.directory.walk import Directory, Walk
from taskdeletion.domain.results import Halt


class Measure(Walk):
    """A walk that only looks."""

    unlink = False

    def __init__(self, root: int, name: str, halt: Halt) -> None:
        super().__init__(root, name, halt)
        self._links: Counter[Identity] = Counter()

    def _open_unreadable(self, parent: Directory, name: str) -> int:  # noqa: ARG002 - the purge needs them
        raise _denied()

    def _prepare(self, directory: Directory, found: os.stat_result) -> None:
        may_write = os.access(".", os.W_OK | os.X_OK, dir_fd=directory.descriptor, effective_ids=True)
        directory.writable = may_write or found.st_uid == os.geteuid()

    def _account(self, directory: Directory, batch: Batch) -> None:
        if not directory.writable:
            for _ in range(batch.files):
                self.fail(directory, fault_from(_denied(), "an entry cannot be deleted"))
            batch = batch._replace(files=0, bytes=0)
        super()._account(directory, batch)

    def _remove_alone(self, directory: Directory, name: str) -> None:
        """A file whose every link lies in the tree frees its bytes with the last of them."""
        try:
            found = os.stat(name, dir_fd=directory.descriptor, follow_symlinks=False)
            if not directory.writable:
                raise _denied()
        except OSError as error:
            self._could_not_remove(directory, name, error)
            return
        inode = found.st_dev, found.st_ino
        with self._lock:
            self._links[inode] += 1
            is_last = self._links[inode] == found.st_nlink
        self._count(1, found.st_size if is_last else 0)

    def _rmdir(self, parent: Directory, name: str) -> None:
        """A purge removes the empty directory here."""

    def _confirm(self) -> None:
        """A purge looks whether the name is gone here."""


def _denied() -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))
