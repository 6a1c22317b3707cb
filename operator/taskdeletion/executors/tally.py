"""Adds up what several Jobs did with the same tasks, however often one of them is read, into one result per task.

Used by `executors.in_jobs`. A Job carries what was counted before it, so what it did is never added twice. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import TaskLine
from taskdeletion.domain.job_manifest import Counts
from taskdeletion.domain.job_results import JobDone
from taskdeletion.domain.job_states import JobSeen
from taskdeletion.domain.results import StepResult


class Tally:
    """The tasks of one purge. `counted`: what status has of them already, to which results are added."""

    def __init__(self, task_ids: Sequence[str], counted: Mapping[str, Counts], *, dry_run: bool) -> None:
        self._dry_run = dry_run
        self._before = {task_id: (0, 0) if dry_run else counted.get(task_id, (0, 0)) for task_id in task_ids}
        self._now = dict(self._before)
        self._at_least: set[str] = set()
        self._done: dict[str, Fault | None] = {}
        self._worked: set[str] = set()

    def open_tasks(self) -> list[str]:
        """Tasks that no Job has finished, in the order given."""
        return [task_id for task_id in self._before if task_id not in self._done]

    def base_of(self, task_id: str) -> Counts:
        """What is known to be gone of a task."""
        return self._now[task_id]

    def add(self, job: JobSeen, done: JobDone, *, tries_again: bool = False) -> None:
        """What a settled Job did; of several, in the order in which they were created.

        A share of a purge finishes nothing. `tries_again`: what the Job could not do is left to another one.
        """
        assert job.work is not None
        for task_id in job.work.tasks:
            if task_id in self._before:
                found = done.tasks[task_id]
                files, freed = job.counted.get(task_id, (0, 0))
                self._now[task_id] = (files + found.line.files, freed + found.line.bytes)
                self._at_least |= {task_id} if found.at_least else set()
                self._worked.add(task_id)
                if not (job.work.is_shared or (tries_again and found.line.fault is not None)):
                    self._done[task_id] = _say_where(found.line)

    def refuse(self, task_id: str, fault: Fault) -> None:
        """No Job may touch this task."""
        self._done[task_id] = fault

    def fail(self, fault: Fault) -> None:
        """Nothing more can be done now."""
        self._done.update(dict.fromkeys(self.open_tasks(), fault))

    def results(self) -> list[StepResult]:
        """One result per task: what there is to add to what status has."""
        return [self._result(task_id) for task_id in self._before]

    def _result(self, task_id: str) -> StepResult:
        (files, freed), (files_before, freed_before) = self._now[task_id], self._before[task_id]
        files, freed = max(files - files_before, 0), max(freed - freed_before, 0)
        fault, at_least = self._done.get(task_id), task_id in self._at_least
        if fault is not None:
            failed = StepResult.failed(task_id, "Directory", fault)
            return failed.with_counts(count=files, bytes=freed, at_least=at_least)
        if task_id not in self._worked:
            return StepResult(task_id, "Directory", "Skipped", reasons.ABSENT)
        outcome: Outcome = "WouldDelete" if self._dry_run else "Deleted"
        return StepResult(task_id, "Directory", outcome, count=files, bytes=freed, at_least=at_least)


def _say_where(line: TaskLine) -> Fault | None:
    """What is left lies under another name than the task's; people have to find it."""
    if line.fault is None or not line.siblings:
        return line.fault
    place = replace(line.siblings[0], kind="deleting").name
    return Fault(line.fault.kind, line.fault.reason, f"{line.fault.message}; the rest is in {place}")
