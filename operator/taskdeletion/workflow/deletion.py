"""What happens to one TaskDeletion, level-triggered: read, decide, perform, record, say when to look again.

Called by the workers with a key. Everything it knows it reads anew: the live object and its TaskStore. The order of
effects inside an attempt is in `attempt.py`; here is what surrounds attempts.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import ValidationError

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletionStatus, TaskStatus
from taskdeletion.domain.backoff import delay_before_attempt, delay_while_waiting
from taskdeletion.domain.claims import Rules
from taskdeletion.domain.conditions import View, is_terminal
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import fail
from taskdeletion.domain.plan import build_tasks
from taskdeletion.domain.request import resolve_cutoff
from taskdeletion.domain.summary import decide_phase
from taskdeletion.executors.store import OpenStore
from taskdeletion.kube.client import KubeForbidden, KubeUnavailable
from taskdeletion.kube.objects import Cluster, Key, LiveObject, StatusConflict
from taskdeletion.observe.audit import write_audit
from taskdeletion.observe.logging import about
from taskdeletion.workflow.attempt import Attempt
from taskdeletion.workflow.auditing import build_audit_records
from taskdeletion.workflow.claiming import Claim
from taskdeletion.workflow.halting import Halting
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record
from taskdeletion.workflow.rejection import find_rejection, reject_unreadable
from taskdeletion.workflow.stores import Stores

log = logging.getLogger(__name__)
_NO_CATALOG = (
    "the TaskStore has no catalog, so nothing can be checked; set force: true in a new request if that is meant"
)


@dataclass(slots=True)
class _Memory:
    """What one process knows of a request beside its status; losing it is safe."""

    #: Looks at an unavailable dependency so far, for the delay.
    looks: int = 0
    #: The last attempt ended by something that passes by itself (the API server away): the next one is the same one.
    is_uncounted: bool = False
    #: The object as last written, while it has begun tasks: a cancelled request is finished from it.
    begun: LiveObject | None = None
    #: When that answer was asked for, by the clock of this process.
    begun_at: float = 0.0


@dataclass(slots=True)
class DeletionWorkflow:
    """Reconciles TaskDeletions. Thread-safe: never two workers on one key (the queue sees to that)."""

    cluster: Cluster
    stores: Stores
    ownership: Ownership
    stopping: threading.Event
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    _memory: dict[Key, _Memory] = field(default_factory=dict)

    def reconcile(self, key: Key) -> float | None:
        """Bring one request as far as it can go now. Returns seconds until the next look, or None."""
        if self.stopping.is_set():
            return None
        asked_at = self.clock()
        live = self.cluster.read(key)
        self._close_predecessor(key, live)
        if live is None or live.deleting:
            return None
        try:
            record = Record(self.cluster, self.ownership, live, clock=self.clock, read_at=asked_at)
        except ValidationError as error:
            reject_unreadable(self.cluster, live, error)
            return None
        if is_terminal(record.status.conditions or []):
            return self._expire(record)
        self.ownership.observe(record.standing)
        return self._advance(record)

    # --- what is over -----------------------------------------------------------------------------------------------
    def _expire(self, record: Record) -> float | None:
        """The request has ended: delete it when its time to live is over."""
        self._memory.pop(record.live.key, None)
        self.ownership.forget(record.live.uid)
        record.acknowledge()
        ttl, ended = record.spec.ttl_seconds_after_finished, record.status.completion_time
        if ttl is None or ended is None:
            return None
        left = (ended + timedelta(seconds=ttl) - record.now).total_seconds()
        if left > 0:
            return left
        self.cluster.delete(record.live)
        return None

    def _close_predecessor(self, key: Key, live: LiveObject | None) -> None:
        """A request that was deleted while it ran is cancelled: what this process has claimed for it is finished."""
        memory = self._memory.get(key)
        before = memory.begun if memory else None
        if before is not None and (live is None or live.deleting or live.uid != before.uid):
            self._finish_cancelled(before, memory.begun_at if memory else 0.0)
        if live is None or live.deleting:
            self._memory.pop(key, None)
            self._forget_key(key)

    def _forget_key(self, key: Key) -> None:
        for uid in self.ownership.uids_at(key):
            self.ownership.forget(uid)

    def _finish_cancelled(self, before: LiveObject, read_at: float) -> None:
        self._memory.pop(before.key, None)
        record = Record(self.cluster, self.ownership, before, clock=self.clock, read_at=read_at)
        record.gone = True
        try:
            with self.stores.open_unprobed(before.key.namespace, record.spec.store_ref.name) as store:
                if store.uid == record.status.store_uid:
                    self._attempt(record, store, self._halting(record), only_begun=True).perform()
        except Fault as fault:
            # What was begun stays as a sibling: the TaskStore shows it, the next request that names the task adopts it.
            log.warning(
                "a cancelled request was not finished: %s",
                fault,
                extra=about(namespace=before.key.namespace, name=before.key.name),
            )
        self._close_cancelled(record)

    def _close_cancelled(self, record: Record) -> None:
        """Say what was finished and what never began; there is no status to say it in."""
        self.ownership.forget(record.live.uid)
        record.change(completion_time=record.now)
        for task in record.open_tasks():
            state = "PartiallyFailed" if task.claimed else "NotAttempted"
            record.put(task.model_copy(update={"state": state}))
        record.put(*(task.model_copy(update={"reason": reasons.CANCELLED}) for task in record.tasks.values()))
        self._audit(record)
        done = sum(task.state == "Deleted" for task in record.tasks.values())
        never = sum(task.state == "NotAttempted" for task in record.tasks.values())
        message = f"the request was deleted while it ran: {done} tasks were finished, {never} never began"
        self.cluster.emit(record.live, type="Warning", reason=reasons.CANCELLED, message=message)

    # --- what goes on -----------------------------------------------------------------------------------------------
    def _advance(self, record: Record) -> float | None:
        if (rejection := find_rejection(record)) is not None:
            return self._finish(record, View("rejected", *rejection))
        halting = self._halting(record)
        if record.spec.suspend and not any(task.state == "Deleting" for task in record.tasks.values()):
            return self._suspend(record)
        if (delay := self._delay_of_retry(record)) and not halting.is_past_deadline:
            return delay
        try:
            with self._open(record, halting) as store:
                return self._work(record, store, halting)
        except Fault as fault:
            return self._wait(record, halting, fault)

    def _halting(self, record: Record) -> Halting:
        limit, started = record.spec.active_deadline_seconds, record.status.start_time
        if limit is None:
            return Halting(self.stopping, self.clock, None)
        used = (record.now - started).total_seconds() if started else 0.0
        return Halting(self.stopping, self.clock, self.clock() + limit - used)

    def _delay_of_retry(self, record: Record) -> float | None:
        due = record.status.next_attempt_time
        if due is None:
            return None
        left = (due - record.now).total_seconds()
        return left if left > 0 else None

    def _open(self, record: Record, halting: Halting) -> OpenStore:
        """The store, whole. Past the deadline only its directory is needed, to undo what was never confirmed."""
        namespace, name = record.live.key.namespace, record.spec.store_ref.name
        if halting.is_past_deadline:
            return self.stores.open_unprobed(namespace, name)
        return self.stores.open(namespace, name)

    def _work(self, record: Record, store: OpenStore, halting: Halting) -> float | None:
        if record.status.store_uid not in (None, store.uid):
            message = f"TaskStore {store.name} was replaced while this request ran; create a new request"
            return self._end(record, store, reasons.STORE_REPLACED, message)
        if halting.is_past_deadline:
            return self._end(record, store, reasons.DEADLINE_EXCEEDED, "activeDeadlineSeconds have passed")
        if (record.status.attempts or 0) > record.spec.backoff_limit:
            return self._end(record, store, *_describe_backoff(record))
        if store.catalog is None and not record.spec.force:
            return self._finish(record, View("rejected", reasons.CATALOG_REQUIRED, _NO_CATALOG))
        self._prepare(record, store)
        memory = self._memory.setdefault(record.live.key, _Memory())
        attempt = self._attempt(record, store, halting, only_begun=record.spec.suspend, counts=not memory.is_uncounted)
        try:
            attempt.perform()
        except (KubeUnavailable, KubeForbidden, StatusConflict):
            memory.is_uncounted = attempt.is_counted  # what cut it short passes by itself: the next one is the same
            raise
        memory.is_uncounted = False
        return self._settle(record, store, halting, attempt)

    def _prepare(self, record: Record, store: OpenStore) -> None:
        """Fix what holds for the whole request: the order of work, the store, the cutoff in the catalog's clock."""
        if not record.tasks:
            record.put(*build_tasks(record.request))
        if record.status.cutoff is None and store.catalog is not None:
            cutoff = resolve_cutoff(record.request, database_now=store.catalog.now(), server_now=record.now)
            record.change(cutoff=cutoff)
        record.change(store_uid=store.uid)

    def _attempt(
        self, record: Record, store: OpenStore, halting: Halting, *, only_begun: bool, counts: bool = True
    ) -> Attempt:
        catalog = store.spec.catalog
        rules = Rules(
            force=record.spec.force,
            cleans_unknown=record.request.cleans_unknown,
            cutoff=record.status.cutoff,
            terminal_statuses=frozenset(catalog.postgres.terminal_statuses if catalog else ()),
        )
        return Attempt(
            record=record,
            store=store,
            ownership=self.ownership,
            halting=halting,
            rules=rules,
            only_begun=only_begun,
            counts=counts,
            uncertain=_cut_short(record),
        )

    # --- after an attempt -------------------------------------------------------------------------------------------
    def _settle(self, record: Record, store: OpenStore, halting: Halting, attempt: Attempt) -> float | None:
        if record.gone:
            self._settle_cancelled(record, store, halting)
            return None
        self._remember(record)
        if not record.open_tasks():
            return self._finish(record)
        if halting.is_past_deadline:
            return self._end(record, store, reasons.DEADLINE_EXCEEDED, "activeDeadlineSeconds have passed")
        if halting.is_shutting_down:
            self._give_back(record, attempt)
            record.write(View("waiting", reasons.INTERRUPTED, "the operator stopped; work goes on when it is back"))
            return None
        if record.spec.suspend and not any(attempt.has_begun(task.task_id) for task in record.open_tasks()):
            self._give_back(record, attempt)
            return self._suspend(record)
        if _has_stopped_on_error(record):
            return self._end_open(record, reasons.STOPPED_ON_ERROR, "a task before this one was not deleted")
        if "retriable" not in attempt.kinds:
            self._give_back(record, attempt)
            return self._wait(record, halting, _fault_of(record))
        if (record.status.attempts or 0) > record.spec.backoff_limit:
            return self._end(record, store, *_describe_backoff(record))
        return self._retry(record)

    def _settle_cancelled(self, record: Record, store: OpenStore, halting: Halting) -> None:
        self._memory.pop(record.live.key, None)
        if any(task.claimed for task in record.open_tasks()):
            self._attempt(record, store, halting, only_begun=True).perform()
        self._close_cancelled(record)

    def _remember(self, record: Record) -> None:
        memory = self._memory.setdefault(record.live.key, _Memory())
        memory.looks = 0
        begun = any(task.claimed for task in record.open_tasks())
        memory.begun, memory.begun_at = (record.live if begun else None), record.read_at

    @staticmethod
    def _give_back(record: Record, attempt: Attempt) -> None:
        if attempt.is_counted and attempt.counts:
            record.change(attempts=max((record.status.attempts or 0) - 1, 0))

    def _retry(self, record: Record) -> float:
        delay = delay_before_attempt(record.status.attempts or 1, self.jitter())
        record.change(next_attempt_time=record.now + timedelta(seconds=delay))
        waiting = len(record.open_tasks())
        fault = _fault_of(record)
        message = f"{waiting} tasks are tried again: {fault.message}"
        record.write(View("running", reasons.RETRYING, message))
        return delay

    def _wait(self, record: Record, halting: Halting, fault: Fault) -> float | None:
        """Something is away that comes back by itself: wait, use no attempt."""
        if halting.is_past_deadline:
            return self._wait_to_end(record, fault)
        if halting.is_shutting_down:
            return None
        memory = self._memory.setdefault(record.live.key, _Memory())
        memory.looks += 1
        record.change(
            start_time=record.status.start_time or record.now,
            next_attempt_time=None,
            phase="Running" if record.tasks else "Pending",
        )
        by_other = fault.reason == reasons.CLAIMED_BY_OTHER
        reason = fault.reason if by_other else reasons.DEPENDENCY_UNAVAILABLE
        record.write(View("waiting", reason, fault.message if by_other else f"{fault.reason}: {fault.message}"))
        delay = delay_while_waiting(memory.looks, self.jitter())
        limit = record.spec.active_deadline_seconds
        return delay if limit is None else min(delay, max(self._left(record, limit), 0.1))

    @staticmethod
    def _left(record: Record, limit: int) -> float:
        started = record.status.start_time or record.now
        return limit - (record.now - started).total_seconds()

    def _wait_to_end(self, record: Record, fault: Fault) -> float | None:
        """Past the deadline with a store that is away: end, unless a rename may be there that nothing confirmed."""
        if all(task.claimed for task in record.tasks.values() if task.state == "Deleting"):
            return self._end_open(record, reasons.DEADLINE_EXCEEDED, "activeDeadlineSeconds have passed")
        message = f"the deadline has passed; before the end a rename may have to be undone, and {fault.message}"
        record.write(View("stopping", reasons.DEADLINE_EXCEEDED, message))
        memory = self._memory.setdefault(record.live.key, _Memory())
        memory.looks += 1
        return delay_while_waiting(memory.looks, self.jitter())

    def _suspend(self, record: Record) -> float | None:
        for task in record.open_tasks():
            if task.state == "Deleting" and not task.claimed:
                record.put(task.model_copy(update={"state": "Pending"}))
        record.change(phase="Suspended", start_time=None, next_attempt_time=None)
        if not record.tasks:
            record.put(*build_tasks(record.request))
        message = "suspended: nothing new begins; set suspend: false to go on"
        record.write(View("suspended", reasons.SUSPENDED, message))
        return None

    # --- the end ----------------------------------------------------------------------------------------------------
    def _end(self, record: Record, store: OpenStore, reason: str, message: str) -> float | None:
        """End for a limit of the request. No request ends with a rename that nothing confirmed: undo it first."""
        claim = Claim(record, store, Rules(force=False, cleans_unknown=False, cutoff=None, terminal_statuses=()))
        for task in record.open_tasks():
            if task.claimed or task.state != "Deleting":
                continue
            fault = claim.undo(task.task_id)
            if fault is not None and fault.retriable:
                return self._wait_to_end(record, fault)
            if fault is not None:
                record.put(fail(task, reason=fault.reason, message=fault.message, at=record.now))
        return self._end_open(record, reason, message)

    def _end_open(self, record: Record, reason: str, message: str) -> float | None:
        """Give every open task its final state, then finish."""
        if not record.tasks:
            record.put(*build_tasks(record.request))
        for task in record.open_tasks():
            record.put(_close(task, record, reason, message))
        return self._finish(record, View("failed", reason, message))

    def _finish(self, record: Record, view: View | None = None) -> float | None:
        tasks = list(record.tasks.values())
        phase = decide_phase(tasks, ignore_not_found=record.spec.not_found_policy == "Ignore") if tasks else "Failed"
        if view is not None and phase == "Succeeded":
            phase = "Failed"
        record.change(
            phase=phase,
            start_time=record.status.start_time or record.now,
            completion_time=record.now,
            next_attempt_time=None,
        )
        record.write(view or _describe_end(record.status, tasks, dry_run=record.spec.dry_run))
        self._memory.pop(record.live.key, None)
        if record.gone:
            self._close_cancelled(record)
            return None
        self._audit(record)
        return record.spec.ttl_seconds_after_finished

    def _audit(self, record: Record) -> None:
        for line in build_audit_records(record):
            write_audit(line)


def _close(task: TaskStatus, record: Record, reason: str, message: str) -> TaskStatus:
    begun = task.state == "Deleting" or task.resources
    if not begun:
        return task.model_copy(update={"state": "NotAttempted", "reason": reason, "message": None})
    detail = f"{message}; {task.message}" if task.message else message
    return fail(task, reason=reason, message=detail, at=record.now)


def _cut_short(record: Record) -> frozenset[str]:
    """Claimed tasks whose last attempt never wrote its end: the process died in it."""
    conditions = record.status.conditions or []
    running = any(found.type == "Reconciling" and found.reason == reasons.PROGRESSING for found in conditions)
    return frozenset(task.task_id for task in record.open_tasks() if running and task.claimed)


def _has_stopped_on_error(record: Record) -> bool:
    """Without continueOnError a task that ended badly ends the rest; one that is open is tried again first."""
    if record.spec.continue_on_error:
        return False
    good = {"Deleted", "WouldDelete"} | ({"NotFound"} if record.spec.not_found_policy == "Ignore" else set())
    closed = [task for task in record.tasks.values() if task not in record.open_tasks()]
    return any(task.state not in good for task in closed)


def _fault_of(record: Record) -> Fault:
    """Why the first open task is open."""
    for task in record.open_tasks():
        failed = next((found for found in task.resources or [] if found.retriable), None)
        if failed is not None:
            return Fault("waiting", failed.reason or "", f"{failed.resource}: {failed.message or failed.reason}")
        if task.reason is not None:
            return Fault("waiting", task.reason, task.message or task.reason)
    return Fault("waiting", reasons.INTERRUPTED, "work was interrupted and goes on")


def _describe_backoff(record: Record) -> tuple[str, str]:
    return (
        reasons.BACKOFF_LIMIT_EXCEEDED,
        f"{record.status.attempts} attempts were begun, backoffLimit is {record.spec.backoff_limit}",
    )


def _describe_end(status: TaskDeletionStatus, tasks: list[TaskStatus], *, dry_run: bool) -> View:
    states = [task.state for task in tasks]
    if status.phase == "Succeeded":
        done = states.count("Deleted") + states.count("WouldDelete")
        verb = "would be deleted" if dry_run else "deleted"
        return View(
            "succeeded", reasons.DRY_RUN if dry_run else reasons.SUCCEEDED, f"{done} of {len(tasks)} tasks {verb}"
        )
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    first = next((task for task in tasks if task.state not in ("Deleted", "WouldDelete")), tasks[0])
    why = f"; first: {first.task_id}: {first.reason}" if first.reason else ""
    return View("failed", reasons.TASKS_NOT_DELETED, f"{counts}{why}")
