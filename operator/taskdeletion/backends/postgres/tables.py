"""The two tables: their names, how rows of exact task ids are selected, and how a row becomes a CatalogEntry.

Used by everything in this package. Times are fetched in binary and converted here, so that no setting of the session,
the role or a pooler (TimeZone, DateStyle) can change the version of a task.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Final
from zoneinfo import ZoneInfo

from psycopg import sql

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.domain.catalog import CatalogEntry, Version
from taskdeletion.domain.faults import Fault

TASK_COLUMNS: Final = ("task_id", "status", "created_at", "updated_at", "directory_exists")
STEP_COLUMNS: Final = ("task_id", "status")
LONGEST_WORD: Final = 100
_TIMESTAMPTZ_OID: Final = 1184
_STEP_RUNS: Final = "a step of the task is running"

_SELECT_TASKS = sql.SQL(
    "SELECT t.task_id::text, t.status::text, t.created_at, t.updated_at, t.directory_exists,"
    " EXISTS (SELECT 1 FROM {steps} s WHERE s.task_id = t.task_id AND s.status::text = ANY(%(running)s::text[]))"
    " FROM {tasks} t WHERE {named}"
)


@dataclass(frozen=True)
class CatalogTables:
    """Names of the tables (schema-qualified or not, exact case), the zone of columns without one, the running words."""

    tasks_table: str
    steps_table: str
    time_zone: str
    running_step_statuses: tuple[str, ...]

    @property
    def tasks(self) -> sql.Identifier:
        """The table of the tasks, for a statement."""
        return sql.Identifier(*self.tasks_table.split("."))

    @property
    def steps(self) -> sql.Identifier:
        """The table of the steps, for a statement."""
        return sql.Identifier(*self.steps_table.split("."))

    @property
    def quoted_names(self) -> dict[str, str]:
        """Parameters `tasks` and `steps` for to_regclass."""
        return {"tasks": self.tasks.as_string(), "steps": self.steps.as_string()}

    @cached_property
    def zone(self) -> ZoneInfo:
        """The zone of `timestamp` columns. Raises Fault (waiting, StoreInvalid)."""
        try:
            return ZoneInfo(self.time_zone)
        except (KeyError, ValueError, OSError):
            message = f"spec.catalog.postgres.timeZone: {self.time_zone!r} is not a time zone"
            raise Fault("waiting", reasons.STORE_INVALID, message) from None


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A row of the tasks table."""

    entry: CatalogEntry
    is_marked: bool


@dataclass(frozen=True, slots=True)
class TaskRows:
    """Rows by task id; `is_update_zoned` says whether updated_at knows its zone."""

    rows: Mapping[str, TaskRow]
    is_update_zoned: bool

    @property
    def entries(self) -> dict[str, CatalogEntry]:
        """The entries by task id."""
        return {task_id: row.entry for task_id, row in self.rows.items()}


def named(column: sql.Composable) -> sql.Composed:
    """A condition: `column` is one of the parameter `ids`, character by character.

    The first half uses the index; the second rules out what a collation that ignores case or accents takes for equal.
    """
    condition = '{0} = ANY(%(ids)s::text[]) AND {0}::text COLLATE "C" = ANY(%(ids)s::text[])'
    return sql.SQL(condition).format(column)


def chunked(task_ids: Collection[str], size: int) -> Iterator[list[str]]:
    """The ids in order, without duplicates, at most `size` at a time."""
    ordered = sorted(set(task_ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def read_rows(connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str]) -> TaskRows:
    """The rows of these tasks; ids without a row are left out. Raises psycopg.Error or Fault."""
    query = _SELECT_TASKS.format(tasks=tables.tasks, steps=tables.steps, named=named(sql.SQL("t.task_id")))
    parameters = {"ids": list(task_ids), "running": list(tables.running_step_statuses)}
    with connection.cursor(binary=True) as cursor:
        cursor.execute(query, parameters)
        rows: dict[str, TaskRow] = {}
        for values in cursor:
            row = _build_row(values, tables)
            if row.entry.task_id in rows:
                raise _schema_fault(
                    tables, f"has several rows for the task {row.entry.task_id}; task_id must be unique"
                )
            rows[row.entry.task_id] = row
        is_zoned = cursor.description is not None and cursor.description[3].type_code == _TIMESTAMPTZ_OID
    return TaskRows(rows, is_zoned)


def _build_row(values: Sequence[object], tables: CatalogTables) -> TaskRow:
    task_id, status, created, updated, directory_exists, has_running_step = values
    created_at = _to_utc(created, "created_at", tables)
    updated_at = _to_utc(updated, "updated_at", tables)
    word = "" if status is None else str(status)
    version = Version(_format_time(created_at), f"{_shorten(word)}|{_format_time(updated_at)}")
    entry = CatalogEntry(str(task_id), version, word, created_at, _STEP_RUNS if has_running_step else "")
    return TaskRow(entry, directory_exists is False)


def _shorten(word: str) -> str:
    """A status word as it stands in a version, which is bounded: a long one by its digest."""
    if len(word) <= LONGEST_WORD:
        return word
    return f"sha256:{hashlib.sha256(word.encode()).hexdigest()[:32]}"


def _to_utc(value: object, column: str, tables: CatalogTables) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, date):
        raise _schema_fault(tables, f"has a column {column} that is no timestamp")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the zone follows
    if value.tzinfo is None:
        # fold=1: an hour that occurs twice is taken for the later one, as PostgreSQL does: too young is the safe error.
        value = value.replace(tzinfo=tables.zone, fold=1)
    try:
        return value.astimezone(UTC)
    except OverflowError:  # such as year 1 east of Greenwich: no time that can be compared
        return None


def _format_time(value: datetime | None) -> str:
    return "" if value is None else value.isoformat(timespec="microseconds")


def _schema_fault(tables: CatalogTables, what: str) -> Fault:
    return Fault("waiting", reasons.SCHEMA_MISSING, f"the table {tables.tasks_table} {what}")
