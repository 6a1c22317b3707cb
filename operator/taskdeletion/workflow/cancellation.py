"""A request that was deleted while it was live: what it claimed is finished, and what never began is said.

Called by `workflow.deletion`. There is no status to write to any more: an Event and audit lines tell.
"""

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskStatus
from taskdeletion.kube.objects import Cluster
from taskdeletion.workflow.ending import audit
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record


def close_cancelled(cluster: Cluster, ownership: Ownership, record: Record) -> None:
    """Say what was finished and what never began. Final tasks keep their reasons."""
    ownership.forget(record.live.uid)
    record.change(completion_time=record.now)
    record.put(*(_close(task) for task in record.open_tasks()))
    record.put(*(_name_reason(task) for task in record.tasks.values()))
    audit(record)
    states = [task.state for task in record.tasks.values()]
    message = (
        f"the request was deleted while it ran: {states.count('Deleted')} tasks were finished,"
        f" {states.count('NotAttempted')} never began"
    )
    cluster.emit(record.live, type="Warning", reason=reasons.CANCELLED, message=message)


def _close(task: TaskStatus) -> TaskStatus:
    state = "PartiallyFailed" if task.claimed else "NotAttempted"
    return task.model_copy(update={"state": state, "reason": reasons.CANCELLED})


def _name_reason(task: TaskStatus) -> TaskStatus:
    return task if task.reason else task.model_copy(update={"reason": reasons.CANCELLED})
