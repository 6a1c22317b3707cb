"""A TaskRetentionPolicy while it is worked on: as it was read, what its status is to become, and the write.

Used by the workflow of policies. Every write carries the resourceVersion of the read or write before it, so that of two
writers one fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from taskdeletion.api import reasons
from taskdeletion.api.common import Condition
from taskdeletion.api.retention_policy import TaskRetentionPolicySpec
from taskdeletion.api.retention_status import TaskRetentionPolicyStatus
from taskdeletion.domain.admission import UNKNOWN
from taskdeletion.domain.outcomes import shorten
from taskdeletion.domain.runs import Policy
from taskdeletion.kube.objects import Cluster, LiveObject

Stage = Literal["fine", "working", "waiting", "stalled", "invalid"]
#: kstatus: Reconciling and Stalled are there only while they are true.
_ROWS: dict[Stage, dict[str, Literal["True", "False"]]] = {
    "fine": {"Accepted": "True", "Ready": "True"},
    "working": {"Accepted": "True", "Reconciling": "True", "Ready": "False"},
    "waiting": {"Accepted": "True", "Reconciling": "True", "Ready": "False"},
    "stalled": {"Accepted": "True", "Stalled": "True", "Ready": "False"},
    "invalid": {"Accepted": "False", "Stalled": "True", "Ready": "False"},
}
MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class PolicyView:
    """How a policy stands, for its conditions."""

    stage: Stage
    reason: str
    message: str


@dataclass(slots=True)
class PolicyRecord:
    """One policy. Raises ValidationError where this operator cannot read its spec or status.

    `due`: the time of a run that is to begin and has not yet.
    """

    cluster: Cluster
    live: LiveObject
    spec: TaskRetentionPolicySpec = field(init=False)
    status: TaskRetentionPolicyStatus = field(init=False)
    due: datetime | None = field(default=None, init=False)
    requested_by: str = field(default=UNKNOWN, init=False)

    def __post_init__(self) -> None:
        self.spec = TaskRetentionPolicySpec.model_validate(self.live.spec)
        self.status = TaskRetentionPolicyStatus.model_validate(self.live.status)

    @property
    def policy(self) -> Policy:
        """Its identity."""
        return Policy(self.live.key.namespace, self.live.key.name, self.live.uid, self.requested_by)

    @property
    def now(self) -> datetime:
        """The API server's clock at the last read or write."""
        return self.live.server_time

    @property
    def ready(self) -> Condition | None:
        """The Ready condition as it was last written."""
        return next((found for found in self.status.conditions or () if found.type == "Ready"), None)

    def change(self, **fields: Any) -> None:
        """Change fields of the status, to be written with the next `write`."""
        self.status = self.status.model_copy(update=fields)

    def write(self, view: PolicyView | None = None) -> None:
        """Write the status, with the conditions of `view`. Raises SpecChanged, StatusConflict, ObjectGone."""
        if view is not None:
            before = self.status.conditions or []
            conditions = build_conditions(before, view, generation=self.live.generation, now=self.now)
            self.change(conditions=conditions, observed_generation=self.live.generation)
        self.live = self.cluster.write_status(self.live, self.status.to_api())

    def tell(self, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """An Event about the policy."""
        self.cluster.emit(self.live, type=kind, reason=reason, message=message)


def build_conditions(
    before: Sequence[Condition], view: PolicyView, *, generation: int, now: datetime
) -> list[Condition]:
    """All conditions of `view`; `lastTransitionTime` moves only where a status changes."""
    known = {condition.type: condition for condition in before}
    found = []
    for kind, status in _ROWS[view.stage].items():
        old, accepted = known.get(kind), kind == "Accepted" and status == "True"
        found.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=generation,
                last_transition_time=old.last_transition_time if old and old.status == status else now,
                reason=reasons.ACCEPTED if accepted else view.reason,
                message="the policy is valid" if accepted else shorten(view.message, MESSAGE_LIMIT),
            )
        )
    return found
