"""An operator as a process on a stack: ours or a peer's, until the end of a `with` block; its CPU time and its memory.

Used by `bench.lines.operator`. Knows no deletions beyond the one by which it sees that an operator works.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.requests import Requests, WorkNotDoneError
from dev.demo import ROOT, operator_environment
from dev.pipeline import wait_until
from dev.stack import Stack

OURS_MODULE: Final = ("taskdeletion", "operator")
NAME: Final = "operator"
CANARY: Final = "zz-canary"  # the last one of a list, so that everything before it has been seen, too
START_SECONDS: Final = 120.0
IDLE_CPU_SECONDS: Final = 0.03


@dataclass(frozen=True)
class Process:
    """A running process."""

    pid: int

    @property
    def cpu_seconds(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_bytes(self) -> int:
        """The most physical memory that it has had (VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def wait_idle(self, *, seconds: float) -> None:
        """Until it has used almost no processor for a second; TimeoutError after `seconds`."""
        since, used = time.monotonic(), self.cpu_seconds

        def is_idle() -> bool:
            nonlocal since, used
            now = self.cpu_seconds
            if now - used > IDLE_CPU_SECONDS:
                since, used = time.monotonic(), now
            return time.monotonic() - since >= 1.0

        wait_until(is_idle, seconds=seconds, what="an idle operator")


@contextmanager
def running(stack: Stack, requests: Requests, module: Sequence[str]) -> Iterator[Process]:
    """`python -m MODULE` beside the stack, from when it has brought a request to its end, until the block ends."""
    environment = {**operator_environment(stack), "PYTHONPATH": os.pathsep.join([str(ROOT / "operator"), str(ROOT)])}
    pid = stack.spawn(NAME, [sys.executable, "-m", *module], environment)
    try:
        with requests.watched([CANARY]) as ends:
            requests.create(CANARY, {"taskIds": [CANARY], "confirm": True, "dryRun": True, "notFoundPolicy": "Ignore"})
            wait_until(
                lambda: ends.all_seen.is_set() or not stack.processes.is_running(NAME),
                seconds=START_SECONDS,
                what="the end of a first request",
            )
        if not stack.processes.is_running(NAME):
            raise WorkNotDoneError(stack.processes.describe_failure(NAME, "has ended"))
        yield Process(pid)
    finally:
        stack.stop_process(NAME)
