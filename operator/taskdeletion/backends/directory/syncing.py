"""Makes renames in one directory survive a power cut: threads that renamed meanwhile share one fsync.

Called by `DirectoryRoot`. Raises plain OSError.
"""

import errno
import os
import threading


class Syncing:
    """What was renamed in a directory and what of it is durable. Thread-safe."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self._syncing = threading.Lock()
        self._renamed = 0
        self._durable = 0

    def note_rename(self) -> None:
        """Say that a rename has happened, or may have."""
        with self._counting:
            self._renamed += 1

    def sync(self, descriptor: int) -> None:
        """Make all renames so far durable, those of other processes included."""
        with self._syncing:
            self._sync(descriptor)

    def sync_renames(self, descriptor: int) -> None:
        """Make the renames that were noted so far durable; nothing where somebody else just did."""
        renamed = self._renamed
        if self._durable >= renamed:
            return
        with self._syncing:
            if self._durable < renamed:
                self._sync(descriptor)

    def _sync(self, descriptor: int) -> None:
        renamed = self._renamed  # before: a rename during the fsync may be missed by it
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: this file system has no such thing for directories
                raise
        self._durable = renamed
