"""The claim of one round: lock, check again, rename, commit; and what to do where nothing confirms it.

Called by the attempt with announced tasks. Leaves every task confirmed, refused, failed, or postponed with a reason;
a rename that nothing confirmed is undone, or stays for the next attempt, which finds it and never renames again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.catalog import Catalog, CatalogEntry, CommitUnknown, HeldTasks
from taskdeletion.domain.claims import UNKNOWN_TASK, Refusal, Rules, decide_claim
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.outcomes import conclude, fold_results, is_final, postpone, refuse
from taskdeletion.domain.results import StepResult
from taskdeletion.executors.store import OpenStore
from taskdeletion.workflow.record import Record

_OPERATIONS_OF_A_CHECK = 8
_OPERATIONS_OF_A_CLAIM = 5


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
            self._claim_from(self.store.catalog, task_ids, moved)
        except (Fault, CommitUnknown) as error:
            self._recover(error if isinstance(error, Fault) else error.fault, task_ids, moved)
        else:
            self._confirm(self.store.catalog, moved)

    def _confirm(self, catalog: Catalog, moved: list[str]) -> None:
        """A commit confirms what it locked. What nothing could lock (no row, state in Redis) is compared once more."""
        held = [task_id for task_id in moved if self._is_held(catalog, task_id)]
        self.confirmed += held
        if len(held) < len(moved):
            self._compare_all_again([task_id for task_id in moved if task_id not in held])

    def _is_held(self, catalog: Catalog, task_id: str) -> bool:
        return catalog.holds_entries and self.record.version_of(task_id) != UNKNOWN_TASK

    def _claim_from(self, catalog: Catalog, task_ids: list[str], moved: list[str]) -> None:
        spec = self.record.spec
        with catalog.claim(task_ids, with_records=spec.delete_database_records, lock=not spec.dry_run) as locked:
            may_go = self._keep_purgeable([task_id for task_id in task_ids if self._decide(task_id, locked)])
            # Rows of a task that was refused just now may refer to another one of this claim: look again without it.
            is_settled = len(may_go) == len(task_ids) or not spec.delete_database_records
            if is_settled:
                self._move_all(may_go, moved)
        if may_go and not is_settled:
            self._claim_from(catalog, may_go, moved)

    def _claim_without_catalog(self, task_ids: list[str]) -> None:
        moved: list[str] = []
        try:
            self._move_all(self._keep_purgeable(task_ids), moved)
        except Fault as fault:
            self._postpone(moved, fault)
        else:
            self.confirmed += moved

    def _decide(self, task_id: str, locked: HeldTasks) -> bool:
        """Whether the task may go, by what the claim sees; where not, it says why and our rename is undone."""
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

    def _keep_purgeable(self, task_ids: list[str]) -> list[str]:
        """The tasks whose directories could be renamed and emptied; the record says of the others why not."""
        root = self.store.directory
        if root is None:
            return task_ids
        obstacles: dict[str, Fault | None] = {}

        def check(task_id: str) -> None:
            obstacles[task_id] = root.check_purgeable(task_id)

        root.side_by_side(check, task_ids, operations=_OPERATIONS_OF_A_CHECK)
        for task_id in task_ids:
            if fault := obstacles[task_id]:
                self._give_up_directory(task_id, fault)
        return [task_id for task_id in task_ids if obstacles[task_id] is None]

    def _move_all(self, task_ids: list[str], moved: list[str]) -> None:
        """Rename the directories aside, and make that durable; `moved` grows as it goes. A dry run moves nothing."""
        if self.store.directory is None or self.record.spec.dry_run:
            moved += task_ids
            return
        refused: dict[str, Fault] = {}

        def rename(task_id: str) -> None:
            if fault := self._rename(task_id):
                refused[task_id] = fault
            else:
                moved.append(task_id)

        self.store.directory.side_by_side(rename, task_ids, operations=_OPERATIONS_OF_A_CLAIM)
        for task_id, fault in refused.items():
            self._give_up_directory(task_id, fault)
        if moved:
            self.store.directory.sync()

    def _give_up_directory(self, task_id: str, fault: Fault) -> None:
        """Its directory cannot be moved; a rename of an earlier attempt that nothing confirmed goes back first."""
        why = fault if fault.retriable else undo_rename(self.store.directory, self.record, task_id) or fault
        if why.retriable:
            self._postpone([task_id], why)
        else:
            self._fail(task_id, why)

    def _rename(self, task_id: str) -> Fault | None:
        assert self.store.directory is not None
        try:
            self.store.directory.claim(task_id, self.record.live.uid)
        except Fault as fault:
            return fault
        return None

    def _recover(self, fault: Fault, task_ids: list[str], moved: list[str]) -> None:
        """The transaction failed, or its commit is in doubt: compare once more what was moved, postpone the rest."""
        self._postpone([task_id for task_id in task_ids if task_id not in moved and self._is_open(task_id)], fault)
        self._compare_all_again(moved)

    def _compare_all_again(self, moved: list[str]) -> None:
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
        if fault := undo_rename(self.store.directory, self.record, task_id):
            if fault.retriable:
                self._postpone([task_id], fault)
            else:
                self._fail(task_id, fault)
            return
        self.record.put(refuse(self.record.tasks[task_id], refusal))

    def _fail(self, task_id: str, fault: Fault) -> None:
        failed = StepResult.failed(task_id, "Directory", fault)
        dry_run = self.record.spec.dry_run
        task = fold_results(self.record.tasks[task_id], [failed], uncertain=False, dry_run=dry_run)
        self.record.put(conclude(task, self.record.now, dry_run=dry_run))

    def _postpone(self, task_ids: Iterable[str], fault: Fault) -> None:
        """Leave tasks for the next attempt; where trying again cannot help, they end, with any rename undone first."""
        for task_id in task_ids:
            undone = None if fault.retriable else undo_rename(self.store.directory, self.record, task_id)
            why = undone or fault
            if why.retriable:
                self.postponed[task_id] = why
            task, dry_run = self.record.tasks[task_id], self.record.spec.dry_run
            self.record.put(postpone(task, why, at=self.record.now, dry_run=dry_run))


def _refuse_references(other: str) -> Refusal:
    return Refusal(
        "Refused",
        reasons.FOREIGN_KEY_REFERENCES,
        f"rows of {other} refer to this task and would be changed or block the delete; remove them first,"
        " or keep the records",
    )


def undo_rename(root: DirectoryRoot | None, record: Record, task_id: str) -> Fault | None:
    """Put an unconfirmed rename of this request back, never replacing anything; returns what prevented it."""
    if root is None or record.spec.dry_run:
        return None
    try:
        if root.undo(task_id, record.live.uid):
            root.sync()
    except Fault as fault:
        return fault
    return None
