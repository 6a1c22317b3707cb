"""What the pod of a Job says on stdout: JSON, one line per task, progress before it and a closing line behind it all.

Written by `executors.in_pod`, read by `domain.job_results`; both sides of the wire are here and nowhere else. Pure.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.siblings import Sibling, parse_sibling
from taskdeletion.domain.task_ids import is_task_id

#: A pod writes no more progress than this; with the lines of 500 tasks it stays far under what a kubelet rotates.
PROGRESS_LIMIT_BYTES: Final = 1 << 20
#: What a status can hold, also as a sum: whoever may make pods in a namespace can write a log of ours.
_MOST: Final = 1 << 56
_REASONS: Final = frozenset(value for name, value in vars(reasons).items() if name.isupper())
_KINDS: Final[Mapping[str, FaultKind]] = {"waiting": "waiting", "retriable": "retriable", "permanent": "permanent"}


@dataclass(frozen=True, slots=True)
class TaskLine:
    """What a pod did with one task, and what it saw of it afterwards.

    `files` and `bytes`: what this pod removed (measured, in a dry run). `directory`: the task's own name is there.
    `siblings`: all that are there, whoever owns them. `fault`: why it is not done.
    """

    task_id: str
    files: int = 0
    bytes: int = 0
    directory: bool = False
    siblings: tuple[Sibling, ...] = ()
    fault: Fault | None = None

    def add(self, files: int, freed: int) -> "TaskLine":
        """The same with more counted."""
        return replace(self, files=self.files + files, bytes=self.bytes + freed)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a pod has removed of one task so far."""

    task_id: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Closing:
    """The last line: how many task lines there are, and their sums. `fault`: why the pod could not begin, or stopped.

    `level`: at which level below the siblings a split has enough entries to share; 0: not asked for, or nowhere.
    """

    tasks: int
    files: int
    bytes: int
    level: int = 0
    fault: Fault | None = None


Line = TaskLine | Progress | Closing


@dataclass(frozen=True, slots=True)
class PodLog:
    """What one pod said. `tasks`: by id. `progress`: of tasks without a line. `closing`: None where it is missing.

    `is_complete`: the closing line is there and agrees with the others, so that nothing was lost in between.
    """

    tasks: Mapping[str, TaskLine]
    progress: Mapping[str, Progress]
    closing: Closing | None
    is_complete: bool


def close_log(lines: Iterable[TaskLine], *, level: int = 0, fault: Fault | None = None) -> Closing:
    """The closing line of a log with these."""
    all_lines = list(lines)
    files, freed = sum(line.files for line in all_lines), sum(line.bytes for line in all_lines)
    return Closing(len(all_lines), files, freed, level, fault)


# --- writing ----------------------------------------------------------------------------------------------------------
def format_line(line: Line) -> str:
    """The line with its end. ASCII: a log is cut and joined by bytes."""
    return json.dumps(_to_json(line), separators=(",", ":")) + "\n"


def _to_json(line: Line) -> dict[str, Any]:
    counts = {"files": line.files, "bytes": line.bytes}
    if isinstance(line, Progress):
        return {"progress": line.task_id, **counts}
    fault = {} if line.fault is None else dict(zip(_FAULT, line.fault.args, strict=True))
    if isinstance(line, Closing):
        return {"end": line.tasks, **counts, "level": line.level, **fault}
    names = [sibling.name for sibling in line.siblings]
    return {"task": line.task_id, **counts, "directory": line.directory, "siblings": names, **fault}


_FAULT: Final = ("kind", "reason", "message")


# --- reading ----------------------------------------------------------------------------------------------------------
def parse_log(text: str) -> PodLog:
    """Read what a pod said so far. What is no line of ours, a last one that is cut short included, is passed over."""
    tasks: dict[str, TaskLine] = {}
    progress: dict[str, Progress] = {}
    closing: Closing | None = None
    for line in map(parse_line, text.split("\n")):
        if isinstance(line, TaskLine):
            tasks[line.task_id] = line
        elif isinstance(line, Progress):
            progress[line.task_id] = line
        elif line is not None:
            closing = line
    is_complete = closing is not None and replace(closing, level=0, fault=None) == close_log(tasks.values())
    rest = {task_id: line for task_id, line in progress.items() if task_id not in tasks}
    return PodLog(tasks, rest, closing, is_complete)


def parse_line(text: str) -> Line | None:
    """The line that `text` stands for, or None for everything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    try:
        return _from_json(found)
    except (KeyError, TypeError, ValueError):
        return None


def _from_json(found: Mapping[str, Any]) -> Line | None:
    files, freed = _count(found["files"]), _count(found["bytes"])
    if "progress" in found:
        return Progress(_task_id(found["progress"]), files, freed)
    if "end" in found:
        return Closing(_count(found["end"]), files, freed, _count(found["level"]), _fault(found))
    task_id = _task_id(found["task"])
    siblings = _siblings(found["siblings"], task_id)
    return TaskLine(task_id, files, freed, found["directory"] is True, siblings, _fault(found))


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise ValueError(value)
    return value


def _task_id(value: Any) -> str:
    if not isinstance(value, str) or not is_task_id(value):
        raise ValueError(value)
    return value


def _siblings(names: Sequence[str], task_id: str) -> tuple[Sibling, ...]:
    found = [sibling for name in names if (sibling := parse_sibling(name)) and sibling.task_id == task_id]
    if len(found) < len(names):
        raise ValueError(names)
    return tuple(found)


def _fault(found: Mapping[str, Any]) -> Fault | None:
    if "kind" not in found:
        return None
    if found["reason"] not in _REASONS:
        raise ValueError(found["reason"])
    return Fault(_KINDS[found["kind"]], found["reason"], str(found["message"]))
