"""The claim's view of the catalog: the rows of at most 50 tasks, locked while the caller renames their directories.

Called by the workflow around the rename (docs/safety.md, "The order of effects", 3 and 4). Decides nothing and changes
no row.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import psycopg

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.faults import fault_of
from taskdeletion.backends.postgres.foreign_keys import find_references, read_foreign_keys
from taskdeletion.backends.postgres.locks import Locked, lock_rows_and_steps
from taskdeletion.backends.postgres.privileges import find_missing_privileges
from taskdeletion.backends.postgres.tables import CatalogTables, read_rows
from taskdeletion.backends.postgres.transactions import (
    READ,
    WRITE,
    Transactions,
    commit,
    commit_unknown,
    roll_back,
)
from taskdeletion.domain.catalog import MAX_CLAIMED, HeldTasks
from taskdeletion.domain.faults import Fault


@contextmanager
def claim_tasks(
    transactions: Transactions,
    tables: CatalogTables,
    task_ids: Collection[str],
    *,
    with_records: bool,
    lock: bool,
) -> Iterator[HeldTasks]:
    """Hold the rows for the length of a `with` block; see PostgresCatalog.claim."""
    if len(set(task_ids)) > MAX_CLAIMED:
        raise ValueError(f"a claim takes at most {MAX_CLAIMED} tasks, not {len(set(task_ids))}")

    def look(connection: CatalogConnection) -> HeldTasks:
        found = _lock_or_read(transactions, connection, tables, task_ids, lock=lock)
        references = _find_references(connection, tables, found) if with_records else {}
        return HeldTasks(found.found.entries, found.row_locked, references)

    connection, seen = transactions.open(look, mode=WRITE if lock else READ)
    try:
        yield seen
        if lock:
            transactions.leadership.require()
            _confirm(connection)
    finally:
        roll_back(connection)  # after a commit there is nothing to roll back
        transactions.pool.release(connection)


def _lock_or_read(
    transactions: Transactions,
    connection: CatalogConnection,
    tables: CatalogTables,
    task_ids: Collection[str],
    *,
    lock: bool,
) -> Locked:
    if lock:
        return lock_rows_and_steps(transactions, connection, tables, task_ids)
    return Locked(read_rows(connection, tables, task_ids), frozenset())


def _find_references(connection: CatalogConnection, tables: CatalogTables, found: Locked) -> Mapping[str, str]:
    missing = find_missing_privileges(connection, tables, with_records=True)
    if missing:  # found out here, nothing is touched yet; found out by the DELETE, the data is gone
        message = f"records cannot be deleted: the role lacks {', '.join(missing)}"
        raise Fault("permanent", reasons.PERMISSION_DENIED, message)
    return find_references(connection, read_foreign_keys(connection, tables), found.found.rows.keys())


def _confirm(connection: CatalogConnection) -> None:
    """Commit; for a rename that happened under the lock, any failure leaves open whether the lock held until then."""
    try:
        commit(connection)
    except psycopg.Error as error:
        raise commit_unknown(fault_of(error)) from None
