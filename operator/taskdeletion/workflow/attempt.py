"""One attempt: announce, claim, confirm, purge, finish, round by round (docs/safety.md, "The order of effects").

Called by `workflow.deletion` with a record, an opened store and what may stop it. Decides nothing about what follows
an attempt: it leaves every task final, or open with a reason, and says which kinds of failure it met.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import chain

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskStatus
from taskdeletion.domain.budget import seconds_between_progress_writes, size_of
from taskdeletion.domain.claims import UNKNOWN_TASK, Rules, decide_claim
from taskdeletion.domain.conditions import View
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.outcomes import conclude, fold_results, has_retriable, is_final, postpone, refuse
from taskdeletion.domain.plan import build_rounds
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.here import PurgeWork, purge
from taskdeletion.executors.store import OpenStore
from taskdeletion.observe.metrics import Metrics, Round
from taskdeletion.workflow.claiming import Claim, undo_rename
from taskdeletion.workflow.finishing import Finish
from taskdeletion.workflow.guards import VersionGuard
from taskdeletion.workflow.halting import Halting
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record

_OTHERS = Fault("waiting", reasons.CLAIMED_BY_OTHER, "another request works on this task")
_NO_REASON = {"reason": None, "message": None}
RUNNING = View("running", reasons.PROGRESSING, "tasks are being deleted")


@dataclass(slots=True)
class Attempt:
    """One pass over the open tasks of a record.

    `only_begun`: finish what is claimed and begin nothing (suspended, or cancelled). `number`: of this attempt, the
    same again after one that was cut short by something that passes by itself. `uncertain`: tasks that a crash cut
    short, so that their counts are lower bounds.
    """

    record: Record
    store: OpenStore
    ownership: Ownership
    halting: Halting
    rules: Rules
    only_begun: bool
    number: int
    uncertain: frozenset[str]
    require_same_store: Callable[[], None]
    metrics: Metrics
    kinds: set[FaultKind] = field(default_factory=set)
    is_counted: bool = False

    def perform(self) -> None:
        """Work until everything is done, or something stops it. Raises what the API server raises (`kube`)."""
        task_ids = [task.task_id for task in self.record.open_tasks() if self._may_begin(task.task_id)]
        standing = self.record.standing
        denied = frozenset() if self.record.spec.dry_run else self.ownership.acquire(standing, task_ids)
        try:
            self._step_back(denied)
            for round_ids in build_rounds(task_ids, continue_on_error=self.record.spec.continue_on_error):
                if not self._perform_round([task_id for task_id in round_ids if task_id not in denied]):
                    break
                if self._stops_after(round_ids):
                    break
        finally:
            self.ownership.release(standing, [task_id for task_id in task_ids if task_id not in denied])

    def _step_back(self, task_ids: Collection[str]) -> None:
        """Leave tasks to another request, which would wait for a rename that was never confirmed: that goes back."""
        for task_id in task_ids:
            task = self.record.tasks[task_id]
            is_unconfirmed = task.state == "Deleting" and not task.claimed
            fault = undo_rename(self.store.directory, self.record, task_id) if is_unconfirmed else None
            self._postpone([task_id], _OTHERS if fault is None or fault.retriable else fault)

    def _may_begin(self, task_id: str) -> bool:
        return not self.only_begun or self.has_begun(task_id)

    def has_begun(self, task_id: str) -> bool:
        """Whether the task is claimed, or was renamed by an attempt that could not confirm it. Raises Fault."""
        task = self.record.tasks[task_id]
        if task.claimed:
            return True
        if self.record.gone or task.state != "Deleting" or self.store.directory is None:
            return False
        siblings = self.store.directory.look([task_id])[task_id].siblings
        return any(sibling.owner == self.record.live.uid for sibling in siblings)

    def _stops_after(self, task_ids: Sequence[str]) -> bool:
        begins_no_more = self.record.gone or self.record.spec.suspend
        if self.halting() is not None or (begins_no_more and not self.only_begun):
            return True
        good = ("Deleted", "WouldDelete", "NotFound") if self._ignores_unknown() else ("Deleted", "WouldDelete")
        bad = any(self.record.tasks[task_id].state not in good for task_id in task_ids)
        return bad and not self.record.spec.continue_on_error

    def _ignores_unknown(self) -> bool:
        return self.record.spec.not_found_policy == "Ignore"

    # --- one round --------------------------------------------------------------------------------------------------
    def _perform_round(self, task_ids: list[str]) -> bool:
        """Whether the next round may begin."""
        before, status, is_counted = dict(self.record.tasks), self.record.status, self.is_counted
        unclaimed = [task_id for task_id in task_ids if not self.record.tasks[task_id].claimed]
        if unclaimed and self.is_counted and not self._is_store_there(unclaimed):
            return False
        new = [task_id for task_id in unclaimed if self.record.tasks[task_id].version is None]
        try:
            self._read(new)
        except Fault as fault:
            self._postpone(new, fault)
            if fault.kind == "retriable":
                self._count_attempt()
        to_claim = [task_id for task_id in unclaimed if self._is_claimable(task_id)]
        claimed = [task_id for task_id in task_ids if self.record.tasks[task_id].claimed]
        if not to_claim and not claimed:
            return True
        if not self._announce(to_claim):
            self.record.tasks, self.record.status, self.is_counted = before, status, is_counted
            return False
        self._purge_and_finish(claimed + self._claim(to_claim))
        return True

    def _is_store_there(self, task_ids: Sequence[str]) -> bool:
        """Before a later round begins anything: somebody may have pulled the store, as a brake."""
        try:
            self.require_same_store()
        except Fault as fault:
            self._postpone(task_ids, fault)
            return False
        return True

    def _read(self, task_ids: Sequence[str]) -> None:
        """Read what was never announced: refuse what may not go, take the version of what may."""
        entries = self.store.catalog.read(task_ids) if self.store.catalog and task_ids else {}
        for task_id in task_ids:
            task, entry = self.record.tasks[task_id], entries.get(task_id)
            refusal = decide_claim(entry, None, self.rules) if self.store.catalog else None
            if refusal is not None:
                self.record.put(refuse(task, refusal))
            else:
                version = entry.version if entry else UNKNOWN_TASK
                self.record.put(task.model_copy(update={"version": str(version)}))

    def _is_claimable(self, task_id: str) -> bool:
        task = self.record.tasks[task_id]
        return task.version is not None and not is_final(task)

    def _announce(self, to_claim: Sequence[str]) -> bool:
        """Before the first effect: status holds `Deleting`, the versions as read, and the attempt.

        A dry run has no effects to announce; what a request that is gone had claimed is finished without a status.
        """
        if self.record.gone:
            return self.only_begun
        self._count_attempt()
        if self.record.spec.dry_run:
            return True
        for task_id in to_claim:
            self.record.put(self.record.tasks[task_id].model_copy(update={"state": "Deleting", **_NO_REASON}))
        while not self.record.announce(RUNNING):
            if self.record.gone or (self.record.spec.suspend and not self.only_begun):
                return False
        return True

    def _count_attempt(self) -> None:
        if self.is_counted:
            return
        self.is_counted = True
        self.record.change(
            attempts=self.number,
            start_time=self.record.status.start_time or self.record.now,
            next_attempt_time=None,
            phase="Running",
        )

    def _claim(self, task_ids: list[str]) -> list[str]:
        """Claim, then confirm in status: nothing is purged before that. Returns the confirmed tasks."""
        if not task_ids:
            return []
        claim = Claim(self.record, self.store, self.rules)
        with self.metrics.claim():
            claim.perform(task_ids)
        self.kinds.update(fault.kind for fault in claim.postponed.values())
        if claim.confirmed and not self.record.spec.dry_run:
            for task_id in claim.confirmed:
                task = self.record.tasks[task_id]
                self.record.put(task.model_copy(update={"claimed": True, **_NO_REASON}))
            self.record.write(RUNNING)
        return claim.confirmed

    # --- purge ------------------------------------------------------------------------------------------------------
    def _purge_and_finish(self, task_ids: list[str]) -> None:
        if not task_ids:
            return
        versions = {task_id: self.record.version_of(task_id) for task_id in task_ids}
        leadership = self.halting.leadership
        guard = VersionGuard(self.store.catalog, versions, force=self.record.spec.force, leadership=leadership)
        timed = self.metrics.round()
        results = self._purge(task_ids, guard, timed)
        timed.restart()
        Finish(
            store=self.store,
            guard=guard,
            versions=versions,
            results=results,
            force=self.record.spec.force,
            delete_records=self.record.spec.delete_database_records,
            dry_run=self.record.spec.dry_run,
            uncertain=self.uncertain,
            leadership=leadership,
        ).perform()
        timed.end(chain.from_iterable(results.values()))
        self._conclude(results)

    def _purge(self, task_ids: list[str], guard: VersionGuard, timed: Round) -> dict[str, list[StepResult]]:
        work = PurgeWork(
            self.store, task_ids, self._is_adoptable, guard, self.halting, dry_run=self.record.spec.dry_run
        )
        results: dict[str, list[StepResult]] = {task_id: [] for task_id in task_ids}
        before = {task_id: self.record.tasks[task_id] for task_id in task_ids}
        reported, tick = 0, seconds_between_progress_writes(size_of(self.record.status.to_api()))

        def report() -> None:
            nonlocal reported
            known = sum(map(len, results.values()))
            if known > reported and not self.record.spec.dry_run:
                self.record.put(*(self._fold(before[task_id], results[task_id]) for task_id in task_ids))
                self.record.write(RUNNING)
                self.record.put(*before.values())
                reported = known

        for some in purge(work, tick_seconds=tick, on_tick=report):
            timed.saw(some)
            for result in some:
                results[result.task_id].append(result)
        return results

    def _is_adoptable(self, sibling: Sibling) -> bool:
        """Our own sibling, or one of a request that has ended, is gone, or is done with this task."""
        return sibling.owner == self.record.live.uid or not self.ownership.is_held(sibling.owner, sibling.task_id)

    def _fold(self, task: TaskStatus, results: Sequence[StepResult]) -> TaskStatus:
        uncertain = task.task_id in self.uncertain
        return fold_results(task, results, uncertain=uncertain, dry_run=self.record.spec.dry_run)

    def _conclude(self, results: dict[str, list[StepResult]]) -> None:
        if not self.record.spec.dry_run:
            self.metrics.results_found(self.record.live.key.namespace, chain.from_iterable(results.values()))
        for task_id, found in results.items():
            task = self._fold(self.record.tasks[task_id], found)
            if has_retriable(task):
                self.kinds.update(result.kind for result in found if result.kind is not None)
            else:
                task = conclude(task, self.record.now, dry_run=self.record.spec.dry_run)
            self.record.put(task)

    def _postpone(self, task_ids: Sequence[str], fault: Fault) -> None:
        for task_id in task_ids:
            self.kinds.add(fault.kind)
            self.record.put(
                postpone(self.record.tasks[task_id], fault, at=self.record.now, dry_run=self.record.spec.dry_run)
            )
