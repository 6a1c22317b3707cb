"""Marks rows whose data is gone: directory_exists = FALSE, updated_at = now().

Called by the workflow after the purge (docs/safety.md, "The order of effects", 7). Touches only rows that are still
what was claimed.
"""

from collections.abc import Collection, Mapping
from typing import Final

from psycopg import sql

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.lanes import work_in_lanes
from taskdeletion.backends.postgres.locks import Locked, lock_rows
from taskdeletion.backends.postgres.tables import CatalogTables, TaskRow, array_of, chunked, named
from taskdeletion.backends.postgres.transactions import WRITE, Transactions
from taskdeletion.domain.catalog import CommitUnknown, Marks, Version

CHUNK: Final = 500
_UPDATE = sql.SQL(
    "UPDATE {tasks} t SET directory_exists = FALSE, updated_at = {now}"
    " WHERE {named} AND t.directory_exists IS DISTINCT FROM FALSE"
)
_FIND_MARKED = sql.SQL("SELECT t.task_id::text FROM {tasks} t WHERE {named} AND t.directory_exists IS FALSE")
_NOW_WITH_ZONE = sql.SQL("now()")
_NOW_IN_ZONE = sql.SQL("timezone(%(zone)s, now())")


def mark_rows(
    transactions: Transactions, tables: CatalogTables, versions: Mapping[str, Version], *, force: bool
) -> Marks:
    """Which rows are marked now; see PostgresCatalog.mark."""

    def work(ids: list[str]) -> tuple[set[str], frozenset[str]]:
        chunk = {task_id: versions[task_id] for task_id in ids}
        return _mark_chunk(transactions, tables, chunk, force=force)

    done = work_in_lanes(work, list(chunked(versions, CHUNK)))
    marked, busy = [marks for marks, _ in done], [locked for _, locked in done]
    return Marks(frozenset().union(*marked), frozenset().union(*busy))


def _mark_chunk(
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
    names = {"tasks": tables.tasks, "named": named(sql.SQL("t.task_id"))}
    parameters = {"ids": array_of(sorted(task_ids)), "zone": tables.time_zone}
    connection.execute(_UPDATE.format(**names, now=now), parameters)
    found = connection.execute(_FIND_MARKED.format(**names), parameters).fetchall()
    return {str(task_id) for (task_id,) in found}


def _is_marked_run(row: TaskRow, version: Version, *, force: bool) -> bool:
    """Whether the row has the mark already and is the same run but for what the mark itself changed."""
    if not row.is_marked or row.version.created != version.created:
        return False
    return force or _status_of(version) == _status_of(row.version)


def _status_of(version: Version) -> str:
    """Of status, updated_at and writer the first; it may hold the sign that stands between them."""
    return version.rest.rsplit("|", 2)[0]
