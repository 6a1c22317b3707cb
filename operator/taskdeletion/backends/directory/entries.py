"""The entries of one open directory: listed in chunks, then looked at and unlinked in batches, in two ways alike.

Called by `walk`. `NativeEntries` works without Python's lock, where the helper was built (`_native.c`); `PythonEntries`
anywhere. Both follow no link, remove nothing but non-directories and decide nothing: what is not plain is handed back.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from time import monotonic_ns
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

try:
    from taskdeletion.backends.directory import _native
except ImportError:  # built without a compiler
    HAS_NATIVE = False
else:
    HAS_NATIVE = True

#: From here on an operation counts as slow: it waits for a disk or a server, and others could go on meanwhile.
SLOW_NS: Final = 50_000
_NAMES_PER_CHUNK = 8192
_ENTRIES_PER_BATCH = 256
_BATCH_NS = 100_000_000
_OPERATIONS_PER_ENTRY = 2
_ENTRIES_PER_PIECE = 4
_SORT_FROM = 1024
_END = b"\0"

Names = TypeVar("Names")
Name = TypeVar("Name", bytes, str)


class Chunk(NamedTuple, Generic[Names]):
    """Some entries: the names of directories, and all `others` in a form that only their maker reads."""

    directories: list[str]
    others: Names


class Batch(NamedTuple):
    """What became of some entries. `rest`: where the next batch begins, None at the end of the chunk.

    `looked_at` entries, `slow` of them slowly; `files` of `bytes` are gone (or would be). Left alone: what is a
    directory by now, and what has other hard `linked` names. `failed`: names with the errno.
    """

    rest: int | None
    looked_at: int
    slow: int
    files: int
    bytes: int
    directories: list[str]
    linked: list[str]
    failed: list[tuple[str, int]]


class Entries(Protocol[Names]):
    """One way to do it. `threads`: how many of them gain something on a file system that answers at once."""

    threads: int

    def list_chunks(self, directory: int) -> Iterator[Chunk[Names]]:
        """The entries of the open directory from its beginning, in chunks. OSError where it cannot be listed."""

    def remove(self, directory: int, names: Names, start: int, *, unlink: bool) -> Batch:
        """Unlink, or only look at, the next of the `others` of a chunk: some hundreds, for some milliseconds."""

    def split(self, names: Names, start: int) -> list[Names]:
        """What the next `remove` would go through, in pieces of a few names."""

    def select(self, names: Names, wanted: Callable[[str], bool]) -> Names:
        """Those of the `others` of a chunk whose name is wanted."""


class NativeEntries:
    """By the native helper."""

    threads = 2

    def list_chunks(self, directory: int) -> Iterator[Chunk[bytes]]:
        """See Entries."""
        os.lseek(directory, 0, os.SEEK_SET)
        at_end = False
        while not at_end:
            directories, others, at_end = _native.list_entries(directory, _NAMES_PER_CHUNK, SLOW_NS)
            if directories or others:
                yield Chunk(directories, others)

    def remove(self, directory: int, names: bytes, start: int, *, unlink: bool) -> Batch:
        """See Entries."""
        slow_ns = SLOW_NS * _OPERATIONS_PER_ENTRY
        end, looked_at, slow, files, freed, directories, linked, failed = _native.remove_entries(
            directory, names, start, unlink, _ENTRIES_PER_BATCH, _BATCH_NS, slow_ns
        )
        rest = end if end < len(names) else None
        return Batch(rest, looked_at, slow, files, freed, directories, linked, failed)

    def split(self, names: bytes, start: int) -> list[bytes]:
        """See Entries."""
        batch = names[start:].split(_END, _ENTRIES_PER_BATCH)[:-1]
        return [_END.join(piece) + _END for piece in _pieces(batch)]

    def select(self, names: bytes, wanted: Callable[[str], bool]) -> bytes:
        """See Entries."""
        return b"".join(name + _END for name in names.split(_END)[:-1] if wanted(os.fsdecode(name)))


class PythonEntries:
    """In pure Python."""

    threads = 1

    def list_chunks(self, directory: int) -> Iterator[Chunk[list[str]]]:
        """See Entries."""
        with os.scandir(directory) as entries:
            while chunk := list(islice(entries, _NAMES_PER_CHUNK)):
                if len(chunk) >= _SORT_FROM:
                    chunk.sort(key=os.DirEntry.inode)  # big directories: the disk's order, not the hash's
                directories: list[str] = []
                others: list[str] = []
                for entry in chunk:
                    (directories if _is_directory(entry) else others).append(entry.name)
                yield Chunk(directories, others)

    def remove(self, directory: int, names: list[str], start: int, *, unlink: bool) -> Batch:
        """See Entries."""
        directories: list[str] = []
        linked: list[str] = []
        failed: list[tuple[str, int]] = []
        files = freed = slow = 0
        end = min(start + _ENTRIES_PER_BATCH, len(names))
        begun = before = monotonic_ns()
        index = start
        while index < end and before - begun <= _BATCH_NS:  # the one hot loop: no call in it that is not needed
            name = names[index]
            index += 1
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    directories.append(name)
                elif found.st_nlink != 1:
                    linked.append(name)
                else:
                    if unlink:
                        os.unlink(name, dir_fd=directory)
                    files += 1
                    freed += found.st_size
            except OSError as error:
                failed.append((name, error.errno or 0))
            after = monotonic_ns()
            slow += after - before > SLOW_NS * _OPERATIONS_PER_ENTRY
            before = after
        rest = index if index < len(names) else None
        return Batch(rest, index - start, slow, files, freed, directories, linked, failed)

    def split(self, names: list[str], start: int) -> list[list[str]]:
        """See Entries."""
        return _pieces(names[start : start + _ENTRIES_PER_BATCH])

    def select(self, names: list[str], wanted: Callable[[str], bool]) -> list[str]:
        """See Entries."""
        return [name for name in names if wanted(name)]


def _pieces(batch: list[Name]) -> list[list[Name]]:
    return [batch[index : index + _ENTRIES_PER_PIECE] for index in range(0, len(batch), _ENTRIES_PER_PIECE)]


def _is_directory(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # where a listing has no types and the entry cannot be looked at, its removal says why
        return entry.is_dir(follow_symlinks=False)
    return False


#: How this process does it: natively where it can.
chosen: Entries[Any] = NativeEntries() if HAS_NATIVE else PythonEntries()
