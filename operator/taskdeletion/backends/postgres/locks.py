"""Locks the rows of tasks, in order of id, and says which of them somebody else holds.

Called by the claim, the mark and the deletion of records. One busy task must not hold up the others.
"""

from collections.abc import Collection
from dataclasses import dataclass

import psycopg

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.tables import CatalogTables, TaskRows, lock_and_read_rows, read_rows
from taskdeletion.backends.postgres.transactions import WRITE, Transactions


@dataclass(frozen=True)
class Locked:
    """Rows that are ours until the transaction ends, and ids whose row another transaction holds."""

    found: TaskRows
    row_locked: frozenset[str]


def lock_rows(
    transactions: Transactions, connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str]
) -> Locked:
    """Lock the rows of these tasks at the start of a WRITE transaction. Raises psycopg.Error or Fault.

    The entries are those of the locked rows; whether a step is running they do not say.
    """
    try:
        return Locked(lock_and_read_rows(connection, tables, task_ids, skip=False), frozenset())
    except psycopg.errors.LockNotAvailable:
        transactions.begin_again(connection, WRITE)
    ours = lock_and_read_rows(connection, tables, task_ids, skip=True)
    there = read_rows(connection, tables, task_ids).rows.keys()
    return Locked(ours, frozenset(there - ours.rows.keys()))


def lock_rows_and_steps(
    transactions: Transactions, connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str]
) -> Locked:
    """The same, and the entries say whether a step is running, once no step can be added any more.

    That takes another statement: the one that waited for the lock sees the steps as they were before.
    """
    locked = lock_rows(transactions, connection, tables, task_ids)
    return Locked(read_rows(connection, tables, locked.found.rows.keys()), locked.row_locked)
