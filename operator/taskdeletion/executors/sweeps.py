"""One pass over a Redis for all requests of its store that wait at that moment.

Called by the executor. A sweep costs one scan of the whole keyspace whatever the number of tasks, so requests that
arrive while one runs share the next. A request that must stop leaves the shared sweep without ending it.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisKeys
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Guard, Halt, StepResult


@dataclass(eq=False, slots=True)
class _Job:
    task_ids: frozenset[str]
    guard: Guard
    halt: Halt
    results: dict[str, StepResult] | None = None


class SharedSweep:
    """Joins the sweeps of one store, the way a database joins commits. Thread-safe; task ids of jobs are disjoint."""

    def __init__(self, redis: RedisKeys) -> None:
        self._redis = redis
        self._waiting: list[_Job] = []
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def sweep(self, task_ids: Collection[str], *, guard: Guard, halt: Halt) -> dict[str, StepResult]:
        """Delete the keys of these tasks; returns a result per task. Blocks while another sweep runs."""
        job = _Job(frozenset(task_ids), guard, halt)
        with self._lock:
            self._waiting.append(job)
        with self._one_at_a_time:
            if job.results is None:
                self._run(self._take())
        assert job.results is not None
        return job.results

    def _take(self) -> list[_Job]:
        with self._lock:
            jobs, self._waiting = self._waiting, []
        return jobs

    def _run(self, jobs: list[_Job]) -> None:
        union = frozenset[str]().union(*(job.task_ids for job in jobs))
        found: dict[str, StepResult] = {}
        fault = Fault("retriable", reasons.INTERNAL_ERROR, "the shared sweep ended unexpectedly")
        try:
            found = self._redis.sweep(union, delete=True, guard=_join_guards(jobs), halt=_join_halts(jobs))
        except Fault as raised:
            fault = raised
        finally:  # also where something unexpected is raised here: those who share the sweep must not wait forever
            for job in jobs:
                job.results = {task_id: found.get(task_id) or _failed(task_id, fault) for task_id in job.task_ids}


def _failed(task_id: str, fault: Fault) -> StepResult:
    return StepResult.failed(task_id, "Redis", fault)


def _join_guards(jobs: list[_Job]) -> Guard:
    def guard(task_ids: Collection[str]) -> Mapping[str, Fault]:
        denied: dict[str, Fault] = {}
        for job in jobs:
            mine = job.task_ids.intersection(task_ids)
            if mine:
                denied.update(_ask(job, mine))
        return denied

    return guard


def _ask(job: _Job, task_ids: frozenset[str]) -> Mapping[str, Fault]:
    """What one job's guard denies; a fault of its own (halted, catalog away) denies its tasks, not those of others."""
    if (stopped := job.halt()) is not None:
        return dict.fromkeys(task_ids, stopped)
    try:
        return job.guard(task_ids)
    except Fault as fault:
        return dict.fromkeys(task_ids, fault)


def _join_halts(jobs: list[_Job]) -> Halt:
    def halt() -> Fault | None:
        faults = [job.halt() for job in jobs]
        return faults[0] if all(faults) else None

    return halt
