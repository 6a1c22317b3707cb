"""How the results of an attempt become the status of a task: folding, counting, concluding. Pure.

Called by the workflow after every step. Counts of earlier attempts are kept; what a crash made uncertain says so.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource, ResourceStatus, TaskState, TaskStatus
from taskdeletion.domain.claims import Refusal
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.sizes import format_size

RESOURCE_ORDER: tuple[Resource, ...] = ("Directory", "Redis", "MinIO", "DatabaseRecords")
FINAL_STATES: frozenset[TaskState] = frozenset(
    {"Deleted", "WouldDelete", "Refused", "NotFound", "PartiallyFailed", "Failed", "NotAttempted"}
)
#: A failure with one of these reasons decides the state of the whole task, whatever else was deleted.
_DECISIVE: dict[str, TaskState] = {
    reasons.TASK_RESTARTED: "Failed",
    reasons.CATALOG_ENTRY_GONE: "Failed",
    reasons.RENAME_NOT_UNDONE: "Failed",
    reasons.DIRECTORY_REAPPEARED: "PartiallyFailed",
}
_MESSAGE_LIMIT = 256


def is_final(task: TaskStatus) -> bool:
    """Whether nothing more happens to this task."""
    return task.state in FINAL_STATES


def refuse(task: TaskStatus, refusal: Refusal) -> TaskStatus:
    """The status of a task that is not touched."""
    return task.model_copy(
        update={
            "state": refusal.state,
            "reason": refusal.reason,
            "message": shorten(refusal.message),
            "resources": None,
        }
    )


def postpone(task: TaskStatus, fault: Fault, *, at: datetime, dry_run: bool) -> TaskStatus:
    """The status of a task whose claim did not happen: tried again, or Failed where trying again cannot help."""
    if not fault.retriable:
        return fail(task, reason=fault.reason, message=fault.message, at=at, dry_run=dry_run)
    return task.model_copy(update={"reason": fault.reason, "message": shorten(fault.message)})


def fold_results(task: TaskStatus, results: Iterable[StepResult], *, uncertain: bool, dry_run: bool) -> TaskStatus:
    """The task with the results of one attempt added to those of earlier ones.

    `uncertain`: an earlier attempt was cut short by a crash, so counts are lower bounds. A dry run deletes nothing, so
    that each attempt counts everything anew.
    """
    known = {found.resource: found for found in task.resources or []}
    for result in results:
        before = None if dry_run else known.get(result.resource)
        known[result.resource] = _merge(before, result, uncertain=uncertain)
    ordered = [known[resource] for resource in RESOURCE_ORDER if resource in known]
    return task.model_copy(update={"resources": ordered, **({} if dry_run else _describe_counts(ordered))})


def _merge(before: ResourceStatus | None, result: StepResult, *, uncertain: bool) -> ResourceStatus:
    count = result.count + ((before.count or 0) if before else 0)
    freed = result.bytes + ((before.bytes or 0) if before else 0)
    at_least = result.at_least or bool(before and before.at_least) or (uncertain and _is_counted(result))
    outcome, reason, message = result.outcome, result.reason, result.message
    if outcome == "Skipped" and reason == reasons.ABSENT and count:
        outcome, reason, message = "Deleted", "", ""
    return ResourceStatus(
        resource=result.resource,
        outcome=outcome,
        reason=reason or None,
        message=shorten(message) or None,
        retriable=True if result.kind in ("retriable", "waiting") else None,
        count=count if count or outcome in ("Deleted", "WouldDelete") else None,
        bytes=freed if freed or (outcome in ("Deleted", "WouldDelete") and result.resource in _HAS_BYTES) else None,
        at_least=at_least or None,
    )


_HAS_BYTES = frozenset({"Directory", "MinIO"})


def _is_counted(result: StepResult) -> bool:
    return result.outcome != "NotAttempted" and result.reason != reasons.KEPT_BY_REQUEST


def _describe_counts(resources: Sequence[ResourceStatus]) -> dict[str, object]:
    directory = next((found for found in resources if found.resource == "Directory"), None)
    if directory is None:
        return {}
    return {
        "deleted_files_count": directory.count or 0,
        "deleted_size": format_size(directory.bytes or 0),
    }


def has_retriable(task: TaskStatus) -> bool:
    """Whether another attempt can help this task."""
    return any(found.retriable for found in task.resources or []) and decisive_reason(task) is None


def decisive_reason(task: TaskStatus) -> str | None:
    """The reason of a failure that ends the task whatever its other resources say, or None."""
    return next((found.reason for found in task.resources or [] if found.reason in _DECISIVE), None)


def conclude(task: TaskStatus, at: datetime, *, dry_run: bool) -> TaskStatus:
    """The final status of a task from the outcomes of its resources."""
    resources = task.resources or []
    decisive = decisive_reason(task)
    if decisive is not None:
        state, failing = _DECISIVE[decisive], [found for found in resources if found.reason == decisive]
    else:
        failing = [found for found in resources if found.outcome in ("Failed", "Retained", "NotAttempted")]
        state = _state_of(resources, failing, dry_run=dry_run)
    return task.model_copy(
        update={
            "state": state,
            "reason": failing[0].reason if failing else None,
            "message": _describe_failure(failing),
            "deleted_at": at if state in ("Deleted", "PartiallyFailed") and not dry_run else None,
            **({} if dry_run else _flags(resources)),
        }
    )


def _state_of(resources: Sequence[ResourceStatus], failing: Sequence[ResourceStatus], *, dry_run: bool) -> TaskState:
    if failing:
        return "PartiallyFailed" if any(map(_is_touched, resources)) else "Failed"
    return "WouldDelete" if dry_run else "Deleted"


def _is_touched(found: ResourceStatus) -> bool:
    """An empty directory that is gone counts, too."""
    return bool(found.count) or found.outcome in ("Deleted", "WouldDelete")


def _flags(resources: Sequence[ResourceStatus]) -> dict[str, bool]:
    """What is gone: `Skipped` counts where the reason is that nothing was there."""
    gone = {
        found.resource: found.outcome == "Deleted" or (found.outcome == "Skipped" and found.reason == reasons.ABSENT)
        for found in resources
        if found.outcome != "WouldDelete"
    }
    names = {"Directory": "directory_deleted", "DatabaseRecords": "database_records_deleted"}
    return {names[resource]: is_gone for resource, is_gone in gone.items() if resource in names}


def _describe_failure(failing: Sequence[ResourceStatus]) -> str | None:
    if not failing:
        return None
    return shorten("; ".join(f"{found.resource}: {found.message or found.reason}" for found in failing))


def fail(task: TaskStatus, *, reason: str, message: str, at: datetime, dry_run: bool) -> TaskStatus:
    """The final status of a task that ends for a reason of the whole request (limits, store replaced)."""
    resources = task.resources or []
    touched = any(map(_is_touched, resources))
    return task.model_copy(
        update={
            "state": "PartiallyFailed" if touched else "Failed",
            "reason": reason,
            "message": shorten(message),
            "deleted_at": at if touched and not dry_run else None,
            **({} if dry_run else _flags(resources)),
        }
    )


def shorten(message: str, limit: int = _MESSAGE_LIMIT) -> str:
    """`message` on one line with at most `limit` characters; an ellipsis shows what is missing."""
    line = " ".join(message.split())
    return line if len(line) <= limit else line[: max(limit - 1, 0)] + "…" * (limit > 0)
