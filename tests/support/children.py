"""Runs a part of a test as another user, or among mounts of its own, in a forked child.

Called by `trees` and the tests of the directory backend. What the child returns comes back; what it raises fails the
test with the child's traceback. Changes nothing of the test process: neither its user nor its mounts.
"""

import ctypes
import os
import pickle
import socket
import struct
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest

Result = TypeVar("Result")
LIBC: Final = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 0x4000, 1 << 18
_CLONE_NEWNS, _MNT_DETACH, _RENAME_EXCHANGE, _PR_SET_DUMPABLE = 0x20000, 2, 2, 4
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1


@dataclass(frozen=True, slots=True)
class User:
    """Who purges. `name` is for people."""

    name: str
    uid: int


ROOT: Final = User("root", 0)
#: The user that the image runs as; where the tests are not run by root, whoever runs them.
ORDINARY: Final = User("ordinary user", 65532 if os.geteuid() == 0 else os.geteuid())


class ChildError(AssertionError):
    """What a child raised; its text is the child's traceback."""


def do_nothing() -> None:
    """The preparation of a child that needs none."""


def run_as(user: User, action: Callable[[], Result], *, prepare: Callable[[], object] = do_nothing) -> Result:
    """What `action` returns as `user`. `prepare` runs before it in the same child, as the user of the tests."""

    def act() -> Result:
        prepare()
        _become(user)
        return action()

    return run_in_child(act)


def run_in_child(action: Callable[[], Result]) -> Result:
    """What `action` returns in a forked child, which has ended by then."""
    reader, writer = os.pipe()
    child = fork()
    if child == 0:
        os.close(reader)
        _answer(writer, action)
    os.close(writer)
    with open(reader, "rb") as answer:
        text = answer.read(int.from_bytes(answer.read(8), "little"))  # not to its end: companions hold it open
    _, status = os.waitpid(child, 0)
    if not text:
        raise ChildError(f"the child ended without an answer, status {status}")
    succeeded, result = pickle.loads(text)
    if not succeeded:
        raise ChildError(f"in a child:\n{result}")
    return result  # type: ignore[no-any-return]  # pickle does not know what it carries


def fork() -> int:
    """0 in the child."""
    with warnings.catch_warnings():
        # Newer Pythons warn of threads of ours. The child uses none of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def start_companion(serve: Callable[[socket.socket], None]) -> socket.socket:
    """A process beside, with the rights that this one has now, that runs `serve` with the other end of the socket.

    That end reads as ended when this process has ended: then `serve` has to return. (A signal at the parent's death
    would need the right to kill, which a parent that became an ordinary user has not.)
    """
    ours, theirs = socket.socketpair()
    if fork() == 0:
        ours.close()
        try:
            serve(theirs)
        except BaseException:  # noqa: BLE001 - the child must end here
            traceback.print_exc()
        os._exit(0)
    theirs.close()
    return ours


def start_helper(action: Callable[[], object]) -> Callable[[], None]:
    """A function that has `action` run by a companion, and waits for it.

    For what a purge's halt does as root while the purge itself is an ordinary user's.
    """

    def serve(orders: socket.socket) -> None:
        while orders.recv(1):
            action()
            orders.send(b"+")

    helper = start_companion(serve)

    def ask() -> None:
        helper.send(b"?")
        if helper.recv(1) != b"+":
            raise ChildError("the helper failed; it said why on stderr")

    return ask


def _answer(writer: int, action: Callable[[], object]) -> None:
    try:
        text = pickle.dumps((True, action()))
    except BaseException:  # noqa: BLE001 - it is passed on, and the child must end here
        text = pickle.dumps((False, traceback.format_exc()))
    with open(writer, "wb") as answer:
        answer.write(len(text).to_bytes(8, "little") + text)
    os._exit(0)


def _become(user: User) -> None:
    if user.uid == os.geteuid():
        return
    os.setgroups([])
    os.setgid(user.uid)
    os.setuid(user.uid)
    LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # a changed uid hides /proc/self; a process started so sees it


# --- system calls that Python lacks -------------------------------------------------------------------------------


def own_mounts() -> None:
    """From here on, what this process mounts is seen by itself and its children only."""
    _check(LIBC.unshare(_CLONE_NEWNS), "unshare")
    mount(None, "/", flags=MS_REC | MS_PRIVATE)


def mount(
    source: Path | None, target: Path | str, kind: str | None = None, flags: int = MS_BIND, data: str = ""
) -> None:
    """Mount; by default bind `source` to `target`."""
    encoded = [None if value is None else os.fsencode(value) for value in (source, target, kind)]
    _check(LIBC.mount(*encoded, ctypes.c_ulong(flags), data.encode() or None), "mount")


def confine(base: Path) -> None:
    """From here on this process can write below `base` only: a purge that strays by mistake must not cost a machine.

    Needs mounts of our own, and Linux 5.12.
    """
    own_mounts()
    _set_mount(Path("/"), _AT_RECURSIVE, read_only=True)
    mount(base, base)
    _set_mount(base, 0, read_only=False)


def _set_mount(target: Path, flags: int, *, read_only: bool) -> None:
    chosen = (_MOUNT_ATTR_RDONLY, 0) if read_only else (0, _MOUNT_ATTR_RDONLY)
    attributes = struct.pack("=QQQQ", *chosen, 0, 0)
    here = ctypes.c_int(_AT_FDCWD)
    result = LIBC.syscall(
        _MOUNT_SETATTR, here, os.fsencode(target), flags, attributes, ctypes.c_size_t(len(attributes))
    )
    _check(result, "mount_setattr")


def unmount(target: Path) -> None:
    """Take the mount away from its place, also while somebody uses it."""
    _check(LIBC.umount2(os.fsencode(target), _MNT_DETACH), "umount2")


def remount_read_only(target: Path) -> None:
    """Make a bind mount read-only, also for who holds it open."""
    mount(None, target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def exchange(one: Path, other: Path) -> None:
    """Swap two names in one atomic step."""
    here = ctypes.c_int(_AT_FDCWD)
    _check(LIBC.renameat2(here, os.fsencode(one), here, os.fsencode(other), _RENAME_EXCHANGE), "renameat2")


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _may_confine() -> bool:
    try:
        run_in_child(lambda: confine(Path("/tmp")))
    except ChildError:
        return False
    return True


#: Whether children can be confined, and have mounts of their own.
CONFINED: Final = _may_confine()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make files of other users and devices")
needs_mounts = pytest.mark.skipif(not CONFINED, reason="this machine allows no mounts of our own")
