"""The one process that owns every process of a stack, so that none is ever left behind.

`dev.processes` runs this file as a script in its own session and sends it requests over a loopback socket.
It ends, and everything it started with it, when its parent is gone (end of file on standard input), on a request or
on a signal; should it be killed itself, the kernel kills its children. It has one thread, since the kernel ties
"parent death" to the thread that forked. It must import nothing but the standard library and know no service.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hmac
import json
import os
import secrets
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

PR_SET_PDEATHSIG = 1
CONTROL_FILE = "supervisor.json"
IDLE_SECONDS = 1.0
STOPPING_SECONDS = 0.05
REQUEST_TIMEOUT_SECONDS = 2.0

Request = dict[str, Any]
Reply = dict[str, Any]


@dataclass
class Child:
    """One supervised process, the leader of its own process group."""

    process: subprocess.Popen[bytes]
    tier: int
    stop_signal: int
    grace_seconds: float
    kill_at: float | None = None

    def is_running(self) -> bool:
        return self.process.returncode is None

    def stop(self) -> None:
        """Ask it to end; `reap` kills it when the grace is over."""
        if self.kill_at is None and self.is_running():
            self.kill_at = time.monotonic() + self.grace_seconds
            self.process.send_signal(self.stop_signal)

    def reap(self) -> None:
        """Collect it if it has ended, and end what is left of its group, before its number can be used again."""
        if self.is_running() and has_ended(self.process):
            self.kill_group()
            self.process.wait()
        elif self.is_running() and self.kill_at is not None and time.monotonic() >= self.kill_at:
            self.kill_group()

    def kill_group(self) -> None:
        # A group of which only ended processes are left answers "no such process" or, on macOS, "not permitted".
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)


def has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the child has ended; where the system can, it stays a zombie, so that its number still names it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class Supervisor:
    """Children, the requests about them, and the orderly end."""

    def __init__(self, state_dir: Path, *, parent: BinaryIO | None) -> None:
        self.state_dir = state_dir
        self.children: dict[str, Child] = {}
        self.token = secrets.token_hex(16)
        self.is_stopping = False
        self.parent = parent
        self.parent_pid = os.getppid()
        self.selector = selectors.DefaultSelector()
        self.wakeup = socket.socketpair()
        self.operations: dict[str, Callable[[Request], Reply]] = {
            "spawn": self.spawn,
            "stop": self.stop,
            "status": lambda _: self.status(),
            "detach": lambda _: self.forget_parent(),
            "shutdown": lambda _: self.begin_stopping(),
        }

    def serve(self, listener: socket.socket) -> None:
        """Answer requests until everything has ended."""
        self.selector.register(listener, selectors.EVENT_READ, lambda: self.accept(listener))
        self.watch_signals()
        if self.parent is not None:
            self.selector.register(self.parent, selectors.EVENT_READ, self.lose_parent)
        while self.running() or not self.is_stopping:
            for key, _ in self.selector.select(STOPPING_SECONDS if self.is_busy() else IDLE_SECONDS):
                key.data()
            self.tend()

    def watch_signals(self) -> None:
        """Wake the loop on every signal: a child has ended, or this process is asked to end."""
        for end in self.wakeup:
            end.setblocking(False)
        reader, writer = self.wakeup
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self.selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.begin_stopping())

    def is_busy(self) -> bool:
        return self.is_stopping or any(child.kill_at is not None for child in self.running())

    def running(self) -> list[Child]:
        return [child for child in self.children.values() if child.is_running()]

    def tend(self) -> None:
        """Reap, notice a lost parent, and when stopping, stop the highest tier that still runs."""
        for child in self.running():
            child.reap()
        if self.parent is not None and os.getppid() != self.parent_pid:
            self.lose_parent()
        if self.is_stopping and self.running():
            highest = max(child.tier for child in self.running())
            for child in self.running():
                if child.tier == highest:
                    child.stop()

    def lose_parent(self) -> None:
        self.forget_parent()
        self.begin_stopping()

    def forget_parent(self) -> Reply:
        """Live on without it from now on."""
        if self.parent is not None:
            self.selector.unregister(self.parent)
            self.parent = None
        return {}

    def begin_stopping(self) -> Reply:
        self.is_stopping = True
        return {}

    def accept(self, listener: socket.socket) -> None:
        """Answer one request: a line of JSON in, a line of JSON out."""
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError, ValueError):
            connection.settimeout(REQUEST_TIMEOUT_SECONDS)
            with connection.makefile("rwb") as stream:
                stream.write(json.dumps(self.answer(json.loads(stream.readline()))).encode() + b"\n")

    def answer(self, request: Request) -> Reply:
        if not hmac.compare_digest(str(request.get("token")), self.token):
            return {"error": "wrong token"}
        try:
            return self.operations[request["operation"]](request)
        except (KeyError, OSError, subprocess.SubprocessError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    def spawn(self, request: Request) -> Reply:
        """Start `argv` under `name`, its output in `log`; an earlier log is kept beside it as `.old`."""
        name = request["name"]
        if self.is_stopping:
            return {"error": "the stack is stopping"}
        if name in self.children and self.children[name].is_running():
            return {"error": f"{name} is already running"}
        with open_log(Path(request["log"])) as log:
            process = subprocess.Popen(
                request["argv"],
                env=request["env"],
                cwd=request["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - there is one thread
            )
        self.children[name] = Child(
            process, request["tier"], signal.Signals[request["stop_signal"]], request["grace_seconds"]
        )
        return {"pid": process.pid}

    def stop(self, request: Request) -> Reply:
        if request["name"] in self.children:
            self.children[request["name"]].stop()
        return {}

    def status(self) -> Reply:
        return {
            "pid": os.getpid(),
            "processes": {
                name: {"pid": child.process.pid, "returncode": child.process.returncode}
                for name, child in self.children.items()
            },
        }


def load_libc() -> ctypes.CDLL | None:
    """The C library on Linux, loaded before any fork; elsewhere there is no parent-death signal."""
    return ctypes.CDLL(None) if sys.platform == "linux" else None


LIBC = load_libc()


def die_with(parent_pid: int) -> Callable[[], None]:
    """For the child, before exec: be killed when the parent's forking thread ends, or now if the parent is gone."""

    def prepare() -> None:
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent_pid:
                os._exit(1)

    return prepare


def open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(path.name + ".old"))
    return path.open("wb")


@contextlib.contextmanager
def own_state_dir(state_dir: Path, *, remove: bool) -> Iterator[None]:
    """Hold the state directory for one supervisor at a time; BlockingIOError when another one has it."""
    with (state_dir / "supervisor.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield
        finally:
            (state_dir / CONTROL_FILE).unlink(missing_ok=True)
            if remove:
                shutil.rmtree(state_dir, ignore_errors=True)


def announce(state_dir: Path, control: dict[str, Any]) -> None:
    """Tell the parent, and whoever may read the state directory, where to send requests."""
    path = state_dir / CONTROL_FILE
    partial = path.with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(control, file)
    partial.replace(path)
    reply(control, sys.stdout)


def reply(message: dict[str, Any], stream: TextIO) -> None:
    print(json.dumps(message), file=stream, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state_dir", type=Path)
    parser.add_argument("--remove-state-dir", action="store_true")
    options = parser.parse_args()
    try:
        with own_state_dir(options.state_dir, remove=options.remove_state_dir):
            supervisor = Supervisor(options.state_dir, parent=sys.stdin.buffer)
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                announce(options.state_dir, {"port": port, "token": supervisor.token, "pid": os.getpid()})
                supervisor.serve(listener)
    except BlockingIOError:
        reply({"error": f"a stack is already running in {options.state_dir}"}, sys.stdout)


if __name__ == "__main__":
    main()
