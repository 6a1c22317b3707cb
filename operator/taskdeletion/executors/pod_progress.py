"""Writes the lines of a pod, and progress while it works: at growing intervals, so that a log stays small.

Used by `executors.in_pod`. What a line says of a task has happened.
"""

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from taskdeletion.backends.directory import Purged
from taskdeletion.domain.job_lines import PROGRESS_LIMIT_BYTES, Line, Progress, format_line

_GROWTH: Final = 1.1
_LONGEST_SECONDS: Final = 60.0


class Counting(Protocol):
    """A walk, as far as this needs to know it."""

    @property
    def counted(self) -> Purged:
        """What is gone so far."""


class ProgressWriter:
    """A thread that writes how far the walks are. A context manager; `interval_seconds`: the first."""

    def __init__(self, output: BinaryIO, interval_seconds: float) -> None:
        self._output = output
        self._interval = interval_seconds
        self._walks: dict[str, list[Counting]] = {}
        self._said: dict[str, Progress] = {}
        self._left = PROGRESS_LIMIT_BYTES
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def is_reporting(self) -> bool:
        """Whether more progress may come."""
        return self._thread.is_alive()

    def watch(self, task_id: str, walk: Counting) -> None:
        """Count what this walk removes for the task, too."""
        with self._lock:
            self._walks.setdefault(task_id, []).append(walk)

    def finish(self, lines: Iterable[Line]) -> None:
        """Write the last lines; no progress comes behind them."""
        self._ended.set()
        self._thread.join()
        self._write("".join(map(format_line, lines)))

    def _repeat(self) -> None:
        interval = self._interval
        while self._left > 0 and not self._ended.wait(interval):
            self._report()
            interval = min(interval * _GROWTH, max(_LONGEST_SECONDS, self._interval))

    def _report(self) -> None:
        with self._lock:
            walks = {task_id: list(found) for task_id, found in self._walks.items()}
        fresh = [progress for task_id, found in walks.items() if (progress := _sum_up(task_id, found))]
        fresh = [progress for progress in fresh if self._said.get(progress.task_id) != progress]
        text = "".join(map(format_line, fresh))
        if not fresh or len(text) > self._left:
            self._left = 0 if fresh else self._left
            return
        self._left -= len(text)
        self._said.update((progress.task_id, progress) for progress in fresh)
        self._write(text)

    def _write(self, text: str) -> None:
        self._output.write(text.encode())
        self._output.flush()


def _sum_up(task_id: str, walks: list[Counting]) -> Progress | None:
    counts = [walk.counted for walk in walks]
    files, freed = sum(count.files for count in counts), sum(count.bytes for count in counts)
    return Progress(task_id, files, freed) if files or freed else None
