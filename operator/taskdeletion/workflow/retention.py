"""What happens to one TaskRetentionPolicy, level-triggered: is a run due, what became of the last, what comes next.

Called by the workers with a key. It deletes no data: it creates TaskDeletions (`drafting.py`), follows them, and
removes the oldest that have ended. The API server's clock is the only one that decides.
"""

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from taskdeletion.api import reasons
from taskdeletion.api.common import format_time
from taskdeletion.api.retention_status import Observed, Preview, Run, Skipped
from taskdeletion.domain.admission import guarded_options
from taskdeletion.domain.backoff import delay_while_waiting
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.retention import Selected
from taskdeletion.domain.runs import Child, expires_at, find_surplus, follow, run_of
from taskdeletion.domain.schedule import Schedule, parse_schedule
from taskdeletion.kube.children import ChildChanged, Children
from taskdeletion.kube.objects import Cluster, Key, ObjectGone, SpecChanged
from taskdeletion.observe.metrics import Metrics
from taskdeletion.observe.present import PolicyRow
from taskdeletion.workflow.admission import Admission
from taskdeletion.workflow.drafting import CreationRefused, DraftAbandoned, Drafting
from taskdeletion.workflow.evaluating import NO_TIME, Evaluator, PolicyUnusable
from taskdeletion.workflow.memory import Memories, Memory
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.policy_record import PolicyRecord, PolicyView, Stage
from taskdeletion.workflow.policy_view import count, describe_run, describe_standing, reject_unreadable
from taskdeletion.workflow.rejection import describe_invalid
from taskdeletion.workflow.stores import Stores

PREVIEWED_IDS: Final = 10
UNUSABLE_SECONDS: Final = 60.0
#: How often the TaskDeletions of a run are looked at: the more there are, the longer that takes.
_FOLLOW_SECONDS: Final = (2.0, 60.0)
_PARTS_PER_SECOND: Final = 4
_TO_SECOND: Final = 0.05
#: How often in a row work may begin anew without a pause: a policy that is edited, a draft that has to go first.
_UPSETS_AT_ONCE: Final = 3


@dataclass(slots=True)
class RetentionWorkflow:
    """Reconciles TaskRetentionPolicies. Thread-safe: never two workers on one key (the queue sees to that)."""

    cluster: Cluster
    children: Children
    stores: Stores
    ownership: Ownership
    stopping: threading.Event
    jitter: Callable[[], float] = random.random
    admission: Admission | None = None
    metrics: Metrics = field(default_factory=Metrics)
    _memories: Memories = field(default_factory=Memories)
    _drafting: Drafting = field(init=False)
    _evaluator: Evaluator = field(init=False)

    def __post_init__(self) -> None:
        self._drafting = Drafting(self.cluster, self.children, self.stopping)
        self._evaluator = Evaluator(self.stores, self.stopping)

    def reconcile(self, key: Key) -> float | None:
        """Bring one policy as far as it can go now. Returns seconds until the next look, or None."""
        live = self.cluster.read(key)
        if live is None or live.deleting:
            self._memories.drop(key)
            self.metrics.present.drop_policy(key.namespace, key.name)
            self._drafting.discard(key.namespace, self.children.list(key.namespace, key.name))
            return None
        memory = self._memories.of(live)
        try:
            delay = self._advance(PolicyRecord(self.cluster, live), memory)
        except (SpecChanged, DraftAbandoned, ObjectGone):
            memory.upsets += 1
            return None if self.stopping.is_set() else self._delay_after_upset(memory)
        except ValidationError as error:
            reject_unreadable(self.cluster, live, describe_invalid(error))
            row = PolicyRow(is_ready=False, reason=reasons.INVALID_SPEC)
            self.metrics.present.note_policy(key.namespace, key.name, row)
            return None
        memory.upsets = 0
        return delay

    def _delay_after_upset(self, memory: Memory) -> float:
        """At once where the policy has just changed; what is upset again and again waits, and surveys less."""
        upsets = memory.upsets - _UPSETS_AT_ONCE
        return delay_while_waiting(upsets, self.jitter()) if upsets > 0 else 0.0

    def _advance(self, record: PolicyRecord, memory: Memory) -> float | None:
        if (left := self._drafting.left(record)) > 0:
            return left  # somebody creates a run, or did until a moment ago
        children: list[Child] = []
        try:
            children = self._look_at_children(record)
            record.change(draft=None)
            self._follow(record, children)
            view = self._decide(record, _read_schedule(record), children)
        except PolicyUnusable as unusable:
            stage: Stage = "invalid" if unusable.reason == reasons.INVALID_SPEC else "stalled"
            record.change(next_schedule_time=None)
            view = PolicyView(stage, unusable.reason, unusable.message)
        except CreationRefused as refused:
            view = PolicyView("waiting", reasons.CREATION_REFUSED, refused.message)
        except Fault as fault:
            view = PolicyView("waiting", reasons.DEPENDENCY_UNAVAILABLE, str(fault))
        if self.stopping.is_set():
            return None
        self._tell(record, view)
        record.write(view)
        self._note(record, view)
        return self._next_look(record, view, children, memory)

    def _note(self, record: PolicyRecord, view: PolicyView) -> None:
        """What monitoring is told."""
        row = PolicyRow(
            is_ready=view.stage == "fine",
            reason=view.reason,
            due=record.due,
            upcoming=record.status.next_schedule_time,
            succeeded_at=record.status.last_successful_time,
        )
        self.metrics.present.note_policy(record.policy.namespace, record.policy.name, row)

    # --- what became of what was created ----------------------------------------------------------------------------
    def _look_at_children(self, record: PolicyRecord) -> list[Child]:
        """The TaskDeletions of this very policy: a decided run released, drafts that nobody decides any more gone."""
        policy, run = record.policy, record.status.last_run
        found = self._list_children(record)
        if run is not None and run.phase == "Releasing":  # it was decided, and then the operator stopped
            self._drafting.release(record, found)
            found = self._list_children(record)
        dead = [child for child in found if child.is_draft]
        if dead:
            self._drafting.require_nobodys(record)
            self._drafting.discard(policy.namespace, dead)
        return [child for child in found if child.owner_uid == policy.uid and not child.is_draft]

    def _list_children(self, record: PolicyRecord) -> list[Child]:
        """Those with the policy's label, and those of its run that somebody took it from: they go on all the same."""
        policy, run = record.policy, record.status.last_run
        found = self.children.list(policy.namespace, policy.name)
        known = {child.name for child in found}
        named = run.active if run is not None and run.phase in ("Releasing", "Active") else []
        unlabelled = [self.children.read(policy.namespace, name) for name in named if name not in known]
        return [*found, *(child for child in unlabelled if child is not None and child.owner_uid == policy.uid)]

    def _follow(self, record: PolicyRecord, children: Sequence[Child]) -> None:
        run, followed = record.status.last_run, frozenset[str]()
        if run is not None and run.phase == "Active":
            label = run_of(run.scheduled_time)
            followed = frozenset(run.active).union(child.name for child in children if child.run == label)
            run = follow(run, children, now=record.now)
            record.change(last_run=run)
            self._conclude(record, run)
        record.change(active=sum(child.is_live for child in children))
        last = run_of(run.scheduled_time) if run is not None else ""
        for child in find_surplus(children, record.spec, last_run=last, followed=followed, now=record.now):
            with suppress(ChildChanged):  # it is looked at again
                self.children.delete(record.policy.namespace, child)

    def _conclude(self, record: PolicyRecord, run: Run) -> None:
        if run.phase == "Succeeded":
            record.change(last_successful_time=run.completion_time)
            record.tell("Normal", reasons.SUCCEEDED, describe_run(run))
            self.metrics.policy_run(record.policy.namespace, run.phase, reasons.SUCCEEDED)
        elif run.phase == "Failed":
            record.tell("Warning", reasons.RUN_FAILED, describe_run(run))
            self.metrics.policy_run(record.policy.namespace, run.phase, reasons.RUN_FAILED)

    # --- what comes next --------------------------------------------------------------------------------------------
    def _decide(self, record: PolicyRecord, schedule: Schedule, children: Sequence[Child]) -> PolicyView:
        """Preview and run what is due. Raises Fault, PolicyUnusable, DraftAbandoned."""
        self._note_schedule(record, schedule)
        due = schedule.latest(after=_since(record), until=record.now)
        record.due = None if record.spec.suspend else due
        self._preview(record)
        if record.spec.suspend:
            return PolicyView("fine", reasons.SUSPENDED, _describe_suspension(record, due))
        self._require_admission(record)
        if due is not None and self._is_skipped(record, due):
            due = None
        if due is not None:
            waiting = self._run(record, due, children)
            if waiting is not None:
                return waiting
        record.due = None
        record.change(next_schedule_time=schedule.next_after(max(record.now, _since(record))))
        return describe_standing(record)

    def _require_admission(self, record: PolicyRecord) -> None:
        """Raises Fault, and PolicyUnusable, where nobody asked whether the author may; notes who that is."""
        if self.admission is None or record.spec.dry_run:
            return
        template = record.spec.template
        options = guarded_options(force=template.force, delete_database_records=template.delete_database_records)
        if (refusal := self.admission.find_refusal(record.live, options)) is not None:
            raise PolicyUnusable(reasons.NOT_ADMITTED, refusal)
        record.requested_by = self.admission.find_requester(record.live)

    @staticmethod
    def _note_schedule(record: PolicyRecord, schedule: Schedule) -> None:
        """An edited schedule counts from now on: it is never due for a time before."""
        known, spec = record.status.observed, record.spec
        if known is None or (known.schedule, known.time_zone) != (spec.schedule, spec.time_zone):
            since = record.live.created_at if known is None else record.now
            record.change(observed=Observed(schedule=spec.schedule, time_zone=spec.time_zone, since=since))
        upcoming = None if spec.suspend else schedule.next_after(max(record.now, _since(record)))
        record.change(next_schedule_time=upcoming)

    def _preview(self, record: PolicyRecord) -> None:
        """Once per spec: what the next run would take, as old as the tasks are by then."""
        known = record.status.preview
        if known is not None and known.generation == record.live.generation:
            return
        upcoming = record.status.next_schedule_time
        ahead = upcoming - record.now if upcoming is not None else NO_TIME
        selected = self._evaluator.evaluate(record.policy.namespace, record.spec, ahead=ahead, probed=False)
        preview = Preview(
            **count(selected),
            generation=record.live.generation,
            evaluation_time=record.now,
            scheduled_time=upcoming,
            task_ids=list(selected.task_ids[:PREVIEWED_IDS]),
        )
        record.change(preview=preview, matched=selected.matched)

    def _is_skipped(self, record: PolicyRecord, due: datetime) -> bool:
        """Whether it is too late for this run; then it is written down as skipped."""
        if not _is_too_late(record, due):
            return False
        deadline = record.spec.starting_deadline_seconds
        message = f"the run of {format_time(due)} could not begin within {deadline} s, and was skipped"
        skipped = Skipped(scheduled_time=due, reason=reasons.RUN_SKIPPED, message=message)
        record.change(last_skipped=skipped)
        record.tell("Warning", reasons.RUN_SKIPPED, message)
        self.metrics.policy_run(record.policy.namespace, "Skipped", reasons.RUN_SKIPPED)
        return True

    def _run(self, record: PolicyRecord, due: datetime, children: Sequence[Child]) -> PolicyView | None:
        """Begin the run that is due; what to show where it has to wait."""
        live = [child for child in children if child.is_live]
        policy = record.spec.concurrency_policy
        if live and policy == "Forbid":
            first = f"{live[0].name}, which is suspended" if live[0].is_suspended else live[0].name
            message = (
                f"the run of {format_time(due)} waits for {len(live)} of an earlier one, first TaskDeletion {first}"
            )
            return PolicyView("fine", reasons.PREVIOUS_RUN_ACTIVE, message)
        started = record.now
        selected = self._select(record, live)
        if live and policy == "Replace" and not record.spec.dry_run and selected.reason != reasons.LIMIT_EXCEEDED:
            self._cancel(record, live)
            selected = self._select(record, ())
        run = Run(
            **count(selected), generation=record.live.generation, scheduled_time=due, phase="Active", start_time=started
        )
        record.change(matched=selected.matched)
        if record.spec.dry_run and selected.task_ids:
            message = f"dryRun: {len(selected.task_ids)} tasks would go; nothing was created"
            run = run.model_copy(update={"reason": reasons.DRY_RUN, "message": message})
        if record.spec.dry_run or not selected.task_ids:
            self._close(record, run)
            return None
        view = PolicyView("working", reasons.PROGRESSING, f"creating TaskDeletions for {len(selected.task_ids)} tasks")
        if record.ready is not None and record.ready.reason == reasons.CREATION_REFUSED:
            view = PolicyView("waiting", record.ready.reason, record.ready.message)  # until one succeeds
        self._drafting.create(record, run, selected, view)
        begun = record.status.last_run
        assert begun is not None
        record.tell("Normal", reasons.RUN_ACTIVE, f"the run of {format_time(due)}: {describe_run(begun)}")
        return None

    def _select(self, record: PolicyRecord, live: Sequence[Child]) -> Selected:
        """What the run takes; what live requests name, and whatever somebody is just deleting, is as good as gone."""
        namespace, store = record.policy.namespace, record.spec.store_ref.name
        named = (child.task_ids for child in live)
        busy = self.ownership.held_ids(namespace, store).union(*named)
        return self._evaluator.evaluate(namespace, record.spec, busy=busy)

    def _cancel(self, record: PolicyRecord, live: Sequence[Child]) -> None:
        for child in live:
            self.children.delete(record.policy.namespace, child, unchanged=False)
        record.change(active=0)

    def _close(self, record: PolicyRecord, run: Run) -> None:
        """A run that creates nothing ends at once."""
        refused = run.reason == reasons.LIMIT_EXCEEDED
        done = run.model_copy(update={"phase": "Refused" if refused else "Succeeded", "completion_time": record.now})
        record.change(last_run=done, last_schedule_time=run.scheduled_time)
        self.metrics.policy_run(record.policy.namespace, done.phase, run.reason or reasons.SUCCEEDED)
        if refused:
            record.tell("Warning", reasons.LIMIT_EXCEEDED, run.message or "")
            return
        record.change(last_successful_time=record.now)
        record.tell(
            "Normal", run.reason or reasons.SUCCEEDED, f"the run of {format_time(run.scheduled_time)}: {run.message}"
        )

    # --- when to look again -----------------------------------------------------------------------------------------
    @staticmethod
    def _tell(record: PolicyRecord, view: PolicyView) -> None:
        """An Event where a policy comes to a stop."""
        before = record.ready
        if view.reason == reasons.PREVIOUS_RUN_ACTIVE and (before is None or before.reason != view.reason):
            record.tell("Normal", view.reason, view.message)
        if view.stage in ("waiting", "invalid") and (before is None or before.message != view.message):
            record.tell("Warning", view.reason, view.message)

    def _next_look(
        self, record: PolicyRecord, view: PolicyView, children: Sequence[Child], memory: Memory
    ) -> float | None:
        memory.looks = memory.looks + 1 if view.stage == "waiting" else 0
        delays = []
        if view.stage == "waiting":
            delays.append(delay_while_waiting(memory.looks, self.jitter()))
        if view.reason == reasons.CATALOG_REQUIRED or view.stage == "invalid":
            delays.append(UNUSABLE_SECONDS)  # what is wrong may be in the TaskStore
        if record.status.active:
            shortest, longest = _FOLLOW_SECONDS
            delays.append(min(longest, shortest + record.status.active / _PARTS_PER_SECOND))
        if (upcoming := record.status.next_schedule_time) is not None and view.stage in ("fine", "stalled"):
            delays.append(max(0.0, (upcoming - record.now).total_seconds()) + _TO_SECOND)
        ends = [end for child in children if (end := expires_at(child, record.spec)) is not None]
        if ends:
            delays.append(max(_FOLLOW_SECONDS[0], (min(ends) - record.now).total_seconds() + _TO_SECOND))
        return min(delays, default=None)


def _read_schedule(record: PolicyRecord) -> Schedule:
    try:
        return parse_schedule(record.spec.schedule, record.spec.time_zone)
    except ValueError as error:
        raise PolicyUnusable(reasons.INVALID_SPEC, str(error)) from None


def _describe_suspension(record: PolicyRecord, due: datetime | None) -> str:
    message = "suspended: no run begins; set suspend: false to go on"
    if due is not None and not _is_too_late(record, due):
        message += f", which begins the run of {format_time(due)} at once"
    preview = record.status.preview
    if preview is not None and preview.reason == reasons.LIMIT_EXCEEDED:
        message += f"; it would be refused: {preview.message}"
    return message


def _is_too_late(record: PolicyRecord, due: datetime) -> bool:
    deadline = record.spec.starting_deadline_seconds
    return deadline is not None and (record.now - due).total_seconds() > deadline


def _since(record: PolicyRecord) -> datetime:
    """What is due at or before this is done with."""
    status = record.status
    observed, skipped = status.observed, status.last_skipped
    times = [observed.since if observed else record.live.created_at, status.last_schedule_time]
    times.append(skipped.scheduled_time if skipped else None)
    return max(time for time in times if time is not None)
