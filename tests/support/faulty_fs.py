"""A real file system that misbehaves as told: in memory, served over /dev/fuse by a child process.

Called by the tests of the directory backend, among mounts of their own. It answers chosen operations on chosen names
with an errno, lists without types as some servers do, and keeps files that are "open elsewhere" as an NFS client does.
Offers only what a walk needs: looking, listing, unlinking, removing directories. A change of mode is ignored.
"""

import errno
import itertools
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from tests.support.children import CONFINED, mount, start_companion

_LOOKUP, _FORGET, _GETATTR, _SETATTR, _UNLINK, _RMDIR, _STATFS = 1, 2, 3, 4, 10, 11, 17
_INIT, _OPENDIR, _READDIR, _RELEASEDIR, _BATCH_FORGET = 26, 27, 28, 29, 42
_NO_ANSWER: Final = (_FORGET, _BATCH_FORGET)
_HEADER, _ANSWER = struct.Struct("=IIQQIIIHH"), struct.Struct("=IiQ")
_BUFFER = 1 << 17
_MS_NOSUID, _MS_NODEV = 2, 4

Tree = Mapping[str, "bytes | Tree"]


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What goes wrong.

    `errors`: the errno that an operation ("lookup", "opendir", "readdir", "unlink", "rmdir") on a name answers.
    `open_elsewhere`: files that an unlink only renames to `.nfs…`, which answers EBUSY from then on.
    `typeless`: listings do not say what an entry is.
    """

    errors: Mapping[tuple[str, str], int] = field(default_factory=dict)
    open_elsewhere: frozenset[str] = frozenset()
    typeless: bool = False


@dataclass(slots=True)
class _Node:
    number: int
    name: str
    content: bytes | None = None
    children: "dict[str, _Node]" = field(default_factory=dict)

    def attributes(self, owner: int) -> bytes:
        """The struct fuse_attr."""
        kind, links = (stat.S_IFDIR | 0o755, 2) if self.content is None else (stat.S_IFREG | 0o644, 1)
        size, times = len(self.content or b""), (0,) * 6
        return struct.pack("=QQQQQQIIIIIIIIII", self.number, size, 0, *times, kind, links, owner, owner, 0, 512, 0)


class _Server:
    def __init__(self, device: int, tree: Tree, misbehaviour: Misbehaviour, owner: int) -> None:
        self._device = device
        self._misbehaviour = misbehaviour
        self._owner = owner
        self._numbers = itertools.count(1)
        self._nodes: dict[int, _Node] = {}
        self._add("", tree)
        self._calls: dict[int, Callable[[_Node, bytes], bytes]] = {
            _INIT: self._init,
            _LOOKUP: self._lookup,
            _GETATTR: lambda node, _: struct.pack("=QII", 0, 0, 0) + node.attributes(self._owner),
            _SETATTR: lambda node, _: struct.pack("=QII", 0, 0, 0) + node.attributes(self._owner),
            _OPENDIR: self._open,
            _READDIR: self._read,
            _RELEASEDIR: lambda *_: b"",
            _UNLINK: self._unlink,
            _RMDIR: self._rmdir,
            _STATFS: lambda *_: struct.pack("=QQQQQIIII24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0),
        }

    def serve(self, lifeline: socket.socket) -> None:
        """Answer until the process that mounted this has ended."""
        ready: list[int] = []
        while lifeline.fileno() not in ready:
            ready, _, _ = select.select([self._device, lifeline.fileno()], [], [])
            if self._device in ready:
                with suppress(FileNotFoundError):  # a request that was taken back
                    self._answer(os.read(self._device, _BUFFER))

    def _answer(self, request: bytes) -> None:
        _, operation, unique, number, *_ = _HEADER.unpack_from(request)
        if operation in _NO_ANSWER:
            return
        call = self._calls.get(operation, _not_offered)
        try:
            data, code = call(self._nodes.get(number, self._nodes[1]), request[_HEADER.size :]), 0
        except OSError as error:
            data, code = b"", error.errno or errno.EIO
        os.write(self._device, _ANSWER.pack(_ANSWER.size + len(data), -code, unique) + data)

    def _add(self, name: str, content: "bytes | Tree") -> _Node:
        node = _Node(next(self._numbers), name)
        self._nodes[node.number] = node
        if isinstance(content, bytes):
            node.content = content
        else:
            for child, inner in content.items():
                node.children[child] = self._add(child, inner)
        return node

    def _refuse(self, operation: str, name: str) -> None:
        if number := self._misbehaviour.errors.get((operation, name)):
            raise OSError(number, os.strerror(number))

    def _child(self, node: _Node, data: bytes, operation: str) -> _Node:
        name = os.fsdecode(data.split(b"\0")[0])
        self._refuse(operation, name)
        if name not in node.children:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return node.children[name]

    def _init(self, _: _Node, data: bytes) -> bytes:
        major, _minor, readahead, _flags = struct.unpack_from("=IIII", data)
        return struct.pack("=IIIIHHIIHHI28x", major, 31, readahead, 0, 12, 9, 4096, 1, 1, 0, 0)

    def _lookup(self, node: _Node, data: bytes) -> bytes:
        child = self._child(node, data, "lookup")
        return struct.pack("=QQQQII", child.number, 0, 0, 0, 0, 0) + child.attributes(self._owner)

    def _open(self, node: _Node, _: bytes) -> bytes:
        self._refuse("opendir", node.name)
        return struct.pack("=QII", 0, 0, 0)

    def _read(self, node: _Node, data: bytes) -> bytes:
        """Directory entries from an offset on. Offsets are inode numbers, so that removing some skips none."""
        self._refuse("readdir", node.name)
        _, offset, size = struct.unpack_from("=QQI", data)
        found = b""
        for child in sorted(node.children.values(), key=lambda child: child.number):
            name = os.fsencode(child.name)
            kind = 0 if self._misbehaviour.typeless else (4 if child.content is None else 8)
            entry = struct.pack("=QQII", child.number, child.number, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if child.number > offset:
                if len(found) + len(entry) > size:
                    break
                found += entry
        return found

    def _unlink(self, node: _Node, data: bytes) -> bytes:
        child = self._child(node, data, "unlink")
        if child.content is None:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if child.name.startswith(".nfs") and child.name in self._misbehaviour.open_elsewhere | {self._leftover(child)}:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        del node.children[child.name]
        if child.name in self._misbehaviour.open_elsewhere:
            child.name = self._leftover(child)
            child.number = next(self._numbers)
            self._nodes[child.number] = child
            node.children[child.name] = child
        return b""

    def _leftover(self, node: _Node) -> str:
        return f".nfs{id(node):016x}"

    def _rmdir(self, node: _Node, data: bytes) -> bytes:
        child = self._child(node, data, "rmdir")
        if child.children:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        del node.children[child.name]
        return b""


def _not_offered(_: _Node, __: bytes) -> bytes:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def mount_faulty(at: Path, tree: Tree, misbehaviour: Misbehaviour, *, owner: int) -> None:
    """Mount `tree` (names to contents, or to trees) at `at`, all of it owned by the uid `owner`.

    For a process among mounts of its own: the file system ends with it.
    """
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    mount(None, at, "fuse", _MS_NOSUID | _MS_NODEV, options)
    start_companion(_Server(device, tree, misbehaviour, owner).serve).detach()
    os.close(device)


needs_fuse = pytest.mark.skipif(
    not (CONFINED and os.access("/dev/fuse", os.R_OK | os.W_OK)), reason="this machine allows no FUSE file system"
)
