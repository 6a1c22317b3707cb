"""The end of a request, however it comes: every task final, one last write, Event and audit lines.

Called by `workflow.deletion` and `workflow.cancellation`. No request ends with a rename that nothing confirmed.
"""

from dataclasses import dataclass

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletionStatus, TaskStatus
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.conditions import View
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import fail, fold_results
from taskdeletion.domain.plan import build_tasks
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.domain.summary import decide_phase
from taskdeletion.observe.audit import write_audit
from taskdeletion.workflow.auditing import build_audit_records
from taskdeletion.workflow.claiming import undo_rename
from taskdeletion.workflow.halting import Halting
from taskdeletion.workflow.record import Record


@dataclass(frozen=True, slots=True)
class Limit:
    """Why a request ends although tasks are open."""

    reason: str
    message: str


#: What a request may have been waiting for when it ended; its message then says so.
_WAITING = (reasons.DEPENDENCY_UNAVAILABLE, reasons.CLAIMED_BY_OTHER, reasons.RETRYING)
DEADLINE = Limit(reasons.DEADLINE_EXCEEDED, "activeDeadlineSeconds have passed")
#: What a message says between the limit of a request and that which keeps it from ending.
BEFORE_THE_END = "; before the end a rename may have to be undone, and "
STOPPED = Limit(reasons.STOPPED_ON_ERROR, "stopped at the first task that was not deleted (continueOnError: false)")


def find_limit(record: Record, halting: Halting, *, may_repeat: bool) -> Limit | None:
    """The limit that a request has reached before an attempt. An attempt that was cut short may be repeated."""
    for found in record.status.conditions or []:
        if found.type == "FailureTarget" and found.status == "True":  # it is to end, and only waits for an undo
            return Limit(found.reason, found.message.partition(BEFORE_THE_END)[0])
    if halting.is_past_deadline:
        return _with_cause(DEADLINE, record)
    attempts, limit = record.status.attempts or 0, record.spec.backoff_limit
    if attempts > limit and not may_repeat:
        return Limit(
            reasons.BACKOFF_LIMIT_EXCEEDED, f"{attempts} attempts were begun, spec.backoffLimit allows {limit} retries"
        )
    return None


def _with_cause(limit: Limit, record: Record) -> Limit:
    conditions = record.status.conditions or []
    causes = [found.message for found in conditions if found.type == "Reconciling" and found.reason in _WAITING]
    return Limit(limit.reason, f"{limit.message}; before that: {causes[0]}") if causes else limit


def has_unconfirmed(record: Record) -> bool:
    """Whether a rename may be there that nothing confirmed."""
    return any(task.state == "Deleting" and not task.claimed for task in record.tasks.values())


def undo_unconfirmed(record: Record, root: DirectoryRoot | None, *, is_replaced: bool) -> Fault | None:
    """Put every unconfirmed rename back; returns what has to pass before that can be done.

    `is_replaced`: the root may be another one than that of the rename, which is then named instead.
    """
    for task in record.open_tasks():
        if task.claimed or task.state != "Deleting":
            continue
        fault = _find_elsewhere(record, root, task.task_id) if is_replaced else None
        fault = fault or undo_rename(root, record, task.task_id)
        if fault is not None and fault.retriable:
            return fault
        if fault is not None:
            record.put(fail(task, reason=fault.reason, message=fault.message, at=record.now, dry_run=False))
    return None


def _find_elsewhere(record: Record, root: DirectoryRoot | None, task_id: str) -> Fault | None:
    uid = record.live.uid
    if root is not None and any(sibling.owner == uid for sibling in root.look([task_id])[task_id].siblings):
        return None
    name = Sibling("claimed", uid, task_id).name
    message = f"the TaskStore was replaced; if the directory was moved aside, it is {name} in the root of the old one"
    return Fault("permanent", reasons.RENAME_NOT_UNDONE, message)


def close_tasks(record: Record, limit: Limit, cut_short: frozenset[str]) -> None:
    """Give every open task its final state. `cut_short`: a crash left it unknown what was deleted of them."""
    if not record.tasks:
        record.put(*build_tasks(record.request))
    for task in record.open_tasks():
        record.put(_close(task, record, limit, is_cut_short=task.task_id in cut_short))


def _close(task: TaskStatus, record: Record, limit: Limit, *, is_cut_short: bool) -> TaskStatus:
    dry_run = record.spec.dry_run
    if not (task.state == "Deleting" or task.resources):
        return task.model_copy(update={"state": "NotAttempted", "reason": limit.reason, "message": None})
    if is_cut_short:
        task = fold_results(task, [_unknown(task.task_id)], uncertain=True, dry_run=dry_run)
    detail = f"{limit.message}; {task.message}" if task.message else limit.message
    closed = fail(task, reason=limit.reason, message=detail, at=record.now, dry_run=dry_run)
    return closed.model_copy(update={"state": "PartiallyFailed"}) if is_cut_short else closed


def _unknown(task_id: str) -> StepResult:
    message = "the operator died in an attempt; some or all of the task may be deleted: name it in a new request"
    return StepResult(task_id, "Directory", "Failed", reasons.INTERRUPTED, message, kind="permanent", at_least=True)


def write_end(record: Record, view: View | None = None) -> None:
    """The last write; `view` where the request as a whole failed. Ends with the audit lines, if it is still there."""
    for task in record.open_tasks():  # a rejected request may have been listed while it was suspended
        record.put(task.model_copy(update={"state": "NotAttempted", "reason": view.reason if view else None}))
    tasks = list(record.tasks.values())
    phase = decide_phase(tasks, ignore_not_found=record.spec.not_found_policy == "Ignore") if tasks else "Failed"
    record.change(
        phase="Failed" if view is not None and phase == "Succeeded" else phase,
        start_time=record.status.start_time or record.now,
        completion_time=record.now,
        next_attempt_time=None,
    )
    record.write(view or _describe_end(record.status, tasks, dry_run=record.spec.dry_run))
    if not record.gone:
        audit(record)


def audit(record: Record) -> None:
    """One line per task."""
    for line in build_audit_records(record):
        write_audit(line)


def _describe_end(status: TaskDeletionStatus, tasks: list[TaskStatus], *, dry_run: bool) -> View:
    states = [task.state for task in tasks]
    if status.phase == "Succeeded":
        done = states.count("Deleted") + states.count("WouldDelete")
        verb, reason = ("would be deleted", reasons.DRY_RUN) if dry_run else ("deleted", reasons.SUCCEEDED)
        return View("succeeded", reason, f"{done} of {len(tasks)} tasks {verb}")
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    first = next((task for task in tasks if task.state not in ("Deleted", "WouldDelete")), tasks[0])
    why = f"; first: {first.task_id}: {first.reason}" if first.reason else ""
    return View("failed", reasons.TASKS_NOT_DELETED, f"{counts}{why}")
