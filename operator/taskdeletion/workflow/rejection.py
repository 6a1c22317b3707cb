"""Requests that are refused as a whole, although the API server took them: its rules may be older, or switched off.

Called by `workflow.deletion` before anything is opened. Nothing of a rejected request is ever touched.
"""

from pydantic import ValidationError

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletionStatus
from taskdeletion.domain.conditions import View, build_conditions
from taskdeletion.domain.task_ids import is_task_id
from taskdeletion.kube.objects import Cluster, LiveObject
from taskdeletion.workflow.record import Record


def find_rejection(record: Record) -> tuple[str, str] | None:
    """Reason and sentence, or None. The operator checks again what the CRD checks: deletion is not left to a schema."""
    if record.spec.confirm is not True:
        return reasons.NOT_CONFIRMED, "spec.confirm must be true; create the request again with confirm: true"
    bad = [task_id for task_id in record.spec.task_ids if not is_task_id(task_id)]
    if bad:
        return reasons.INVALID_SPEC, f"spec.taskIds holds {len(bad)} ids that are no task ids; correct them"
    if len(set(record.spec.task_ids)) != len(record.spec.task_ids):
        return reasons.INVALID_SPEC, "spec.taskIds names a task twice; remove one"
    return None


def describe_invalid(error: ValidationError) -> str:
    """The first thing that is wrong in a spec, for people."""
    first = error.errors(include_url=False, include_input=False)[0]
    return f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}"


def reject_unreadable(cluster: Cluster, live: LiveObject, error: ValidationError) -> None:
    """Fail a request whose spec or status this operator cannot read.

    One that has begun may hold claims, so it is not ended and its tasks stay as they are: an operator that can read
    it goes on (this one may be older).
    """
    view = View("rejected", reasons.INVALID_SPEC, f"this operator cannot read the request: {describe_invalid(error)}")
    if live.status.get("tasks"):
        stalled = [
            found.to_api()
            for found in build_conditions([], view, generation=live.generation, now=live.created_at)
            if found.type in ("Stalled", "Ready")
        ]
        cluster.write_status(live, {**live.status, "conditions": stalled})
        return
    status = TaskDeletionStatus(
        observed_generation=live.generation,
        phase="Failed",
        completion_time=live.server_time,
        conditions=build_conditions([], view, generation=live.generation, now=live.server_time),
    )
    cluster.write_status(live, status.to_api())
