"""The client of one supervisor: start and stop processes by name, wait for them, read their logs.

Used by `dev.stack`, the service modules and the builds. It must not start a long-lived process any other way: only
what the supervisor owns is sure to end with the stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.progress import Elapsed
from dev.supervisor import CONTROL_FILE

POLL_SECONDS = 0.03
LONGEST_POLL_SECONDS = 0.5
REQUEST_TIMEOUT_SECONDS = 5.0
SHUTDOWN_TIMEOUT_SECONDS = 40.0
LOG_LINES_SHOWN = 15

TIER_STORAGE = 0
TIER_SERVICE = 1
TIER_CLIENT = 2
TIER_APPLICATION = 3


class StackError(RuntimeError):
    """The stack cannot do what was asked; the text says why and what to look at."""


class ProcessFailedError(StackError):
    """A process ended, or did not become ready in time; the text ends with its last lines of output."""


@dataclass(frozen=True)
class StopRule:
    """How to end a process: the signal to ask with, and how long to wait before it is killed."""

    signal_name: str = "SIGTERM"
    grace_seconds: float = 5.0


class Processes:
    """The processes of one stack."""

    def __init__(self, state_dir: Path, control: Mapping[str, Any], supervisor: subprocess.Popen[str] | None) -> None:
        self.state_dir = state_dir
        self.port: int = control["port"]
        self.token: str = control["token"]
        self.supervisor_pid: int = control["pid"]
        self.supervisor = supervisor

    @classmethod
    def start(cls, state_dir: Path, *, remove_state_dir: bool = False) -> Processes:
        """A new supervisor, which ends when this Python process does."""
        supervisor = start_supervisor(state_dir, remove_state_dir=remove_state_dir)
        assert supervisor.stdout is not None
        with supervisor.stdout:
            line = supervisor.stdout.readline()
        control = json.loads(line) if line else {"error": f"the supervisor did not start in {state_dir}"}
        if "error" in control:
            supervisor.communicate()
            raise StackError(control["error"])
        return cls(state_dir, control, supervisor)

    @classmethod
    def attach(cls, state_dir: Path) -> Processes:
        """The supervisor that runs in `state_dir`; StackError when none does."""
        try:
            control = json.loads((state_dir / CONTROL_FILE).read_text())
            processes = cls(state_dir, control, None)
            processes.status()
        except (OSError, ValueError, StackError) as error:
            raise StackError(f"no stack is running in {state_dir}") from error
        return processes

    def log_path(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"

    def request(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the supervisor; StackError when it refuses or is gone."""
        message = {"operation": operation, "token": self.token, **arguments}
        try:
            reply = exchange(self.port, message)
        except (OSError, ValueError) as error:
            raise StackError(f"the supervisor of {self.state_dir} is gone") from error
        if "error" in reply:
            raise StackError(f"{operation} {arguments.get('name', '')}: {reply['error']}")
        return reply

    def spawn(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        tier: int = TIER_SERVICE,
        stop: StopRule = StopRule(),
    ) -> int:
        """Start a process with the given whole environment (default: ours) and return its number."""
        reply = self.request(
            "spawn",
            name=name,
            argv=[str(argument) for argument in argv],
            env=dict(os.environ if env is None else env),
            cwd=str(cwd or self.state_dir),
            log=str(self.log_path(name)),
            tier=tier,
            stop_signal=stop.signal_name,
            grace_seconds=stop.grace_seconds,
        )
        return int(reply["pid"])

    def status(self) -> dict[str, dict[str, Any]]:
        """For each name ever spawned: `pid` and `returncode` (None while it runs)."""
        processes: dict[str, dict[str, Any]] = self.request("status")["processes"]
        return processes

    def is_running(self, name: str) -> bool:
        process = self.status().get(name)
        return process is not None and process["returncode"] is None

    def run(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        elapsed: Elapsed | None = None,
    ) -> None:
        """Run a process to its end; ProcessFailedError unless it exits with 0."""
        self.spawn(name, argv, env=env, cwd=cwd)
        pause_seconds = POLL_SECONDS
        while (returncode := self.status()[name]["returncode"]) is None:
            if elapsed is not None:
                elapsed.tick()
            time.sleep(pause_seconds)
            pause_seconds = min(1.2 * pause_seconds, LONGEST_POLL_SECONDS)
        if returncode != 0:
            raise ProcessFailedError(self.describe_failure(name, f"exited with {returncode}"))

    def wait_ready(self, name: str, is_ready: Callable[[], bool], *, timeout_seconds: float = 60.0) -> None:
        """Wait until `is_ready`; ProcessFailedError as soon as the process ends or the time is over."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            if not self.is_running(name):
                raise ProcessFailedError(self.describe_failure(name, "ended while starting"))
            if time.monotonic() > deadline:
                raise ProcessFailedError(self.describe_failure(name, f"is not ready after {timeout_seconds:.0f} s"))
            time.sleep(POLL_SECONDS)

    def stop(self, name: str) -> None:
        """Stop a process and wait until it has ended; nothing to do when it does not run."""
        self.request("stop", name=name)
        while self.is_running(name):
            time.sleep(POLL_SECONDS)

    def describe_failure(self, name: str, what: str) -> str:
        lines = self.read_log(name).splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join([f"{name} {what}; {self.log_path(name)} ends with:", *(f"  {line}" for line in lines)])

    def read_log(self, name: str) -> str:
        """What the process has written since it was last started."""
        try:
            return self.log_path(name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def detach(self) -> None:
        """Let the supervisor and all it runs live on after this Python process."""
        self.request("detach")
        self.close_pipe()

    def shutdown(self) -> None:
        """End everything, and return when it has ended; nothing to do when it already has."""
        with contextlib.suppress(StackError):
            self.request("shutdown")
        self.wait_gone()

    def wait_gone(self) -> None:
        """Wait for the end of the supervisor, which is the last process of a stack to end."""
        if self.supervisor is not None:
            self.supervisor.wait(SHUTDOWN_TIMEOUT_SECONDS)
            self.close_pipe()
            return
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_SECONDS
        while (self.state_dir / CONTROL_FILE).exists() and self.answers():
            if time.monotonic() > deadline:
                raise StackError(f"the stack in {self.state_dir} did not stop")
            time.sleep(POLL_SECONDS)

    def close_pipe(self) -> None:
        if self.supervisor is not None and self.supervisor.stdin is not None:
            self.supervisor.stdin.close()

    def answers(self) -> bool:
        try:
            self.status()
        except StackError:
            return False
        return True


def start_supervisor(state_dir: Path, *, remove_state_dir: bool) -> subprocess.Popen[str]:
    """Start it with a pipe from this process as its standard input: its end of file is our end."""
    script = Path(__file__).with_name("supervisor.py")
    options = ["--remove-state-dir"] if remove_state_dir else []
    with (state_dir / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", str(script), str(state_dir), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd="/",
            start_new_session=True,
            text=True,
        )


def exchange(port: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """One line of JSON to the supervisor, one line back."""
    address = ("127.0.0.1", port)
    with (
        socket.create_connection(address, timeout=REQUEST_TIMEOUT_SECONDS) as connection,
        connection.makefile("rwb") as stream,
    ):
        stream.write(json.dumps(message).encode() + b"\n")
        stream.flush()
        reply: dict[str, Any] = json.loads(stream.readline())
        return reply
