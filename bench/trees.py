"""Directory trees of several shapes: made quickly, removed by our engine, and checked to be gone, with exact counts.

Used by `bench.lines.directories` and `bench.throughput`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.machine import file_system_of
from bench.measuring import CannotRunError
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.results import never_halt
from taskdeletion.domain.siblings import Sibling

OWNER: Final = "00000000-0000-0000-0000-000000000001"
_MEMORY: Final = Path("/dev/shm")
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PAGE: Final = 4096


class WorkNotDoneError(Exception):
    """A contestant left something, or counted something else than it removed."""


@dataclass(frozen=True)
class Tree:
    """`files` files with `content` in each of `directories`, which are paths below the top, parents first."""

    directories: Sequence[str]
    files: int
    content: bytes = b"12345"

    @property
    def file_count(self) -> int:
        """Of the whole tree."""
        return len(self.directories) * self.files

    @property
    def byte_count(self) -> int:
        """Of all files, as their sizes say."""
        return self.file_count * len(self.content)

    def make(self, top: Path) -> None:
        """Make it: `top` must not be there, its parent must."""
        top.mkdir()
        for directory in self.directories:
            place = top / directory
            place.mkdir(exist_ok=True)
            _fill(place, self.files, self.content)


def _fill(directory: Path, files: int, content: bytes) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number in range(files):
            file = os.open(f"part-{number:06}", _NEW_FILE, 0o644, dir_fd=descriptor)
            if content:
                os.write(file, content)
            os.close(file)
    finally:
        os.close(descriptor)


def wide(directories: int, files: int) -> Tree:
    """Directories side by side."""
    return Tree([f"step-{number:04}" for number in range(directories)], files)


def chain(depth: int, files: int) -> Tree:
    """Each directory in the one before."""
    return Tree(["/".join(["step"] * level) for level in range(1, depth + 1)], files)


def flat(files: int, content: bytes = b"12345") -> Tree:
    """All files in the top."""
    return Tree(["."], files, content)


def remove_ours(root: DirectoryRoot, task_id: str, tree: Tree) -> float:
    """Seconds of the claim and the purge of one task, whose counts are compared."""
    begun = time.perf_counter()
    root.claim(task_id, OWNER)
    purged, fault = root.purge(Sibling("claimed", OWNER, task_id), never_halt)
    seconds = time.perf_counter() - begun
    if fault is not None or (purged.files, purged.bytes) != (tree.file_count, tree.byte_count):
        raise WorkNotDoneError(f"ours: {purged} of {tree.file_count} files and {tree.byte_count} bytes: {fault}")
    return seconds


def require_empty(place: Path, contestant: str) -> None:
    """WorkNotDoneError where something is left."""
    if left := os.listdir(place):
        raise WorkNotDoneError(f"{contestant} left {len(left)} of what was in the folder")


@contextmanager
def memory_folder(tree: Tree) -> Iterator[Path]:
    """An empty folder on tmpfs with room for the tree. CannotRunError where there is none."""
    if not _MEMORY.is_dir() or file_system_of(_MEMORY) != "tmpfs":
        raise CannotRunError(f"{_MEMORY} is no tmpfs: mount one there")
    found, needed = os.statvfs(_MEMORY), room_needed(tree)
    if found.f_bavail * found.f_frsize < needed.bytes or found.f_favail < needed.inodes:
        raise CannotRunError(f"{_MEMORY} is too small: {needed.bytes >> 20} MiB and {needed.inodes} inodes are needed")
    with _folder(_MEMORY) as folder:
        yield folder


@dataclass(frozen=True)
class Room:
    """What a tree takes on a file system that gives each file whole pages."""

    bytes: int
    inodes: int


def room_needed(tree: Tree) -> Room:
    """What the tree takes on tmpfs, at most."""
    pages = -(-len(tree.content) // _PAGE) * tree.file_count + len(tree.directories)
    return Room(pages * _PAGE, tree.file_count + len(tree.directories) + 1)


@contextmanager
def disk_folder(places: Sequence[Path], kinds: Sequence[str]) -> Iterator[Path]:
    """An empty folder in the first of these places whose file system is of one of the kinds, or CannotRunError."""
    for place in places:
        if place.is_dir() and file_system_of(place) in kinds:
            with _folder(place) as folder:
                yield folder
            return
    raise CannotRunError(f"no folder for temporary files is on {' or '.join(kinds)}: set TMPDIR to one")


@contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="taskdeletion-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
