"""Requests that have ended long ago, as the operator leaves them: thousands of small ones, and the largest possible.

Used by `bench.lines.operator` to fill an API server. Their statuses come from the operator's own domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final

from bench.requests import CREATORS, Requests
from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import (
    MAX_TASK_ID_LENGTH,
    MAX_TASK_IDS,
    Resource,
    TaskDeletionStatus,
    TaskStatus,
)
from taskdeletion.domain.budget import fit_status
from taskdeletion.domain.conditions import Stage, View, build_conditions
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import conclude, fold_results
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.summary import build_summary, decide_phase, format_progress

AT: Final = datetime(2025, 7, 31, 12, tzinfo=UTC)
VERSION: Final = "2025-07-02T17:39:32.123456+00:00|completed|2025-07-02T21:45:30.123456+00:00"
RESOURCES: Final[tuple[Resource, ...]] = ("Directory", "Redis", "MinIO", "DatabaseRecords")
FAILURE: Final = Fault("permanent", reasons.PERMISSION_DENIED, "the file server does not permit it. " * 7)


def fill(requests: Requests, *, small: int, largest: int) -> None:
    """`small` requests of one task that was deleted, `largest` of 500 ids of 128 characters that all failed."""
    longest = [f"task_{number:03}_".ljust(MAX_TASK_ID_LENGTH, "x") for number in range(MAX_TASK_IDS)]
    specs = {f"small-{number:05}": [f"task_20250702_{number:06}"] for number in range(small)}
    specs |= {f"largest-{number:03}": longest for number in range(largest)}

    def add(name: str, task_ids: Sequence[str]) -> None:
        requests.create(name, {"taskIds": task_ids, "confirm": True, "tasksCreatedBefore": "2025-07-31T00:00:00Z"})
        requests.write_status(name, build_status(task_ids, failed=task_ids is longest))

    with ThreadPoolExecutor(CREATORS) as threads:
        list(threads.map(add, specs, specs.values()))


def build_status(task_ids: Sequence[str], *, failed: bool) -> Mapping[str, Any]:
    """The status of a request that ended with every task deleted, or failed in every resource."""
    tasks = [build_task(task_id, failed=failed) for task_id in task_ids]
    stage: Stage = "failed" if failed else "succeeded"
    view = View(stage, reasons.TASKS_NOT_DELETED if failed else reasons.SUCCEEDED, f"{len(tasks)} tasks")
    status = TaskDeletionStatus(
        observed_generation=1,
        phase=decide_phase(tasks, ignore_not_found=False),
        start_time=AT,
        completion_time=AT,
        attempts=1,
        progress=format_progress(tasks),
        cutoff=AT,
        store_uid="5c7b7d0e-9f4e-4d3c-8f64-b1d6d5a9b0c1",
        summary=build_summary(tasks, dry_run=False),
        tasks=tasks,
        conditions=build_conditions([], view, generation=1, now=AT),
    )
    return fit_status(status.to_api())


def build_task(task_id: str, *, failed: bool) -> TaskStatus:
    """The final status of one task."""
    begun = TaskStatus(task_id=task_id, state="Deleting", version=VERSION, claimed=True)
    results = [
        StepResult.failed(task_id, resource, FAILURE, count=12, bytes=20_000)
        if failed
        else StepResult(task_id, resource, "Deleted", count=12, bytes=20_000)
        for resource in RESOURCES
    ]
    return conclude(fold_results(begun, results, uncertain=False, dry_run=False), AT, dry_run=False)
