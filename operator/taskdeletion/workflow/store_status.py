"""What a TaskStore is found to be: a real probe of every part, and the siblings that nobody owns.

Called by the workers with the key of a TaskStore, again and again. Writes only where something changed. Puts back what
is whole and belongs to no request any more; deletes nothing, ever.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from taskdeletion.api import reasons
from taskdeletion.api.common import Condition
from taskdeletion.api.task_store import Leftovers, TaskStoreStatus
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import shorten
from taskdeletion.domain.results import Problem
from taskdeletion.kube.objects import Cluster, Key, LiveObject, ObjectGone, SpecChanged
from taskdeletion.observe.metrics import Metrics
from taskdeletion.observe.present import WHOLE, StoreRow
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.stores import Part, Stores
from taskdeletion.workflow.sweep import Sweep

log = logging.getLogger(__name__)
Findings = Mapping[Part, list[Problem]]


@dataclass(slots=True)
class StoreWorkflow:
    """Reconciles TaskStores. Thread-safe."""

    cluster: Cluster
    stores: Stores
    ownership: Ownership
    sweep: Sweep
    wake: Callable[[Key], None]
    probe_interval_seconds: float
    metrics: Metrics = field(default_factory=Metrics)

    def reconcile(self, key: Key) -> float | None:
        """Probe the store, sweep its root, write what changed. Returns seconds until the next probe."""
        live = self.cluster.read(key)
        if live is None or live.deleting:
            self.stores.forget(key.namespace, key.name)
            self.metrics.present.drop_store(key.namespace, key.name)
            return None
        findings, whole = self._examine(key)
        leftovers = self._sweep(live, findings)
        self.metrics.present.note_store(key.namespace, key.name, build_row(live, findings, whole, leftovers))
        was_ready = _is_ready(live)
        try:
            written = self.cluster.write_status(live, build_status(live, findings, whole, leftovers).to_api())
        except SpecChanged:
            return 0.0
        except ObjectGone:
            return None
        self._tell(written, was_ready=was_ready)
        return self.probe_interval_seconds

    def _examine(self, key: Key) -> tuple[Findings, Fault | None]:
        try:
            return self.stores.examine(key.namespace, key.name), None
        except Fault as fault:
            return {}, fault

    def _sweep(self, live: LiveObject, findings: Findings) -> Leftovers | None:
        if "Directory" not in findings or findings["Directory"]:
            return None
        try:
            return self.sweep.perform(live)
        except Fault as fault:
            log.warning("the root of %s could not be swept: %s", live.key, fault)
            return None

    def _tell(self, live: LiveObject, *, was_ready: bool) -> None:
        is_ready = _is_ready(live)
        if is_ready == was_ready:
            return
        ready = next(found for found in live.status["conditions"] if found["type"] == "Ready")
        self.cluster.emit(
            live, type="Normal" if is_ready else "Warning", reason=ready["reason"], message=ready["message"]
        )
        if is_ready:
            for key in self.ownership.keys_of(live.key.namespace, live.key.name):
                self.wake(key)


def _is_ready(live: LiveObject) -> bool:
    conditions = live.status.get("conditions") or []
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def build_row(live: LiveObject, findings: Findings, whole: Fault | None, leftovers: Leftovers | None) -> StoreRow:
    """The same as `build_status`, for monitoring."""
    parts = {str(part): [problem.reason for problem in found] for part, found in findings.items()}
    if whole is not None:
        parts[WHOLE] = [whole.reason]
    claimed, deleting = (leftovers.claimed, leftovers.deleting) if leftovers is not None else (None, None)
    return StoreRow(parts, live.server_time.timestamp(), claimed, deleting)


def build_status(
    live: LiveObject, findings: Findings, whole: Fault | None, leftovers: Leftovers | None
) -> TaskStoreStatus:
    """The whole status: one condition per part, Ready as their sum. `whole`: what is wrong with the store as such."""
    before = TaskStoreStatus.model_validate(live.status or {})
    known = {condition.type: condition for condition in before.conditions or []}
    verdicts = {f"{part}Ready": _verdict_of(found) for part, found in findings.items()}
    verdicts["Ready"] = _verdict_of_store(findings, whole)
    conditions = [
        _build_condition(known.get(kind), kind, verdict, generation=live.generation, now=live.server_time)
        for kind, verdict in verdicts.items()
    ]
    status = TaskStoreStatus(
        observed_generation=live.generation,
        last_probe_time=before.last_probe_time,
        leftovers=leftovers if leftovers is not None else before.leftovers,
        conditions=conditions,
    )
    return status if status == before else status.model_copy(update={"last_probe_time": live.server_time})


Verdict = tuple[Literal["True", "False"], str, str]


def _verdict_of(problems: Sequence[Problem]) -> Verdict:
    if not problems:
        return "True", reasons.READY, "probed, and found usable"
    return "False", problems[0].reason, shorten("; ".join(problem.message for problem in problems), 1024)


def _verdict_of_store(findings: Findings, whole: Fault | None) -> Verdict:
    if whole is not None:
        return "False", whole.reason, shorten(whole.message, 1024)
    broken = [(part, problem) for part, problems in findings.items() for problem in problems]
    if not broken:
        return "True", reasons.READY, "every part was probed and can be worked on"
    message = "; ".join(f"{part}: {problem.message}" for part, problem in broken)
    return "False", broken[0][1].reason, shorten(message, 1024)


def _build_condition(
    before: Condition | None, kind: str, verdict: Verdict, *, generation: int, now: datetime
) -> Condition:
    status, reason, message = verdict
    return Condition(
        type=kind,
        status=status,
        observed_generation=generation,
        last_transition_time=before.last_transition_time if before and before.status == status else now,
        reason=reason,
        message=message,
    )
