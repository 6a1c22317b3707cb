"""A store among what must never change: builds it, purges in it as a chosen user, and compares everything else.

Called by the tests of the directory backend. What lies outside has the very names that lie inside and belongs to the
user who purges: a purge that strays finds something that it could delete.
"""

import ctypes
import itertools
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, never_halt
from taskdeletion.domain.siblings import Sibling
from tests.support.children import CONFINED, LIBC, User, confine, do_nothing, run_as

OWNER: Final = "11111111-2222-3333-4444-555555555555"
STRANGER: Final = "99999999-2222-3333-4444-555555555555"
SIBLING: Final = Sibling("deleting", OWNER, "task_1")
OTHER: Final = Sibling("deleting", OWNER, "task_2")
DIRECTORIES: Final = ("a", "b")
#: What `make_tree` makes of the default depth: 7 directories below the top, each of the 8 with 3 files of 5 bytes.
TREE: Final = Purged(files=24, bytes=120)
_IN_ACCESS, _IN_MODIFY, _IN_ATTRIB, _IN_OPEN, _IN_ALL_EVENTS, _IN_IGNORED = 1, 2, 4, 0x20, 0xFFF, 0x8000
_IN_NONBLOCK = 0o4000

Result = tuple[Purged, Fault | None]


class Entry(NamedTuple):
    """All that can be seen of an entry. `content`: of a file its bytes, of a link its target, else nothing."""

    mode: int
    inode: tuple[int, int]
    owner: tuple[int, int]
    size: int
    modified_ns: int
    links: int
    changed_ns: int
    content: bytes


class Event(NamedTuple):
    """What happened to an entry, in the bits of inotify."""

    mask: int
    path: Path

    @property
    def is_opened(self) -> bool:
        """Whether it was opened, read or written."""
        return bool(self.mask & (_IN_ACCESS | _IN_MODIFY | _IN_OPEN))


def make_tree(at: Path, *, depth: int = 3) -> Path:
    """A tree below `at`: 3 files of 5 bytes in each directory, 2 directories in each but the last of `depth`."""
    at.mkdir(exist_ok=True)
    for number in range(3):
        (at / f"file-{number}").write_bytes(b"12345")
    for name in DIRECTORIES if depth > 1 else ():
        make_tree(at / name, depth=depth - 1)
    if depth == 3:
        make_tree(at / "last", depth=1)
    return at


def snapshot(at: Path, *, without: Collection[Path] = ()) -> dict[str, Entry]:
    """Everything at and below `at` but what lies below `without`; of the folders of those no times and no links."""
    open_folders = {path.parent for path in without}
    found: dict[str, Entry] = {}
    waiting = [at]
    while waiting:
        path = waiting.pop()
        if path in without:
            continue
        entry = _look_at(path)
        found[str(path)] = (
            entry._replace(modified_ns=0, links=0, changed_ns=0, size=0) if path in open_folders else entry
        )
        if stat.S_ISDIR(entry.mode):
            waiting += path.iterdir()
    return found


def entries_of(at: Path) -> Iterator[Path]:
    """`at` and everything below it, through no link. (os.walk follows the one that it is called with.)"""
    waiting = [at]
    while waiting:
        path = waiting.pop()
        yield path
        if stat.S_ISDIR(path.lstat().st_mode):
            waiting += path.iterdir()


def _look_at(path: Path) -> Entry:
    seen = path.lstat()
    content = b""
    if stat.S_ISREG(seen.st_mode):
        content = path.read_bytes()
    elif stat.S_ISLNK(seen.st_mode):
        content = os.fsencode(path.readlink())
    return Entry(
        seen.st_mode,
        (seen.st_dev, seen.st_ino),
        (seen.st_uid, seen.st_gid),
        seen.st_size,
        seen.st_mtime_ns,
        seen.st_nlink,
        seen.st_ctime_ns,
        content,
    )


def differences(
    before: dict[str, Entry], after: dict[str, Entry], *, links: bool = True
) -> dict[str, tuple[Entry | None, Entry | None]]:
    """What was there before and is there after, of each entry that is not the same. `links`: see `without_links`."""
    one, other = (before, after) if links else (without_links(before), without_links(after))
    return {
        name: (one.get(name), other.get(name)) for name in one.keys() | other.keys() if one.get(name) != other.get(name)
    }


def without_links(found: dict[str, Entry]) -> dict[str, Entry]:
    """The same without what the removal of another hard link changes: the number of links, and the time of that."""
    return {name: entry._replace(links=0, changed_ns=0) for name, entry in found.items()}


@dataclass(frozen=True, slots=True)
class Scene:
    """`base/volume/root` is the store's root, with the sibling of task_1 and a harmless one of task_2; `base/outside`
    is outside. Everything belongs to `user`, who purges.
    """

    base: Path
    user: User

    @property
    def volume(self) -> Path:
        """The volume of the store."""
        return self.base / "volume"

    @property
    def root(self) -> Path:
        """The store's root, `root` on the volume."""
        return self.volume / "root"

    @property
    def outside(self) -> Path:
        """A tree with the names of the sibling's, which no purge may touch."""
        return self.base / "outside"

    @property
    def limbo(self) -> Path:
        """A folder, among names of the tree again, for what is moved out of it and in. It may change."""
        return self.base / "between" / "limbo"

    @property
    def sibling(self) -> Path:
        """The directory to purge, of task_1."""
        return self.root / SIBLING.name

    def build(self) -> None:
        """Make everything but the content of the sibling."""
        self.root.mkdir(parents=True)
        self.sibling.mkdir()
        make_tree(self.outside)
        make_tree(self.limbo.parent)
        self.limbo.mkdir()
        make_tree(self.root / OTHER.name)
        for neighbour in ("task_1", "task_10", Sibling("deleting", STRANGER, "task_1").name, "a", ".claimed-a"):
            make_tree(self.root / neighbour, depth=1)
        (self.root / "file-0").write_bytes(b"12345")
        (self.volume / "file-0").write_bytes(b"12345")
        self.hand_over(self.base)

    def hand_over(self, *paths: Path) -> None:
        """Give the trees to the user who purges."""
        if self.user.uid == os.geteuid():
            return
        for path in paths:
            for entry in entries_of(path):
                os.chown(entry, self.user.uid, self.user.uid, follow_symlinks=False)

    # --- purging as the user --------------------------------------------------------------------------------------

    def run(self, action: Callable[[DirectoryRoot], Any], *, prepare: Callable[[], object] = do_nothing) -> Any:
        """What `action` returns of the open root, as the user, in a child that can write in the scene only.

        `prepare` runs before it as the tests do; what it mounts is seen by the child only.
        """
        return self.run_alone(lambda: self._open_and(action), prepare=prepare)

    def run_alone(self, action: Callable[[], Any], *, prepare: Callable[[], object] = do_nothing) -> Any:
        """As `run`, with nothing opened."""

        def enter() -> None:
            if CONFINED:
                confine(self.base)
            prepare()

        return run_as(self.user, action, prepare=enter)

    def _open_and(self, action: Callable[[DirectoryRoot], Any]) -> Any:
        with DirectoryRoot.open(self.volume, "root", require_mount=False) as root:
            return action(root)

    def purge(self, halt: Halt = never_halt) -> Result:
        """The purge of the sibling of task_1, as the user."""
        found: Result = self.run(lambda root: root.purge(SIBLING, halt))
        return found

    # --- what must not change -------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Entry]:
        """Everything of the scene but the two siblings that are purged, and the limbo."""
        return snapshot(self.base, without=[self.sibling, self.root / OTHER.name, self.limbo])

    @contextmanager
    def nothing_else_changes(self, *, links: bool = True, opened: bool = True) -> Iterator[None]:
        """Fails where anything outside was changed, or so much as opened.

        `links` False: a file's number of hard links may change. `opened` False: it may be opened and looked at.
        """
        before = self.snapshot()
        with watched(self._directories_outside()) as events:
            yield
            seen = [event for event in events() if event.path != self.limbo and (links or event.mask & ~_IN_ATTRIB)]
        changed = differences(before, self.snapshot(), links=links)
        assert not changed, f"changed outside of the task: {changed}"
        assert not (opened and seen), f"opened or changed outside of the task: {seen}"

    def _directories_outside(self) -> list[Path]:
        spared = (self.sibling, self.root / OTHER.name)
        tops = (self.outside, self.limbo.parent, *(path for path in self.root.iterdir() if path not in spared))
        found = [path for top in tops for path in entries_of(top) if not path.is_symlink() and path.is_dir()]
        return [path for path in found if not path.is_relative_to(self.limbo)]


def purge_side_by_side(root: DirectoryRoot, *siblings: Sibling) -> list[Result]:
    """Purges of several tasks at the same time, as the executor runs them."""
    with ThreadPoolExecutor(len(siblings)) as threads:
        return list(threads.map(lambda sibling: root.purge(sibling, never_halt), siblings))


def on_call(number: int, effect: Callable[[], object]) -> Halt:
    """A halt that never stops a purge, and has `effect` at its call of this number, from 1. Threads may share it."""
    calls = itertools.count(1)

    def halt() -> None:
        if next(calls) == number:
            effect()

    return halt


def fault_of(fault: Fault | None) -> tuple[str, str] | None:
    """Kind and reason: what a status is made of."""
    return (fault.kind, fault.reason) if fault else None


@contextmanager
def watched(paths: Collection[Path]) -> Iterator[Callable[[], list[Event]]]:
    """Lists what the kernel reports of these entries, and of those in them: opened, read, changed, removed."""
    descriptor = LIBC.inotify_init1(_IN_NONBLOCK)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    names = {LIBC.inotify_add_watch(descriptor, os.fsencode(path), _IN_ALL_EVENTS): path for path in paths}
    assert len(names) == len(paths), os.strerror(ctypes.get_errno())
    try:
        yield lambda: list(_events(descriptor, names))
    finally:
        os.close(descriptor)


def _events(descriptor: int, names: dict[int, Path]) -> Iterator[Event]:
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return
        while data:
            watch, mask, _, length = struct.unpack_from("iIII", data)
            name = os.fsdecode(data[16 : 16 + length].rstrip(b"\0"))
            data = data[16 + length :]
            if not mask & _IN_IGNORED:
                yield Event(mask, names[watch] / name)
