"""The run of a policy as TaskDeletions: their names, labels and manifests, and what became of them. Pure.

ADR 0012 has the order in which they are created and released.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from taskdeletion.api.common import API_VERSION, GROUP, format_time
from taskdeletion.api.retention_policy import TaskRetentionPolicy, TaskRetentionPolicySpec
from taskdeletion.api.retention_status import Run
from taskdeletion.api.task_deletion import MAX_TASK_IDS, TaskDeletion
from taskdeletion.domain.admission import STAMP, UNKNOWN
from taskdeletion.domain.retention import Group
from taskdeletion.domain.sizes import format_size

POLICY_LABEL: Final = f"{GROUP}/policy"
RUN_LABEL: Final = f"{GROUP}/run"
SCHEDULED_ANNOTATION: Final = f"{GROUP}/scheduled-time"
DRAFT_ANNOTATION: Final = f"{GROUP}/draft"
_UID_CHARACTERS: Final = 5
_TIME_TO_LIVE: Final = "ttlSecondsAfterFinished"


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run has to know of its policy, beside the spec. `requested_by`: who wrote it, where that is certain."""

    namespace: str
    name: str
    uid: str
    requested_by: str = UNKNOWN


@dataclass(frozen=True, slots=True)
class Child:
    """A TaskDeletion that carries the label of a policy.

    `owner_uid`: of its controller, "" without one. `draft`: "" once it is released. `has_begun`: work on it began.
    `verdict`: how it ended, None before. `task_ids`: those that it names, empty once it has ended. `deleted`, `failed`
    (tasks), `bytes_freed`: so far.
    """

    name: str
    uid: str
    resource_version: str
    owner_uid: str
    run: str
    draft: str
    is_suspended: bool
    has_begun: bool
    verdict: Literal["Complete", "Failed"] | None
    ended_at: datetime | None
    task_ids: frozenset[str]
    deleted: int
    failed: int
    bytes_freed: int

    @property
    def is_draft(self) -> bool:
        """Whether it may be thrown away: suspended since it was created, and nothing was ever done for it."""
        return bool(self.draft) and self.is_suspended and not self.has_begun

    @property
    def is_live(self) -> bool:
        """Whether it was released (or set going by hand) and has not ended."""
        return not self.is_draft and self.verdict is None


def run_of(scheduled_time: datetime) -> str:
    """The value of the run's label: minutes since 1970, as a CronJob names its Jobs."""
    return str(int(scheduled_time.astimezone(UTC).timestamp()) // 60)


def name_of(policy: Policy, scheduled_time: datetime, number: int) -> str:
    """The name of part `number` (from 1): the same whoever creates it, and whenever."""
    return f"{policy.name}-{run_of(scheduled_time)}-{policy.uid[:_UID_CHARACTERS]}-{number}"


def split(groups: Iterable[Group]) -> Iterator[Group]:
    """What each part is about, in order: tasks of one group, as many as a TaskDeletion may name."""
    for group in groups:
        for start in range(0, len(group.task_ids), MAX_TASK_IDS):
            yield Group(group.statuses, group.task_ids[start : start + MAX_TASK_IDS])


def build_part(
    policy: Policy,
    spec: TaskRetentionPolicySpec,
    *,
    scheduled_time: datetime,
    number: int,
    group: Group,
    cutoff: datetime,
    draft: str,
) -> dict[str, Any]:
    """The manifest of one TaskDeletion of a draft: suspended, and owned by the policy.

    It has no time to live of its own: the policy removes it (`find_surplus`) once it has seen how it ended.
    """
    template = {name: value for name, value in spec.template.to_api().items() if name != _TIME_TO_LIVE}
    annotations = {SCHEDULED_ANNOTATION: format_time(scheduled_time), DRAFT_ANNOTATION: draft}
    if policy.requested_by != UNKNOWN:
        annotations[STAMP] = policy.requested_by
    owner = {
        "apiVersion": API_VERSION,
        "kind": TaskRetentionPolicy.KIND,
        "name": policy.name,
        "uid": policy.uid,
        "controller": True,
    }
    return {
        "apiVersion": API_VERSION,
        "kind": TaskDeletion.KIND,
        "metadata": {
            "name": name_of(policy, scheduled_time, number),
            "namespace": policy.namespace,
            "labels": {POLICY_LABEL: policy.name, RUN_LABEL: run_of(scheduled_time)},
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            **template,
            "storeRef": spec.store_ref.to_api(),
            "taskIds": list(group.task_ids),
            "statuses": sorted(group.statuses),
            "confirm": True,
            "tasksCreatedBefore": format_time(cutoff),
            "suspend": True,
        },
    }


def follow(run: Run, children: Iterable[Child], *, now: datetime) -> Run:
    """The run as its TaskDeletions stand now; it ends when none of them goes on."""
    label = run_of(run.scheduled_time)
    mine = {child.name: child for child in children if child.run == label or child.name in run.active}
    active = [name for name in run.active if name in mine and mine[name].verdict is None]
    ended = [name for name in run.active if name in mine and mine[name].verdict is not None]
    lost = len(run.active) - len(active) - len(ended)
    failures = run.failures + lost + sum(mine[name].verdict == "Failed" for name in ended)
    freed = max(run.bytes_freed, sum(child.bytes_freed for child in mine.values()))
    changes: dict[str, Any] = {
        "active": active,
        "failures": failures,
        "deleted": max(run.deleted, sum(child.deleted for child in mine.values())),
        "failed": max(run.failed, sum(child.failed for child in mine.values() if child.verdict is not None)),
        "bytes_freed": freed,
        "size_freed": format_size(freed),
        "at_least": True if run.at_least or len(mine) < run.created else None,
    }
    if not active:
        changes |= {"phase": "Failed" if failures else "Succeeded", "completion_time": now}
    return run.model_copy(update=changes)


def find_surplus(
    children: Iterable[Child], spec: TaskRetentionPolicySpec, *, last_run: str, followed: Collection[str], now: datetime
) -> list[Child]:
    """Ended TaskDeletions whose time is over, and those that the history limits leave no room for, oldest first.

    The limits leave those of `last_run`. What is `followed` by name, which ends with a status that says how it all
    ended, stays in any case.
    """
    limits: Mapping[str, int] = {
        "Complete": spec.successful_deletions_history_limit,
        "Failed": spec.failed_deletions_history_limit,
    }
    ended = [c for c in children if c.verdict is not None and c.ended_at is not None and c.name not in followed]
    surplus = []
    for verdict, limit in limits.items():
        mine = sorted((c for c in ended if c.verdict == verdict), key=lambda c: (c.ended_at, c.name), reverse=True)
        surplus += [child for child in mine[limit:] if child.run != last_run]
    expired = [child for child in ended if (end := expires_at(child, spec)) is not None and end <= now]
    return list({child.name: child for child in (*expired, *surplus[::-1])}.values())


def expires_at(child: Child, spec: TaskRetentionPolicySpec) -> datetime | None:
    """When the time to live of an ended TaskDeletion is over, if the template gives it one."""
    seconds = spec.template.ttl_seconds_after_finished
    return None if seconds is None or child.ended_at is None else child.ended_at + timedelta(seconds=seconds)
