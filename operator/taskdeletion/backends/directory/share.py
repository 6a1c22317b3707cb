"""A share of a purge: what one of several processes, which have the same tree before them, removes of it.

Called by `DirectoryRoot`. At one level of the tree each entry belongs to one process, by the hash of its path; above it
entries that are no directories do, too. Directories above that level are left to the purge that follows all shares.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate
from typing import Any, Final

from taskdeletion.backends.directory.linux import DIRECTORY, open_beneath
from taskdeletion.backends.directory.walk import Directory, Walk
from taskdeletion.domain.results import Halt

_LEVELS: Final = 4


@dataclass(frozen=True, slots=True)
class Share:
    """The part of process `index` of `of`. `level`: of the entries that are shared out; 1: directly in the sibling."""

    index: int
    of: int
    level: int

    def has(self, path: str) -> bool:
        """Whether the entry at this path, which begins with the sibling, is of this part."""
        digest = blake2b(path.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest) % self.of == self.index


class ShareWalk(Walk):
    """A purge of a share. `is_absent` afterwards: there was nothing under the name."""

    def __init__(self, root: int, name: str, halt: Halt, share: Share) -> None:
        super().__init__(root, name, halt)
        self._share = share
        self.is_absent = False

    def could_not_enter(self, parent: Directory, name: str, error: OSError) -> None:
        """What follows from the error of an open. A sibling that is a file is left to the purge that follows."""
        if parent is not self.top:
            super().could_not_enter(parent, name, error)
        elif isinstance(error, FileNotFoundError):
            self.is_absent = True
        elif not isinstance(error, NotADirectoryError):
            super().could_not_enter(parent, name, error)

    def empty(self, directory: Directory) -> Iterator[list[str]]:
        """Remove what is of this share; see Walk."""
        level = _level_of(directory) + 1
        for names in super().empty(directory):
            if level == self._share.level:
                yield [name for name in names if self._is_mine(directory, name)]
            else:
                yield names

    def _remove(self, directory: Directory, names: Any) -> Iterator[list[str]]:
        if _level_of(directory) < self._share.level:
            names = self.entries.select(names, lambda name: self._is_mine(directory, name))
        return super()._remove(directory, names)

    def leave(self, parent: Directory, directory: Directory) -> bool:
        """Directories above the level stay for the others."""
        if _level_of(directory) >= self._share.level:
            return super().leave(parent, directory)
        if directory.failed:
            parent.failed = True
        return True

    def _confirm(self) -> None:
        """The sibling stays."""

    def _is_mine(self, directory: Directory, name: str) -> bool:
        return self._share.has("/".join([*_path_of(directory), name]))


def _level_of(directory: Directory) -> int:
    """0: the sibling itself."""
    return len(_path_of(directory)) - 1


def _path_of(directory: Directory) -> list[str]:
    """The names from the sibling down. The top of a walk, which is the root, has none."""
    names: list[str] = []
    current: Directory | None = directory
    while current is not None and current.parent is not None:
        names.append(current.name)
        current = current.parent
    return names[::-1]


def find_level(root: int, names: Sequence[str], enough: int) -> int:
    """The first level below these names of the open directory `root` that has `enough` entries; 0: none of four has.

    What cannot be looked at has none: the purge says why.
    """
    for level in range(1, _LEVELS + 1):
        counts = (_count(root, name, level) for name in names)
        if any(total >= enough for total in accumulate(counts)):
            return level
    return 0


def _count(parent: int, name: str, level: int) -> int:
    """The entries so many levels below the directory `name` of the open `parent`."""
    count = 0
    with suppress(OSError):
        descriptor = open_beneath(parent, name, DIRECTORY)
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if level == 1:
                        count += 1
                    elif entry.is_dir(follow_symlinks=False):
                        count += _count(descriptor, entry.name, level - 1)
        finally:
            os.close(descriptor)
    return count
