"""Metrics with something in them: requests as they end, and one sample of everything."""

from datetime import UTC, datetime, timedelta
from typing import Any

from taskdeletion.api.task_deletion import ResourceStatus, TaskDeletionSpec, TaskDeletionStatus, TaskStatus
from taskdeletion.domain.outcomes import RESOURCE_ORDER
from taskdeletion.domain.results import StepResult
from taskdeletion.observe.metrics import Metrics
from taskdeletion.observe.present import PolicyRow, StoreRow

AT = datetime(2026, 7, 31, 2, tzinfo=UTC)


def build_spec(**fields: Any) -> TaskDeletionSpec:
    """The spec of a request for one task."""
    given = {"confirm": True, "taskIds": ["task_1"], **fields}
    return TaskDeletionSpec.model_validate(given)


def build_status(phase: Any = "Succeeded", *, seconds: float = 60.0) -> TaskDeletionStatus:
    """The status of a request that began at `AT` and ended `seconds` later."""
    return TaskDeletionStatus(phase=phase, start_time=AT, completion_time=AT + timedelta(seconds=seconds))


def fill_metrics(metrics: Metrics) -> None:
    """At least one sample of every family that is not the process's."""
    found = ResourceStatus(resource="Directory", outcome="Deleted", count=1)
    task = TaskStatus(task_id="task_1", state="Deleted", resources=[found])
    metrics.present.note_store(
        "ns", "default", StoreRow({"Redis": ["Unavailable"], "Catalog": []}, 5.0, claimed=1, deleting=0)
    )
    for phase in ("Succeeded", "Failed"):
        metrics.request_ended("ns", build_spec(), build_status(phase), [task], reason=phase)
    for resource in RESOURCE_ORDER:
        metrics.results_found("ns", [StepResult("task_1", resource, "Deleted", count=1, bytes=1)])
    with metrics.attempt(lambda: True), metrics.claim(), metrics.look("TaskDeletion", ()):
        metrics.retry("Timeout")
    timed = metrics.round()
    timed.end([StepResult("task_1", "Directory", "Deleted")])
    metrics.policy_run("ns", "Failed", "RunFailed")
    metrics.present.note_policy(
        "ns", "nightly", PolicyRow(is_ready=True, reason="Scheduled", upcoming=AT, succeeded_at=AT)
    )
    metrics.present.note_request("ns", "one", phase="Running", waits_for="Unavailable")
    metrics.api_request("GET", 200, 0.1)
