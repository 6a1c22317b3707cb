"""The table of docs/status.md, "Conditions": one stage of a request in, all its conditions out. Pure.

kstatus reads Reconciling and Stalled (present only while true) and Ready; `kubectl wait` reads Complete and Failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from taskdeletion.api import reasons
from taskdeletion.api.common import Condition
from taskdeletion.domain.outcomes import shorten

Stage = Literal["suspended", "running", "waiting", "stopping", "succeeded", "failed", "rejected"]
ConditionStatus = Literal["True", "False"]
_ROWS: dict[Stage, dict[str, ConditionStatus]] = {
    "suspended": {"Accepted": "True", "Ready": "False"},
    "running": {"Accepted": "True", "Reconciling": "True", "Ready": "False"},
    "waiting": {"Accepted": "True", "Reconciling": "True", "Ready": "False"},
    "stopping": {"Accepted": "True", "Reconciling": "True", "Ready": "False", "FailureTarget": "True"},
    "succeeded": {"Accepted": "True", "Ready": "True", "Complete": "True"},
    "failed": {"Accepted": "True", "Stalled": "True", "Ready": "False", "FailureTarget": "True", "Failed": "True"},
    "rejected": {"Accepted": "False", "Stalled": "True", "Ready": "False", "FailureTarget": "True", "Failed": "True"},
}
MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class View:
    """Where a request stands: its stage, and why, for the conditions that carry the news."""

    stage: Stage
    reason: str
    message: str


def build_conditions(before: Sequence[Condition], view: View, *, generation: int, now: datetime) -> list[Condition]:
    """All conditions of `view`; `lastTransitionTime` moves only where a status changes."""
    known = {condition.type: condition for condition in before}
    return [
        _build(known.get(kind), kind, status, view, generation=generation, now=now)
        for kind, status in _ROWS[view.stage].items()
    ]


def _build(
    before: Condition | None, kind: str, status: ConditionStatus, view: View, *, generation: int, now: datetime
) -> Condition:
    accepted = kind == "Accepted" and status == "True"
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and before.status == status else now,
        reason=reasons.ACCEPTED if accepted else view.reason,
        message="the request is valid" if accepted else shorten(view.message, MESSAGE_LIMIT),
    )


def is_terminal(conditions: Sequence[Condition]) -> bool:
    """Whether the request has ended: Complete or Failed is True. They exclude each other and never go back."""
    return any(found.type in ("Complete", "Failed") and found.status == "True" for found in conditions)


def find_end_reason(conditions: Sequence[Condition]) -> str:
    """Why the request ended as it did; "" where it has not."""
    ends = (found.reason for found in conditions if found.type in ("Complete", "Failed") and found.status == "True")
    return next(ends, "")
