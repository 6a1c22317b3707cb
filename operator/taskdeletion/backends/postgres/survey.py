"""All finished tasks of the catalog: one snapshot, read in pages by the key of the table.

Called by the PostgreSQL catalog for the selection of a retention policy. A page is so many rows of the table, whatever
they are, so that no statement takes long among tasks that went long ago. Changes and locks nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.types.numeric import Int8BinaryLoader

from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.faults import fault_of
from taskdeletion.backends.postgres.tables import HAS_RUNNING_STEP, CatalogTables, schema_fault, to_utc
from taskdeletion.backends.postgres.transactions import READ, Transactions, roll_back
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.task_ids import is_task_id

PAGE_ROWS: Final = 5000
_TIMESTAMP_OID: Final = 1114
_TIMESTAMPTZ_OID: Final = 1184
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_CLOCK: Final = sql.SQL("SELECT clock_timestamp()")
_COUNT: Final = sql.SQL("SELECT count(*), count(*) FILTER (WHERE t.directory_exists IS NOT FALSE) FROM {tasks} t")
_WITH_RUNNING_STEP: Final = sql.SQL(
    "SELECT t.task_id::text FROM {tasks} t"
    " WHERE t.status::text = ANY(%(statuses)s::text[]) AND {has_running_step} LIMIT %(rows)s"
)
# isfinite: an infinite date, unlike an infinite timestamp, could not be loaded at all.
_PAGE: Final = sql.SQL(
    "SELECT t.task_id::text, t.status::text, CASE WHEN isfinite(t.created_at) THEN t.created_at END,"
    " t.directory_exists IS NOT FALSE, {is_busy} FROM {tasks} t {behind} ORDER BY t.task_id LIMIT %(rows)s"
)
_BEHIND: Final = sql.SQL("WHERE t.task_id > %(last)s")
_SEVERAL_ROWS: Final = (
    "does not show every row in the order of task_id: it has several rows for a task, and task_id must be unique; or an"
    " index is out of order after a new version of a collation, and REINDEX puts it right"
)
#: A value of the column created_at, in UTC; None where it is no time that can be compared.
ReadTime = Callable[[Any], datetime | None]


@dataclass(frozen=True)
class PostgresSurvey:
    """The tasks as they were when the transaction began. For one thread, and until the transaction ends.

    `words`: each terminal status as a set of its own. `rows`: of the table. `busy`: finished tasks with a running step,
    as many as a page has at most.
    """

    connection: CatalogConnection
    tables: CatalogTables
    parameters: Mapping[str, Any]
    words: Mapping[str, frozenset[str]]
    with_gone: bool
    now: datetime
    rows: int
    with_files: int
    busy: frozenset[str]

    def pages(self) -> Iterator[Sequence[FinishedTask]]:
        """The finished tasks in the order of the key. Raises Fault, also where the key does not lead to every row."""
        statement, further = self._build_page(sql.SQL("")), self._build_page(_BEHIND)
        last, walked = "", 0
        while walked < self.rows:
            found, read_time = self._fetch(statement, last)
            if not found:
                raise schema_fault(self.tables, _SEVERAL_ROWS)
            statement, last, walked = further, found[-1][0], walked + len(found)
            yield self._build_tasks(found, read_time)

    def _build_page(self, behind: sql.SQL) -> sql.Composed:
        # The ids that are held here may not be all where there are as many as there can be.
        is_busy = _has_running_step(self.tables) if len(self.busy) == PAGE_ROWS else sql.SQL("FALSE")
        return _PAGE.format(tasks=self.tables.tasks, behind=behind, is_busy=is_busy)

    def _fetch(self, statement: sql.Composed, last: str) -> tuple[list[tuple[Any, ...]], ReadTime]:
        try:
            with _open_cursor(self.connection) as cursor:
                found = cursor.execute(statement, {**self.parameters, "last": last}).fetchall()
                assert cursor.description is not None
                return found, _choose_reading(cursor.description[2].type_code, self.tables)
        except psycopg.Error as error:
            raise fault_of(error) from None

    def _build_tasks(self, found: Sequence[tuple[Any, ...]], read_time: ReadTime) -> list[FinishedTask]:
        words, busy, with_gone = self.words, self.busy, self.with_gone
        tasks = [
            FinishedTask(task_id, words[status], created_at, has_files)
            for task_id, status, created, has_files, is_busy in found
            if status in words
            and (has_files or with_gone)
            and not is_busy
            and task_id not in busy
            and is_task_id(task_id)
            and (created_at := read_time(created)) is not None
        ]
        if len({row[0] for row in found}) < len(found):
            raise schema_fault(self.tables, _SEVERAL_ROWS)
        return tasks


@contextmanager
def survey_tasks(
    transactions: Transactions, tables: CatalogTables, terminal_statuses: Collection[str], *, with_gone: bool
) -> Iterator[PostgresSurvey]:
    """A snapshot for the length of a `with` block; see PostgresCatalog.survey."""
    parameters = {
        "statuses": sorted(terminal_statuses),
        "running": list(tables.running_step_statuses),
        "rows": PAGE_ROWS,
    }

    def begin(connection: CatalogConnection) -> PostgresSurvey:
        return _begin(connection, tables, parameters, with_gone=with_gone)

    connection, survey = transactions.open(begin, mode=READ)
    try:
        yield survey
    finally:
        roll_back(connection)
        transactions.pool.release(connection)


def _begin(
    connection: CatalogConnection, tables: CatalogTables, parameters: Mapping[str, Any], *, with_gone: bool
) -> PostgresSurvey:
    names = {"tasks": tables.tasks, "has_running_step": _has_running_step(tables)}
    with connection.cursor(binary=True) as cursor:
        ((now,),) = cursor.execute(_CLOCK).fetchall()
        ((rows, with_files),) = cursor.execute(_COUNT.format(**names)).fetchall()
        busy = frozenset(task_id for (task_id,) in cursor.execute(_WITH_RUNNING_STEP.format(**names), parameters))
    words = {status: frozenset({status}) for status in parameters["statuses"]}
    return PostgresSurvey(connection, tables, parameters, words, with_gone, now.astimezone(UTC), rows, with_files, busy)


def _has_running_step(tables: CatalogTables) -> sql.Composed:
    return HAS_RUNNING_STEP.format(steps=tables.steps)


def _open_cursor(connection: CatalogConnection) -> psycopg.Cursor[tuple[Any, ...]]:
    """A cursor that leaves times as the server sends them, in microseconds: loading 200,000 of them takes long."""
    cursor = connection.cursor(binary=True)
    for oid in (_TIMESTAMP_OID, _TIMESTAMPTZ_OID):
        cursor.adapters.register_loader(oid, Int8BinaryLoader)
    return cursor


def _choose_reading(type_oid: int, tables: CatalogTables) -> ReadTime:
    """How to read created_at: as `to_utc` reads it, in one step where no zone has to be looked up."""
    if type_oid == _TIMESTAMPTZ_OID or (type_oid == _TIMESTAMP_OID and tables.zone is UTC):
        return _read_utc
    if type_oid == _TIMESTAMP_OID:
        return lambda microseconds: _read_in_zone(microseconds, tables)
    return lambda value: to_utc(value, "created_at", tables)


def _read_utc(microseconds: int | None) -> datetime | None:
    try:
        return None if microseconds is None else _EPOCH + timedelta(0, 0, microseconds)
    except OverflowError:
        return None


def _read_in_zone(microseconds: int | None, tables: CatalogTables) -> datetime | None:
    found = _read_utc(microseconds)
    return None if found is None else to_utc(found.replace(tzinfo=None), "created_at", tables)
