"""What happens to one TaskDeletion, level-triggered: read, decide, perform, record, say when to look again.

Called by the workers with a key. Everything it decides on it reads anew: the live object and its TaskStore. The order
of effects inside an attempt is in `attempt.py`; here is what surrounds attempts.
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
from taskdeletion.api.task_deletion import MAX_REQUESTER_LENGTH
from taskdeletion.domain.admission import UNKNOWN, guarded_options
from taskdeletion.domain.backoff import delay_before_attempt, delay_while_waiting
from taskdeletion.domain.claims import Rules
from taskdeletion.domain.conditions import View, find_end_reason, is_terminal
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.plan import build_tasks
from taskdeletion.domain.request import resolve_cutoff
from taskdeletion.domain.runs import DRAFT_ANNOTATION
from taskdeletion.executors.store import OpenStore
from taskdeletion.kube.client import KubeForbidden, KubeUnavailable
from taskdeletion.kube.objects import Cluster, Key, LiveObject, StatusConflict
from taskdeletion.observe.logging import about
from taskdeletion.observe.metrics import Metrics
from taskdeletion.workflow.admission import Admission
from taskdeletion.workflow.attempt import Attempt
from taskdeletion.workflow.cancellation import close_cancelled
from taskdeletion.workflow.ending import (
    BEFORE_THE_END,
    STOPPED,
    Limit,
    close_tasks,
    find_limit,
    has_unconfirmed,
    undo_unconfirmed,
    write_end,
)
from taskdeletion.workflow.halting import Halting
from taskdeletion.workflow.memory import Memories, Memory
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record
from taskdeletion.workflow.rejection import find_rejection, reject_unreadable
from taskdeletion.workflow.stores import Stores

log = logging.getLogger(__name__)
_NO_CATALOG = "the TaskStore has no catalog, so nothing can be checked; if that is meant, set force: true"
_INTERRUPTED = View("waiting", reasons.INTERRUPTED, "the operator stopped; work goes on when it is back")
_SUSPENDED = View("suspended", reasons.SUSPENDED, "suspended: nothing new begins; set suspend: false to go on")


@dataclass(slots=True)
class DeletionWorkflow:
    """Reconciles TaskDeletions. Thread-safe: never two workers on one key (the queue sees to that)."""

    cluster: Cluster
    stores: Stores
    ownership: Ownership
    stopping: threading.Event
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    leadership: Leadership = ALONE
    admission: Admission | None = None
    metrics: Metrics = field(default_factory=Metrics)
    _memories: Memories = field(default_factory=Memories)

    def reconcile(self, key: Key, *, due_at: float | None = None) -> float | None:
        """Bring one request as far as it can go now. Returns seconds until the next look, or None.

        `due_at`: when that became due, by the clock; what was read of the store since then may be shared. None: now.
        """
        if self.stopping.is_set():
            return None
        asked_at = self.clock()
        live = self.cluster.read(key)
        self._close_predecessor(key, live)
        if live is None or live.deleting:
            self.metrics.present.drop_request(key.namespace, key.name)
            return None
        if live.spec.get("suspend") is True and DRAFT_ANNOTATION in live.annotations:
            return None  # a run that is still being created: nobody's request yet, and not ours to write to
        try:
            record = Record(self.cluster, self.ownership, live, clock=self.clock, read_at=asked_at)
        except ValidationError as error:
            reject_unreadable(self.cluster, live, error)
            return None
        if is_terminal(record.status.conditions or []):
            return self._expire(record)
        self.ownership.observe(record.standing)
        try:
            return self._advance(record, due_at)
        except (KubeUnavailable, KubeForbidden, StatusConflict):
            raise  # what passes by itself, and the worker tries again
        except Exception as error:
            self._tell_unforeseen(record, error)
            raise
        finally:
            if not record.gone and "completionTime" not in record.live.status:  # an end that was not written is none
                self.recall(record.live, record.read_at)
            else:
                self.metrics.present.drop_request(key.namespace, key.name)

    def _tell_unforeseen(self, record: Record, error: Exception) -> None:
        kind = type(error).__name__
        message = (
            f"an error that nobody foresaw ({kind}) ended the attempt; it is tried again, the operator's log has it"
        )
        self.cluster.emit(record.live, type="Warning", reason=reasons.INTERNAL_ERROR, message=message)

    def recall(self, live: LiveObject, read_at: float) -> None:
        """Keep a live request as it is published: if it is cancelled, it is finished from that."""
        if live.status.get("tasks"):
            memory = self._memories.of(live)
            memory.last, memory.last_read_at = live, read_at

    # --- what is over -----------------------------------------------------------------------------------------------
    def _expire(self, record: Record) -> float | None:
        """The request has ended: delete it when its time to live is over."""
        self._memories.drop(record.live.key)
        self.ownership.forget(record.live.uid)
        self.metrics.present.drop_request(record.live.key.namespace, record.live.key.name)
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
        """A request that was deleted while it was live is cancelled; what it had claimed is finished here."""
        memory, present = self._memories.at(key), None if live is None or live.deleting else live.uid
        if memory is not None and memory.uid != present:
            if memory.last is not None:
                self._finish_cancelled(memory.last, memory.last_read_at)
            self._memories.drop(key)
        for uid in self.ownership.uids_at(key):
            if uid != present:
                self.ownership.forget(uid)

    def _finish_cancelled(self, last: LiveObject, read_at: float) -> None:
        record = Record(self.cluster, self.ownership, last, clock=self.clock, read_at=read_at)
        record.gone = True
        try:
            self._finish_claimed(record)
        except Fault as fault:
            # What was begun stays as a sibling: the TaskStore shows it, the next request that names the task adopts it.
            where = about(namespace=last.key.namespace, name=last.key.name)
            log.warning("a cancelled request was not finished: %s", fault, extra=where)
        self._close_cancelled(record)

    def _close_cancelled(self, record: Record) -> None:
        close_cancelled(self.cluster, self.ownership, record)
        self._count_end(record, reasons.CANCELLED)

    def _finish_claimed(self, record: Record) -> None:
        if not any(task.claimed for task in record.open_tasks()):
            return
        with self.stores.open_unprobed(record.live.key.namespace, record.spec.store_ref.name) as store:
            if store.uid == record.status.store_uid:
                self._build_attempt(record, store, self._halting(record), only_begun=True).perform()

    # --- what goes on -----------------------------------------------------------------------------------------------
    def _advance(self, record: Record, due_at: float | None) -> float | None:
        self._note_requester(record)
        if (rejection := find_rejection(record)) is not None:
            return self._finish(record, View("rejected", *rejection))
        halting, memory = self._halting(record), self._memories.of(record.live)
        if record.spec.suspend and not any(task.state == "Deleting" for task in record.tasks.values()):
            self._suspend(record)
            return None
        if (limit := find_limit(record, halting, may_repeat=memory.repeats is not None)) is not None:
            return self._end(record, limit)
        if (delay := self._delay_of_retry(record)) is not None:
            return delay
        try:
            if (refusal := self._find_refusal(record)) is not None:
                return self._finish(record, View("rejected", reasons.NOT_ADMITTED, refusal))
            namespace, name = record.live.key.namespace, record.spec.store_ref.name
            with self.stores.open(namespace, name, due_at=due_at) as store:
                return self._work(record, store, halting, memory)
        except Fault as fault:
            return self._wait(record, fault)

    def _note_requester(self, record: Record) -> None:
        if record.status.requested_by is None:
            found = self.admission.find_requester(record.live) if self.admission is not None else UNKNOWN
            record.change(requested_by=found[:MAX_REQUESTER_LENGTH])

    def _find_refusal(self, record: Record) -> str | None:
        """Why a request that has not begun may not. Raises Fault where it has to wait for the admission policy."""
        if self.admission is None or record.has_begun:
            return None
        options = guarded_options(force=record.spec.force, delete_database_records=record.spec.delete_database_records)
        return self.admission.find_refusal(record.live, options)

    def _halting(self, record: Record) -> Halting:
        left = self._left(record)
        deadline = None if left is None else self.clock() + left
        return Halting(self.stopping, self.clock, deadline, self.leadership)

    @staticmethod
    def _left(record: Record) -> float | None:
        """Seconds until the deadline; None without one."""
        limit = record.spec.active_deadline_seconds
        if limit is None:
            return None
        started = record.status.start_time or record.now
        return limit - (record.now - started).total_seconds()

    @staticmethod
    def _delay_of_retry(record: Record) -> float | None:
        due = record.status.next_attempt_time
        left = (due - record.now).total_seconds() if due is not None else 0.0
        return left if left > 0 else None

    def _work(self, record: Record, store: OpenStore, halting: Halting, memory: Memory) -> float | None:
        if record.status.store_uid not in (None, store.uid):
            message = f"TaskStore {store.name} was replaced while this request ran; create a new request"
            return self._end(record, Limit(reasons.STORE_REPLACED, message))
        if store.catalog is None and not record.spec.force:
            return self._finish(record, View("rejected", reasons.CATALOG_REQUIRED, _NO_CATALOG))
        self._prepare(record, store)
        before = _progress_of(record)
        self._note(record, "Running")
        number = memory.repeats or (record.status.attempts or 0) + 1
        attempt = self._build_attempt(record, store, halting, only_begun=record.spec.suspend, number=number)
        try:
            with self.metrics.attempt(lambda: attempt.is_counted):
                attempt.perform()
            if _progress_of(record) != before:
                memory.looks = 0
            delay = self._settle(record, halting, attempt)
        except (KubeUnavailable, KubeForbidden, StatusConflict):
            if attempt.is_counted:  # it was cut short by what passes by itself: the next one is the same
                memory.repeats = number
            raise
        if attempt.is_counted:
            memory.repeats = None
        return delay

    def _prepare(self, record: Record, store: OpenStore) -> None:
        """Fix what holds for the whole request: the order of work, the store, the cutoff in the catalog's clock."""
        if not record.tasks:
            record.put(*build_tasks(record.request))
        if store.catalog is not None:  # a status can be written by others: it may make the cutoff earlier only
            cutoff = resolve_cutoff(record.request, database_now=store.catalog.now(), server_now=record.now)
            known = record.status.cutoff or cutoff
            record.change(cutoff=cutoff if record.spec.tasks_created_before else min(known, cutoff))
        record.change(store_uid=store.uid)

    def _build_attempt(
        self, record: Record, store: OpenStore, halting: Halting, *, only_begun: bool, number: int = 0
    ) -> Attempt:
        catalog = store.spec.catalog
        rules = Rules(
            force=record.spec.force,
            cleans_unknown=record.request.cleans_unknown,
            cutoff=record.status.cutoff,
            terminal_statuses=frozenset(catalog.terminal_statuses if catalog else ()),
            statuses=frozenset(record.spec.statuses or ()),
        )
        return Attempt(
            record=record,
            store=store,
            ownership=self.ownership,
            halting=halting,
            rules=rules,
            only_begun=only_begun,
            number=number,
            uncertain=_cut_short(record),
            require_same_store=lambda: self.stores.require_same(store),
            metrics=self.metrics,
        )

    # --- after an attempt -------------------------------------------------------------------------------------------
    def _settle(self, record: Record, halting: Halting, attempt: Attempt) -> float | None:
        """What follows an attempt that came to an end of its own: nothing of it is uncertain."""
        if record.gone:
            self._settle_cancelled(record, halting, attempt)
            return None
        if not record.open_tasks():
            return self._finish(record)
        if halting.is_shutting_down and not halting.is_past_deadline:
            _give_back(record, attempt)
            record.write(_INTERRUPTED)
            return None
        if record.spec.suspend and not any(attempt.has_begun(task.task_id) for task in record.open_tasks()):
            _give_back(record, attempt)
            self._suspend(record)
            return None
        if _has_stopped_on_error(record):
            return self._end(record, STOPPED, cut_short=frozenset())
        if "retriable" not in attempt.kinds and not halting.is_past_deadline:
            _give_back(record, attempt)
            return self._wait(record, _fault_of(record))
        if (limit := find_limit(record, halting, may_repeat=False)) is not None:
            return self._end(record, limit, cut_short=frozenset())
        return self._retry(record)

    def _settle_cancelled(self, record: Record, halting: Halting, attempt: Attempt) -> None:
        if any(task.claimed for task in record.open_tasks()):
            self._build_attempt(record, attempt.store, halting, only_begun=True).perform()
        self._memories.drop(record.live.key)
        self._close_cancelled(record)

    def _retry(self, record: Record) -> float:
        delay = self._until(record, delay_before_attempt(record.status.attempts or 1, self.jitter()))
        record.change(next_attempt_time=record.now + timedelta(seconds=delay))
        fault = _fault_of(record)
        message = f"open tasks: {len(record.open_tasks())}, to be tried again; first: {fault.reason}: {fault.message}"
        record.write(View("running", reasons.RETRYING, message))
        self.metrics.retry(fault.reason)
        return delay

    def _wait(self, record: Record, fault: Fault) -> float | None:
        """Something is away that comes back by itself: wait, use no attempt."""
        if self.stopping.is_set():
            return None
        record.change(
            start_time=record.status.start_time or record.now,
            next_attempt_time=None,
            phase="Running" if record.tasks else "Pending",
        )
        by_other = fault.reason == reasons.CLAIMED_BY_OTHER
        reason = fault.reason if by_other else reasons.DEPENDENCY_UNAVAILABLE
        record.write(View("waiting", reason, f"{fault.reason}: {fault.message}"))
        self._note(record, record.status.phase, waits_for=fault.reason)
        return self._next_look(record)

    def _next_look(self, record: Record) -> float:
        memory = self._memories.of(record.live)
        memory.looks += 1
        return self._until(record, delay_while_waiting(memory.looks, self.jitter()))

    def _until(self, record: Record, delay: float) -> float:
        """No longer than to the deadline."""
        left = self._left(record)
        return delay if left is None or left <= 0 else min(delay, left + 0.1)

    def _suspend(self, record: Record) -> None:
        for task in record.open_tasks():
            if task.state == "Deleting" and not task.claimed:
                record.put(task.model_copy(update={"state": "Pending"}))
        record.change(phase="Suspended", start_time=None, next_attempt_time=None)
        if not record.tasks:
            record.put(*build_tasks(record.request))
        record.write(_SUSPENDED)
        self._note(record, "Suspended")

    # --- the end ----------------------------------------------------------------------------------------------------
    def _end(self, record: Record, limit: Limit, *, cut_short: frozenset[str] | None = None) -> float | None:
        """End with open tasks, once no rename can be there that nothing confirmed. `cut_short` None asks the status."""
        unknown = _cut_short(record) if cut_short is None else cut_short
        if has_unconfirmed(record) and (fault := self._undo_unconfirmed(record)) is not None:
            message = f"{limit.message}{BEFORE_THE_END}{fault.message}"
            record.write(View("stopping", limit.reason, message))
            return self._next_look(record)
        close_tasks(record, limit, unknown)
        return self._finish(record, View("failed", limit.reason, limit.message))

    def _undo_unconfirmed(self, record: Record) -> Fault | None:
        """Only the root of the directories is needed for that, whatever else is away."""
        namespace, name = record.live.key.namespace, record.spec.store_ref.name
        try:
            is_replaced = self.stores.locate(namespace, name).live.uid != record.status.store_uid
            root = self.stores.open_root(namespace, name)
        except Fault as fault:
            return fault
        if root is None:
            return undo_unconfirmed(record, None, is_replaced=is_replaced)
        with root:
            return undo_unconfirmed(record, root, is_replaced=is_replaced)

    def _finish(self, record: Record, view: View | None = None) -> float | None:
        write_end(record, view)
        self._memories.drop(record.live.key)
        if record.gone:
            self._close_cancelled(record)
            return None
        self._count_end(record, find_end_reason(record.status.conditions or []))
        return record.spec.ttl_seconds_after_finished

    # --- what monitoring is told ------------------------------------------------------------------------------------
    def _note(self, record: Record, phase: str | None, *, waits_for: str | None = None) -> None:
        key = record.live.key
        self.metrics.present.note_request(key.namespace, key.name, phase=phase, waits_for=waits_for)

    def _count_end(self, record: Record, reason: str) -> None:
        namespace, tasks = record.live.key.namespace, record.tasks.values()
        is_cancelled = reason == reasons.CANCELLED
        self.metrics.request_ended(
            namespace, record.spec, record.status, tasks, reason=reason, is_cancelled=is_cancelled
        )


def _progress_of(record: Record) -> tuple[int, int]:
    """Grows as tasks are claimed and come to an end."""
    tasks = record.tasks.values()
    return sum(bool(task.claimed) for task in tasks), len(tasks) - len(record.open_tasks())


def _give_back(record: Record, attempt: Attempt) -> None:
    if attempt.is_counted:
        record.change(attempts=max((record.status.attempts or 0) - 1, 0))


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
    open_ids = {task.task_id for task in record.open_tasks()}
    return any(task.state not in good for task in record.tasks.values() if task.task_id not in open_ids)


def _fault_of(record: Record) -> Fault:
    """Why the first open task is open."""
    for task in record.open_tasks():
        failed = next((found for found in task.resources or [] if found.retriable), None)
        if failed is not None:
            return Fault("waiting", failed.reason or "", f"{failed.resource}: {failed.message or failed.reason}")
        if task.reason is not None:
            return Fault("waiting", task.reason, task.message or task.reason)
    return Fault("waiting", reasons.INTERRUPTED, "work was interrupted and goes on")
