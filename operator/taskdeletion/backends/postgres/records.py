"""Deletes the rows of tasks, steps first, in transactions that compare the version under the lock.

Called by the workflow last of all (docs/safety.md, "The order of effects", 7), when everything else of a task is gone.
Never deletes a row that changed, nor one that rows of others refer to.
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from psycopg import sql

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.foreign_keys import ForeignKey, find_references, read_foreign_keys
from taskdeletion.backends.postgres.lanes import work_in_lanes
from taskdeletion.backends.postgres.locks import Locked, lock_rows
from taskdeletion.backends.postgres.tables import CatalogTables, array_of, chunked, named
from taskdeletion.backends.postgres.transactions import READ, WRITE, Transactions
from taskdeletion.domain.catalog import CommitUnknown, Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult

CHUNK: Final = 500
#: How long a part of a chunk waits for a lock that the whole chunk has waited for already.
IMPATIENT_SECONDS: Final = 0.1
RESOURCE: Final = "DatabaseRecords"
# One statement, so that rows of the same task may refer to each other in either direction: the constraints are
# checked when it has ended.
_DELETE = sql.SQL("""
WITH gone_steps AS (DELETE FROM {steps} s WHERE {named_steps} RETURNING s.task_id::text AS task_id),
     gone_tasks AS (DELETE FROM {tasks} t WHERE {named_tasks} RETURNING t.task_id::text AS task_id)
SELECT task_id, count(*) FROM (SELECT task_id FROM gone_steps UNION ALL SELECT task_id FROM gone_tasks) gone
GROUP BY task_id
""")
_FIND_LEFT = sql.SQL(
    "SELECT t.task_id::text FROM {tasks} t WHERE {named_tasks}"
    " UNION SELECT s.task_id::text FROM {steps} s WHERE {named_steps}"
)
_COUNT = sql.SQL(
    "SELECT t.task_id::text, 1 + (SELECT count(*) FROM {steps} s WHERE s.task_id = t.task_id)"
    " FROM {tasks} t WHERE {named_tasks}"
)
_LOCK_STEPS = sql.SQL(
    "SELECT count(*) FROM (SELECT 1 FROM {steps} s WHERE {named_steps} ORDER BY s.task_id FOR UPDATE) locked"
)

Results = dict[str, StepResult]


@dataclass(frozen=True)
class RecordDeletion:
    """The deletion of the records of one request's tasks. `outage`: where one chunk waits in vain, all would."""

    transactions: Transactions
    tables: CatalogTables
    force: bool
    outage: list[Fault] = field(default_factory=list)

    def delete(self, versions: Mapping[str, Version]) -> Results:
        """One result per task; see PostgresCatalog.delete_records."""

        def work(ids: list[str]) -> Results:
            return self._delete_whole({task_id: versions[task_id] for task_id in ids})

        results: Results = {}
        for found in work_in_lanes(work, list(chunked(versions, CHUNK))):
            results |= found
        return results

    def _delete_whole(self, versions: Mapping[str, Version]) -> Results:
        try:
            return self._try_chunk(versions)
        except Fault as fault:
            return self._delete_halves(versions, fault)

    def _try_chunk(self, versions: Mapping[str, Version]) -> Results:
        if self.outage:
            raise self.outage[0]
        try:
            return self._delete_chunk(versions)
        except Fault as fault:
            if fault.kind == "waiting":
                self.outage.append(fault)
            raise

    def _delete_halves(self, versions: Mapping[str, Version], fault: Fault) -> Results:
        """After a chunk failed: leave out the tasks that it failed for, found by halving it again and again.

        Ends with `fault` for all that is left once that takes longer than a statement may: it is not about some tasks.
        """
        timeouts = self.transactions.timeouts
        shorter = replace(timeouts, lock_seconds=min(IMPATIENT_SECONDS, timeouts.lock_seconds))
        impatient = replace(self, transactions=replace(self.transactions, timeouts=shorter))
        deadline = time.monotonic() + timeouts.statement_seconds
        results: Results = {}
        parts = [(versions, fault)]
        while parts:
            part, why = parts.pop()
            if len(part) == 1 or why.kind == "waiting" or time.monotonic() > deadline:
                results |= _fail_all(part, why)
                continue
            for half in _halves(part):
                try:
                    results |= impatient._try_chunk(half)
                except Fault as own:
                    parts.append((half, own))
        return results

    def _delete_chunk(self, versions: Mapping[str, Version]) -> Results:
        """Delete in one transaction; where no reply came to its COMMIT, do it once more, and see what is gone."""
        before: Results = {}

        def work(connection: CatalogConnection) -> Results:
            results = self._work(connection, versions)
            before.clear()
            before.update(results)
            return results

        try:
            return self.transactions.run(work, mode=WRITE)
        except CommitUnknown:
            pass
        try:
            again = self.transactions.run(lambda connection: self._work(connection, versions), mode=WRITE)
        except CommitUnknown as unknown:
            raise unknown.fault from None
        return {task_id: _settle(before[task_id], result) for task_id, result in again.items()}

    def _work(self, connection: CatalogConnection, versions: Mapping[str, Version]) -> Results:
        locked = lock_rows(self.transactions, connection, self.tables, versions)
        results = self._compare(versions, locked)
        remaining = versions.keys() - results.keys()
        if not remaining:
            return results
        references = self._find_references(connection, remaining)
        results |= {task_id: _referenced(task_id, by) for task_id, by in references.items()}
        return results | self._delete_rows(connection, remaining - references.keys())

    def _compare(self, versions: Mapping[str, Version], locked: Locked) -> Results:
        """Results for the tasks whose rows stay."""
        rows, results = locked.found.rows, {}
        for task_id, version in versions.items():
            if task_id in locked.row_locked:
                results[task_id] = _row_locked(task_id)
            elif task_id not in rows:
                results[task_id] = _absent(task_id)
            elif not version.matches(rows[task_id].version, force=self.force):
                results[task_id] = _restarted(task_id)
        return results

    def _find_references(self, connection: CatalogConnection, task_ids: Collection[str]) -> Mapping[str, str]:
        keys = read_foreign_keys(connection, self.tables)
        self._hold_steps(connection, keys, task_ids)
        return find_references(connection, keys, task_ids)

    def _hold_steps(self, connection: CatalogConnection, keys: list[ForeignKey], task_ids: Collection[str]) -> None:
        """Keep new references to steps away until the commit, where such a row would be changed without an error.

        References to tasks are kept away by the lock on their row. This lock needs UPDATE on the steps, so it is
        taken only where it is needed.
        """
        if any(key.changes_rows_of_steps for key in keys):
            statement = _LOCK_STEPS.format(steps=self.tables.steps, named_steps=named(sql.SQL("s.task_id")))
            connection.execute(statement, {"ids": array_of(sorted(task_ids))})

    def _delete_rows(self, connection: CatalogConnection, task_ids: Collection[str]) -> Results:
        if not task_ids:
            return {}
        ids = {"ids": array_of(sorted(task_ids))}
        rows = connection.execute(_format(_DELETE, self.tables), ids)
        counts = {str(task_id): int(count) for task_id, count in rows}
        if connection.execute(_format(_FIND_LEFT, self.tables), ids).fetchone() is not None:
            # Raised inside the transaction: it is rolled back, and the steps stay with their tasks.
            message = "the database kept rows that were to be deleted: a trigger or rule stands in the way"
            raise Fault("permanent", reasons.DATABASE_ERROR, message)
        return {i: StepResult(i, RESOURCE, "Deleted", count=counts.get(i, 0)) for i in task_ids}


def count_rows(transactions: Transactions, tables: CatalogTables, task_ids: Collection[str]) -> dict[str, int]:
    """How many rows (steps and task) each of these tasks has; ids that are not in the catalog are left out."""

    def work(connection: CatalogConnection) -> dict[str, int]:
        found: dict[str, int] = {}
        for ids in chunked(task_ids, CHUNK):
            rows = connection.execute(_format(_COUNT, tables), {"ids": array_of(ids)})
            found |= {str(task_id): int(count) for task_id, count in rows}
        return found

    return transactions.run(work, mode=READ)


def _format(statement: sql.SQL, tables: CatalogTables) -> sql.Composed:
    return statement.format(
        tasks=tables.tasks,
        steps=tables.steps,
        named_tasks=named(sql.SQL("t.task_id")),
        named_steps=named(sql.SQL("s.task_id")),
    )


def _halves(versions: Mapping[str, Version]) -> tuple[Mapping[str, Version], Mapping[str, Version]]:
    items, middle = list(versions.items()), len(versions) // 2
    return dict(items[:middle]), dict(items[middle:])


def _settle(first: StepResult, second: StepResult) -> StepResult:
    """The result of a deletion that was done again because nobody answered whether it was committed."""
    if first.outcome == "Deleted" and second.reason == reasons.ABSENT:
        return replace(first, at_least=True)
    return second


def _fail_all(task_ids: Collection[str], fault: Fault) -> Results:
    return {task_id: StepResult.failed(task_id, RESOURCE, fault) for task_id in task_ids}


def _absent(task_id: str) -> StepResult:
    return StepResult(task_id, RESOURCE, "Skipped", reasons.ABSENT)


def _restarted(task_id: str) -> StepResult:
    message = "the row changed after the task was claimed; its records stay"
    return StepResult.failed(task_id, RESOURCE, Fault("permanent", reasons.TASK_RESTARTED, message))


def _row_locked(task_id: str) -> StepResult:
    message = "another transaction holds the row of the task"
    return StepResult.failed(task_id, RESOURCE, Fault("retriable", reasons.ROW_LOCKED, message))


def _referenced(task_id: str, by: str) -> StepResult:
    message = f"rows of the task are referred to by {by}; delete or change those first"
    return StepResult.failed(task_id, RESOURCE, Fault("permanent", reasons.FOREIGN_KEY_REFERENCES, message))
