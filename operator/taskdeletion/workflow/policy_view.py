"""How a policy stands, in words: of its last run, its preview and what goes on, what people and GitOps tools are shown.

Called by the workflow of policies. It decides nothing but what to say.
"""

from typing import Any

from taskdeletion.api import reasons
from taskdeletion.api.common import format_time
from taskdeletion.api.retention_status import Evaluation, Run, TaskRetentionPolicyStatus
from taskdeletion.domain.outcomes import shorten
from taskdeletion.domain.retention import Selected
from taskdeletion.kube.objects import Cluster, LiveObject
from taskdeletion.workflow.policy_record import MESSAGE_LIMIT, PolicyRecord, PolicyView, build_conditions


def count(selected: Selected) -> dict[str, Any]:
    """The fields of an Evaluation."""
    return {
        "evaluated": selected.evaluated,
        "matched": selected.matched,
        "protected": selected.protected,
        "refused": selected.refused,
        "selected": len(selected.task_ids),
        "reason": selected.reason or None,
        "message": shorten(selected.message, MESSAGE_LIMIT) or None,
    }


def describe_run(run: Run) -> str:
    """What a run did so far, as a sentence."""
    if not run.created:
        return run.message or "nothing was to be done"
    text = f"{_many(run.selected, 'task')} in {_many(run.created, 'TaskDeletion')}"
    if run.phase != "Active" or len(run.active) < run.created:
        text += f": {_many(run.deleted, 'task')} deleted, {run.failed} not; {run.size_freed} freed"
    if run.at_least:
        text += "; of the TaskDeletions that are gone no more is known"
    return text


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def describe_standing(record: PolicyRecord) -> PolicyView:
    """The view of a policy that waits for nothing but its next time."""
    spec, status = record.spec, record.status
    if status.active:
        run = status.last_run
        is_current = run is not None and run.phase == "Active"
        what = describe_run(run) if run is not None and is_current else _many(status.active, "TaskDeletion")
        return PolicyView("fine", reasons.RUN_ACTIVE, f"a run goes on: {what}")
    trouble = _find_trouble(status, record.live.generation)
    if trouble is not None:
        return trouble
    upcoming = status.next_schedule_time
    message = f"the next run is at {format_time(upcoming)}" if upcoming is not None else "no run is to come"
    if status.preview is not None and status.last_run is None:
        message += f"; it would take {status.preview.selected} tasks"
    if not spec.rules:
        return PolicyView("fine", reasons.NO_RULES, f"spec.rules is empty, so nothing goes; {message}")
    if spec.dry_run:
        return PolicyView("fine", reasons.DRY_RUN, f"dryRun: nothing is created; {message}")
    return PolicyView("fine", reasons.SCHEDULED, message)


def _find_trouble(status: TaskRetentionPolicyStatus, generation: int) -> PolicyView | None:
    """What the last evaluation by this spec came to, where somebody has to see to it."""
    latest: Evaluation | None = status.preview
    run = status.last_run
    if run is not None and run.generation == generation:
        latest = run
        if run.phase == "Failed":
            return PolicyView("stalled", reasons.RUN_FAILED, f"the last run failed: {describe_run(run)}")
    if latest is not None and latest.reason == reasons.LIMIT_EXCEEDED:
        return PolicyView("stalled", reasons.LIMIT_EXCEEDED, latest.message or "")
    return None


def reject_unreadable(cluster: Cluster, live: LiveObject, problem: str) -> None:
    """Say that this operator cannot read the policy; what it has in its status stays as it is."""
    view = PolicyView("invalid", reasons.INVALID_SPEC, f"this operator cannot read the policy: {problem}")
    conditions = build_conditions([], view, generation=live.generation, now=live.server_time)
    changes = {"conditions": [found.to_api() for found in conditions], "observedGeneration": live.generation}
    if [_told(found) for found in live.status.get("conditions") or ()] != [
        _told(found.to_api()) for found in conditions
    ]:
        cluster.write_status(live, {**live.status, **changes})


def _told(condition: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(condition.get(name) for name in ("type", "status", "reason", "message", "observedGeneration"))
