"""The two tables: their names, how rows of exact task ids are selected, and how a row becomes a CatalogEntry.

Used by everything in this package. Times are fetched in binary and converted here, so that no setting of the session,
the role or a pooler (TimeZone, DateStyle) can change the version of a task.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, tzinfo
from functools import cached_property
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from psycopg import sql

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.connection import CatalogConnection
from taskdeletion.backends.postgres.identifiers import identifier
from taskdeletion.domain.catalog import CatalogEntry, Version, in_utc
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.table_names import parse_table_name

TASK_COLUMNS: Final = ("task_id", "status", "created_at", "updated_at", "directory_exists")
STEP_COLUMNS: Final = ("task_id", "status")
#: The transaction that wrote the row: changes with every UPDATE, also with one that leaves all values as they were.
WRITER_COLUMN: Final = "xmin"
LONGEST_WORD: Final = 100
_TIMESTAMPTZ_OID: Final = 1184
_IN_ARRAY: Final = str.maketrans({'"': r"\"", "\\": r"\\"})
_STEP_RUNS: Final = "a step of the task is running"

_SELECT = sql.SQL(
    "SELECT t.task_id::text, t.status::text, t.created_at, t.updated_at, t.directory_exists, t.xmin::text,"
    " {has_running_step} FROM {tasks} t WHERE {named}"
)
HAS_RUNNING_STEP = sql.SQL(
    "EXISTS (SELECT 1 FROM {steps} s WHERE s.task_id = t.task_id AND s.status::text = ANY(%(running)s::text[]))"
)
_LOCKED = {False: sql.SQL(" ORDER BY t.task_id FOR UPDATE OF t"), True: sql.SQL(" FOR UPDATE OF t SKIP LOCKED")}


@dataclass(frozen=True)
class CatalogTables:
    """Names of the tables, the zone of columns without one, the running words.

    A name is schema-qualified or not, in exact case, in double quotes where it needs them (`table_names`). The
    properties raise Fault (waiting, StoreInvalid) for one that is none.
    """

    tasks_table: str
    steps_table: str
    time_zone: str
    running_step_statuses: tuple[str, ...]

    @cached_property
    def tasks(self) -> sql.Identifier:
        """The table of the tasks, for a statement with parameters."""
        return identifier(*parse_table_name(self.tasks_table))

    @cached_property
    def steps(self) -> sql.Identifier:
        """The table of the steps, for a statement with parameters."""
        return identifier(*parse_table_name(self.steps_table))

    @cached_property
    def quoted_names(self) -> dict[str, str]:
        """Parameters `tasks` and `steps` for to_regclass."""
        names = {"tasks": self.tasks_table, "steps": self.steps_table}
        return {role: sql.Identifier(*parse_table_name(name)).as_string() for role, name in names.items()}

    @cached_property
    def zone(self) -> tzinfo:
        """The zone of `timestamp` columns. Raises Fault (waiting, StoreInvalid)."""
        try:
            return UTC if self.time_zone == "UTC" else ZoneInfo(self.time_zone)  # the usual one, and much faster so
        except (KeyError, ValueError, OSError):
            message = f"spec.catalog.postgres.timeZone: {self.time_zone!r} is not a time zone"
            raise Fault("waiting", reasons.STORE_INVALID, message) from None


class TaskRow(NamedTuple):
    """A row of the tasks table. `created_at` in UTC."""

    task_id: str
    version: Version
    status: str
    created_at: datetime | None
    has_running_step: bool
    is_marked: bool

    @property
    def entry(self) -> CatalogEntry:
        """What the workflow knows of it."""
        activity = _STEP_RUNS if self.has_running_step else ""
        return CatalogEntry(self.task_id, self.version, self.status, self.created_at, activity)


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


def array_of(task_ids: Iterable[str]) -> str:
    """The parameter `ids` of these ids, in PostgreSQL's own notation: psycopg takes 10 times longer for a list."""
    quoted = [f'"{task_id.translate(_IN_ARRAY)}"' for task_id in task_ids]
    return f"{{{','.join(quoted)}}}"


def chunked(task_ids: Collection[str], size: int) -> Iterator[list[str]]:
    """The ids in order, without duplicates, at most `size` at a time."""
    ordered = sorted(set(task_ids))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def read_rows(connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str]) -> TaskRows:
    """The rows of these tasks; ids without a row are left out. Raises psycopg.Error or Fault."""
    running = HAS_RUNNING_STEP.format(steps=tables.steps)
    return _fetch(connection, tables, task_ids, _select(tables, has_running_step=running))


def lock_and_read_rows(
    connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str], *, skip: bool
) -> TaskRows:
    """The rows of these tasks as they are once they are locked, in order of id; of the steps nothing is known.

    `skip`: leave out those that somebody else holds, instead of waiting. Raises psycopg.Error or Fault.
    """
    return _fetch(connection, tables, task_ids, _select(tables, has_running_step=sql.SQL("FALSE")) + _LOCKED[skip])


def is_update_zoned(connection: CatalogConnection, tables: CatalogTables) -> bool:
    """Whether updated_at knows its zone. Raises psycopg.Error."""
    statement = sql.SQL("SELECT updated_at FROM {tasks} LIMIT 0").format(tasks=tables.tasks)
    cursor = connection.execute(statement, {})  # names are quoted for a statement with parameters
    return _is_zoned(cursor, 0)


def _select(tables: CatalogTables, *, has_running_step: sql.Composable) -> sql.Composed:
    return _SELECT.format(tasks=tables.tasks, named=named(sql.SQL("t.task_id")), has_running_step=has_running_step)


def _fetch(
    connection: CatalogConnection, tables: CatalogTables, task_ids: Collection[str], query: sql.Composed
) -> TaskRows:
    parameters = {"ids": array_of(task_ids), "running": list(tables.running_step_statuses)}
    with connection.cursor(binary=True) as cursor:
        found = cursor.execute(query, parameters).fetchall()
        is_zoned = _is_zoned(cursor, 3)
    rows = {row.task_id: row for row in (_build_row(values, tables) for values in found)}
    if len(rows) < len(found):
        twice, _ = Counter(str(task_id) for task_id, *_ in found).most_common(1)[0]
        raise schema_fault(tables, f"has several rows for the task {twice}; task_id must be unique")
    return TaskRows(rows, is_zoned)


def _is_zoned(cursor: psycopg.Cursor[Any], column: int) -> bool:
    return cursor.description is not None and cursor.description[column].type_code == _TIMESTAMPTZ_OID


def _build_row(values: Sequence[object], tables: CatalogTables) -> TaskRow:
    task_id, status, created, updated, directory_exists, writer, has_running_step = values
    created_at = to_utc(created, "created_at", tables)
    updated_at = to_utc(updated, "updated_at", tables)
    word = "" if status is None else str(status)
    version = Version(_format_time(created_at), f"{_shorten(word)}|{_format_time(updated_at)}|{writer}")
    return TaskRow(str(task_id), version, word, created_at, bool(has_running_step), directory_exists is False)


def _shorten(word: str) -> str:
    """A status word as it stands in a version, which is bounded: a long one by its digest."""
    if len(word) <= LONGEST_WORD:
        return word
    return f"sha256:{hashlib.sha256(word.encode()).hexdigest()[:32]}"


def to_utc(value: object, column: str, tables: CatalogTables) -> datetime | None:
    if value is None:
        return None
    if not isinstance(value, date):
        raise schema_fault(tables, f"has a column {column} that is no timestamp")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the zone follows
    try:
        return value.astimezone(UTC) if value.tzinfo else in_utc(value, tables.zone)
    except OverflowError:  # such as year 1 east of Greenwich: no time that can be compared
        return None


def _format_time(value: datetime | None) -> str:
    return "" if value is None else value.isoformat(timespec="microseconds")


def schema_fault(tables: CatalogTables, what: str) -> Fault:
    return Fault("waiting", reasons.SCHEMA_MISSING, f"the table {tables.tasks_table} {what}")
