"""Whether one task may go: decided when it is read, and again under the lock (docs/safety.md, "The order of effects").

Pure.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from taskdeletion.api import reasons
from taskdeletion.api.common import format_time
from taskdeletion.api.task_deletion import TaskState
from taskdeletion.domain.catalog import CatalogEntry, Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.states import has_lost_keys


@dataclass(frozen=True, slots=True)
class Rules:
    """What one request allows. `cutoff`: catalog's clock; `terminal_statuses`: of the store.

    `statuses`: those that a task may have, empty where the request does not say.
    """

    force: bool
    cleans_unknown: bool
    cutoff: datetime | None
    terminal_statuses: Collection[str]
    statuses: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a task is not touched: its final state, a reason, and a sentence."""

    state: TaskState
    reason: str
    message: str


#: The version of a task that the catalog does not know, where its residue may go all the same.
UNKNOWN_TASK = Version("", "")


def decide_claim(entry: CatalogEntry | None, announced: Version | None, rules: Rules) -> Refusal | None:
    """None when the task may go; `announced` is the version that status holds, None before the announcement."""
    if entry is None:
        return _decide_missing(announced, rules)
    if announced is not None and not _is_same_run(announced, entry, force=rules.force):
        return Refusal(
            "Refused",
            reasons.TASK_CHANGED,
            "the task changed after it was announced; create a new request when it may go",
        )
    return _decide_age(entry, rules) or _decide_running(entry, rules) or _decide_status(entry, rules)


def _is_same_run(announced: Version, entry: CatalogEntry, *, force: bool) -> bool:
    """An entry is never the task that the catalog did not know: it is a new one, whatever its creation time says."""
    return announced != UNKNOWN_TASK and announced.matches(entry.version, force=force)


def _decide_missing(announced: Version | None, rules: Rules) -> Refusal | None:
    if rules.cleans_unknown and announced in (None, UNKNOWN_TASK):
        return None
    return Refusal(
        "NotFound",
        reasons.NOT_IN_CATALOG,
        "the catalog does not know this task, so nothing was touched; check the id",
    )


def _decide_age(entry: CatalogEntry, rules: Rules) -> Refusal | None:
    if entry.created_at is None:
        if rules.force:
            return None
        return Refusal(
            "Refused",
            reasons.CREATION_TIME_UNKNOWN,
            "the catalog has no creation time for this task, so its age cannot be checked; set it, or use force: true",
        )
    if rules.cutoff is not None and entry.created_at >= rules.cutoff:
        return Refusal(
            "Refused",
            reasons.TASK_NEWER_THAN_REQUEST,
            f"the task was created {format_time(entry.created_at)}, not before the cutoff {format_time(rules.cutoff)};"
            " if it may go, create a request with a later tasksCreatedBefore",
        )
    return None


def _decide_running(entry: CatalogEntry, rules: Rules) -> Refusal | None:
    if rules.force:
        return None
    if entry.status not in rules.terminal_statuses:
        word = entry.status[:64] or "without a status"
        return Refusal("Refused", reasons.TASK_RUNNING, f"task is {word}; wait for it or set force: true")
    if entry.activity:
        return Refusal("Refused", reasons.TASK_RUNNING, f"{entry.activity}; wait for it or set force: true")
    return None


def _decide_status(entry: CatalogEntry, rules: Rules) -> Refusal | None:
    others = entry.all_statuses - set(rules.statuses)
    if not (rules.statuses and others):
        return None
    word = min(others)[:64] or "without a status"
    return Refusal(
        "Refused",
        reasons.OTHER_STATUS,
        f"task is {word}, which spec.statuses does not name; if it may go, create a request that does",
    )


def decide_still_claimed(entry: CatalogEntry | None, claimed: Version, *, force: bool) -> Fault | None:
    """None while the catalog still holds the run that was claimed; else why nothing more of the task may be touched."""
    if entry is None:
        if claimed == UNKNOWN_TASK:
            return None
        return Fault("permanent", reasons.CATALOG_ENTRY_GONE, "the catalog entry went away while the task was deleted")
    if not _is_same_run(claimed, entry, force=force):
        return _describe_change(entry, claimed)
    if entry.activity and not force:  # a run that left the version as it was has still begun
        message = f"{entry.activity}, after the task was claimed; nothing of the new run was touched"
        return Fault("permanent", reasons.TASK_RESTARTED, message)
    return None


def _describe_change(entry: CatalogEntry, claimed: Version) -> Fault:
    if has_lost_keys(claimed, entry.version) and not entry.activity:
        message = "some of its state keys went away while the task was deleted: they expired, or somebody deleted them"
        return Fault("permanent", reasons.CATALOG_ENTRY_GONE, message)
    return Fault("permanent", reasons.TASK_RESTARTED, "the task was restarted; nothing of the new run was touched")
