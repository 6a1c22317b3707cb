"""Marks rows whose data is gone: directory_exists = FALSE, updated_at = now().

Called by the workflow after the purge (docs/safety.md, "The order of effects", 7). Touches only rows that are still
what was claimed: as a rule one statement compares and marks them all, and what it leaves is locked and looked at.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from psycopg import sql

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.lanes import work_in_lanes
from taskdeletion.backends.postgres.locks import Locked, lock_rows
from taskdeletion.backends.postgres.tables import CatalogTables, TaskRow, array_of, chunked, is_update_zoned, named
from taskdeletion.backends.postgres.transactions import WRITE, Transactions
from taskdeletion.domain.catalog import CommitUnknown, Marks, Version
from taskdeletion.domain.faults import Fault

CHUNK: Final = 500
_UPDATE = sql.SQL(
    "UPDATE {tasks} t SET directory_exists = FALSE, updated_at = {now}"
    " WHERE {named} AND t.directory_exists IS DISTINCT FROM FALSE"
)
_FIND_MARKED = sql.SQL("SELECT t.task_id::text FROM {tasks} t WHERE {named} AND t.directory_exists IS FALSE{by}")
_BY_ANYBODY = sql.SQL("")
_BY_US = sql.SQL(" AND t.xmin::text = (txid_current() %% 4294967296)::text")
# Whoever wrote the row last wrote the version that was claimed: nobody has changed it since.
_UPDATE_CLAIMED = sql.SQL(
    "UPDATE {tasks} t SET directory_exists = FALSE, updated_at = {now}"
    " FROM unnest(%(ids)s::text[], %(writers)s::text[]) AS claimed(task_id, writer)"
    ' WHERE t.task_id = claimed.task_id AND t.task_id::text COLLATE "C" = claimed.task_id'
    " AND t.xmin::text = claimed.writer AND t.directory_exists IS DISTINCT FROM FALSE"
)
_NOW_WITH_ZONE = sql.SQL("now()")
_NOW_IN_ZONE = sql.SQL("timezone(%(zone)s, now())")
_Work = Callable[[CatalogConnection], tuple[set[str], frozenset[str]]]


def mark_rows(
    transactions: Transactions, tables: CatalogTables, versions: Mapping[str, Version], *, force: bool
) -> Marks:
    """Which rows are marked now; see PostgresCatalog.mark."""

    def work(ids: list[str]) -> tuple[set[str], frozenset[str]]:
        chunk = {task_id: versions[task_id] for task_id in ids}
        done = set() if force else _mark_claimed(transactions, tables, chunk)
        rest = {task_id: version for task_id, version in chunk.items() if task_id not in done}
        if not rest:
            return done, frozenset()
        marked, row_locked = _mark_under_lock(transactions, tables, rest, force=force)
        return done | marked, row_locked

    done = work_in_lanes(work, list(chunked(versions, CHUNK)))
    marked, busy = [marks for marks, _ in done], [locked for _, locked in done]
    return Marks(frozenset().union(*marked), frozenset().union(*busy))


# --- all that are as they were, in one statement ----------------------------------------------------------------------
def _mark_claimed(transactions: Transactions, tables: CatalogTables, versions: Mapping[str, Version]) -> set[str]:
    """The rows that this marked; the others have to be looked at. Raises Fault but for a row that somebody holds."""

    def work(connection: CatalogConnection) -> set[str]:
        ids = sorted(versions)
        now = _NOW_WITH_ZONE if is_update_zoned(connection, tables) else _NOW_IN_ZONE
        parameters = {
            "ids": array_of(ids),
            "writers": array_of(versions[task_id].rest.rpartition("|")[2] for task_id in ids),
            "zone": tables.time_zone,
        }
        connection.execute(_UPDATE_CLAIMED.format(tasks=tables.tasks, now=now), parameters)
        return _find_marked(connection, tables, ids, _BY_US)

    try:
        return transactions.run(work, mode=WRITE)
    except CommitUnknown:
        return set()  # what a lost reply has done is recognised under the lock
    except Fault as fault:
        if fault.reason != reasons.ROW_LOCKED:
            raise
        return set()


# --- row by row -------------------------------------------------------------------------------------------------------
def _mark_under_lock(
    transactions: Transactions, tables: CatalogTables, versions: Mapping[str, Version], *, force: bool
) -> tuple[set[str], frozenset[str]]:
    def work(connection: CatalogConnection) -> tuple[set[str], frozenset[str]]:
        locked = lock_rows(transactions, connection, tables, versions)
        return _update(connection, tables, locked, versions, force=force), locked.row_locked

    try:
        return transactions.run(work, mode=WRITE)
    except CommitUnknown:
        pass  # what a lost reply has done, a second run recognises
    try:
        return transactions.run(work, mode=WRITE)
    except CommitUnknown as unknown:
        raise unknown.fault from None


def _update(
    connection: CatalogConnection,
    tables: CatalogTables,
    locked: Locked,
    versions: Mapping[str, Version],
    *,
    force: bool,
) -> set[str]:
    rows = locked.found.rows
    current = {i for i, row in rows.items() if versions[i].matches(row.version, force=force)}
    already = {i for i, row in rows.items() if _is_marked_run(row, versions[i], force=force)}
    return already | (_mark_and_look(connection, tables, current, locked) if current else set())


def _mark_and_look(
    connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str], locked: Locked
) -> set[str]:
    """Mark these rows; which of them have the mark then: a trigger or rule may have kept one as it was."""
    now = _NOW_WITH_ZONE if locked.found.is_update_zoned else _NOW_IN_ZONE
    parameters = {"ids": array_of(sorted(task_ids)), "zone": tables.time_zone}
    connection.execute(_UPDATE.format(tasks=tables.tasks, named=named(sql.SQL("t.task_id")), now=now), parameters)
    return _find_marked(connection, tables, task_ids, _BY_ANYBODY)


def _find_marked(
    connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str], by: sql.SQL
) -> set[str]:
    statement = _FIND_MARKED.format(tasks=tables.tasks, named=named(sql.SQL("t.task_id")), by=by)
    return {str(task_id) for (task_id,) in connection.execute(statement, {"ids": array_of(sorted(task_ids))})}


def _is_marked_run(row: TaskRow, version: Version, *, force: bool) -> bool:
    """Whether the row has the mark already and is the same run but for what the mark itself changed."""
    if not row.is_marked or row.version.created != version.created:
        return False
    return force or _status_of(version) == _status_of(row.version)


def _status_of(version: Version) -> str:
    """Of status, updated_at and writer the first; it may hold the sign that stands between them."""
    return version.rest.rsplit("|", 2)[0]
