"""Locks the rows of tasks, in order of id, and says which of them somebody else holds.

Called by the claim, the mark and the deletion of records. One busy task must not hold up the others.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, LiteralString

import psycopg
from psycopg import sql

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.tables import CatalogTables, TaskRows, named, read_rows
from taskdeletion.backends.postgres.transactions import WRITE, Transactions

_LOCK: Final[LiteralString] = "SELECT t.task_id::text FROM {tasks} t WHERE {named} ORDER BY t.task_id FOR UPDATE OF t"


@dataclass(frozen=True)
class Locked:
    """Rows that are ours until the transaction ends, and ids whose row another transaction holds."""

    found: TaskRows
    row_locked: frozenset[str]


def lock_rows(
    transactions: Transactions, connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str]
) -> Locked:
    """Lock the rows of these tasks at the start of a WRITE transaction. Raises psycopg.Error or Fault.

    Locking and reading are two statements: the second one sees the steps, too, as they are once the lock is held.
    """
    try:
        locked = _lock(connection, tables, task_ids, skip=False)
        return Locked(read_rows(connection, tables, locked), frozenset())
    except psycopg.errors.LockNotAvailable:
        transactions.begin_again(connection, WRITE)
    locked = _lock(connection, tables, task_ids, skip=True)
    found = read_rows(connection, tables, task_ids)
    ours = {task_id: row for task_id, row in found.rows.items() if task_id in locked}
    return Locked(TaskRows(ours, found.is_update_zoned), frozenset(found.rows.keys() - ours.keys()))


def _lock(connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str], *, skip: bool) -> set[str]:
    query = sql.SQL(_LOCK + " SKIP LOCKED" if skip else _LOCK)
    statement = query.format(tasks=tables.tasks, named=named(sql.SQL("t.task_id")))
    return {str(task_id) for (task_id,) in connection.execute(statement, {"ids": list(task_ids)})}
