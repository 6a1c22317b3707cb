"""The claim of one round: lock, check again, rename, commit; and what to do where the commit is in doubt.

Called by the attempt with announced tasks. Leaves every task confirmed, refused, failed, or postponed with a reason;
a rename that nothing confirmed is undone, or stays for the next attempt, which finds it and never renames again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from taskdeletion.api import reasons
from taskdeletion.backends.postgres import CommitUnknown, LockedTasks, PostgresCatalog
from taskdeletion.domain.claims import Refusal, Rules, decide_claim
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import conclude, fold_results, is_final, postpone, refuse
from taskdeletion.domain.results import CatalogEntry, StepResult
from taskdeletion.executors.store import OpenStore
from taskdeletion.workflow.record import Record


@dataclass(slots=True)
class Claim:
    """The claim of some tasks of one record. `confirmed` and `postponed` are its result; the record has the rest."""

    record: Record
    store: OpenStore
    rules: Rules
    confirmed: list[str] = field(default_factory=list)
    postponed: dict[str, Fault] = field(default_factory=dict)

    def perform(self, task_ids: list[str]) -> None:
        """Claim these announced tasks. Raises nothing of the outside world: faults are in `postponed`."""
        if self.store.catalog is None:
            self._claim_without_catalog(task_ids)
            return
        moved: list[str] = []
        try:
            self._claim_under_lock(self.store.catalog, task_ids, moved)
        except (Fault, CommitUnknown) as error:
            self._recover(error if isinstance(error, Fault) else error.fault, task_ids, moved)
        else:
            self.confirmed += moved

    def _claim_under_lock(self, catalog: PostgresCatalog, task_ids: list[str], moved: list[str]) -> None:
        spec = self.record.spec
        with catalog.claim(task_ids, with_records=spec.delete_database_records, lock=not spec.dry_run) as locked:
            for task_id in task_ids:
                if self._decide(task_id, locked) and self._move(task_id):
                    moved.append(task_id)
            self._sync(moved)

    def _claim_without_catalog(self, task_ids: list[str]) -> None:
        moved = [task_id for task_id in task_ids if self._move(task_id)]
        try:
            self._sync(moved)
        except Fault as fault:
            self._postpone(moved, fault)
        else:
            self.confirmed += moved

    def _decide(self, task_id: str, locked: LockedTasks) -> bool:
        """Whether the task may go, under the lock; where not, the record says why and a rename of ours is undone."""
        if task_id in locked.row_locked:
            self._postpone([task_id], Fault("retriable", reasons.ROW_LOCKED, "another transaction holds the row"))
            return False
        announced = self.record.version_of(task_id)
        refusal = decide_claim(locked.entries.get(task_id), announced, self.rules)
        if refusal is None and (other := locked.foreign_references.get(task_id)):
            refusal = _refuse_references(other)
        if refusal is not None:
            self._give_up(task_id, refusal)
        return refusal is None

    def _move(self, task_id: str) -> bool:
        """Rename the directory aside (a dry run only checks). False where it may not go, with the reason recorded."""
        root, dry_run = self.store.directory, self.record.spec.dry_run
        if root is None:
            return True
        fault = root.check_purgeable(task_id)
        if fault is None and not dry_run:
            fault = self._rename(task_id)
        if fault is None:
            return True
        if fault.retriable:
            self._postpone([task_id], fault)
        else:
            self._fail(task_id, fault)
        return False

    def _rename(self, task_id: str) -> Fault | None:
        assert self.store.directory is not None
        try:
            self.store.directory.claim(task_id, self.record.live.uid)
        except Fault as fault:
            return fault
        return None

    def _sync(self, moved: list[str]) -> None:
        if self.store.directory is not None and moved and not self.record.spec.dry_run:
            self.store.directory.sync()

    def _recover(self, fault: Fault, task_ids: list[str], moved: list[str]) -> None:
        """The transaction failed, or its commit is in doubt: compare once more what was moved, postpone the rest."""
        self._postpone([task_id for task_id in task_ids if task_id not in moved and self._is_open(task_id)], fault)
        assert self.store.catalog is not None
        try:
            entries = self.store.catalog.read(moved) if moved else {}
        except Fault as still:
            self._postpone(moved, still)
            return
        for task_id in moved:
            self._compare_again(task_id, entries.get(task_id))

    def _is_open(self, task_id: str) -> bool:
        return task_id not in self.postponed and not is_final(self.record.tasks[task_id])

    def _compare_again(self, task_id: str, entry: CatalogEntry | None) -> None:
        refusal = decide_claim(entry, self.record.version_of(task_id), self.rules)
        if refusal is None:
            self.confirmed.append(task_id)
        else:
            self._give_up(task_id, refusal)

    def _give_up(self, task_id: str, refusal: Refusal) -> None:
        """Refuse the task; a rename of ours that was never confirmed goes back first."""
        if fault := self.undo(task_id):
            if fault.retriable:
                self._postpone([task_id], fault)
            else:
                self._fail(task_id, fault)
            return
        self.record.put(refuse(self.record.tasks[task_id], refusal))

    def undo(self, task_id: str) -> Fault | None:
        """Put an unconfirmed rename of this request back, never replacing anything; returns what prevented it."""
        if self.store.directory is None or self.record.spec.dry_run:
            return None
        try:
            if self.store.directory.undo(task_id, self.record.live.uid):
                self.store.directory.sync()
        except Fault as fault:
            return fault
        return None

    def _fail(self, task_id: str, fault: Fault) -> None:
        failed = StepResult.failed(task_id, "Directory", fault)
        dry_run = self.record.spec.dry_run
        task = fold_results(self.record.tasks[task_id], [failed], uncertain=False, dry_run=dry_run)
        self.record.put(conclude(task, self.record.now, dry_run=dry_run))

    def _postpone(self, task_ids: Iterable[str], fault: Fault) -> None:
        for task_id in task_ids:
            self.postponed[task_id] = fault
            self.record.put(postpone(self.record.tasks[task_id], fault))


def _refuse_references(other: str) -> Refusal:
    return Refusal(
        "Refused",
        reasons.FOREIGN_KEY_REFERENCES,
        f"rows of {other} refer to this task and would be changed or block the delete; remove them first,"
        " or keep the records",
    )
