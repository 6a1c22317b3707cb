"""Rows of PostgreSQL: deleting the records of tasks, and marking tasks, against a loop that takes one row at a time.

Ours is the catalog as the workflow calls it, with the versions that were announced: every row is locked, compared and
looked at again. The peer compares nothing and prepares its statements, as psycopg does by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from bench.line import OURS, Line
from dev.pipeline import SCHEMA
from dev.stack import start_stack
from taskdeletion.backends.postgres import CatalogTables, PostgresCatalog, PostgresConnection, read_migration
from taskdeletion.domain.catalog import Version

TASKS: Final = 10_000
STEPS: Final = 5
ROW_AT_A_TIME: Final = "psycopg, row at a time"
NAMES: Final = CatalogTables("data_pipeline_tasks", "data_pipeline_task_steps", "UTC", ("running",))
TASK_IDS: Final = [f"task_{number:05}" for number in range(TASKS)]

FILL: Final = """
TRUNCATE data_pipeline_tasks, data_pipeline_task_steps;
INSERT INTO data_pipeline_tasks (task_id, status, created_at)
    SELECT task_id, 'completed', now() - interval '30 days' FROM unnest(%(ids)s::text[]) task_id;
INSERT INTO data_pipeline_task_steps (task_id, name, status)
    SELECT task_id, 'step-' || number, 'completed'
    FROM unnest(%(ids)s::text[]) task_id, generate_series(1, %(steps)s) number
"""
LEFT: Final = """
SELECT (SELECT count(*) FROM data_pipeline_tasks), (SELECT count(*) FROM data_pipeline_task_steps),
       (SELECT count(*) FROM data_pipeline_tasks WHERE directory_exists = FALSE AND updated_at IS NOT NULL)
"""


class WorkNotDoneError(Exception):
    """A contestant left rows, or counted something else than it deleted."""


@dataclass
class RowsContest:
    """10,000 tasks with 5 steps each; `work` has each contestant's way, `left`: (tasks, steps, marked) afterwards."""

    url: str
    catalog: PostgresCatalog
    work: Mapping[str, Callable[[RowsContest], None]]
    left: tuple[int, int, int]
    versions: dict[str, Version] = field(default_factory=dict)
    contestants: Sequence[str] = field(init=False)

    def __post_init__(self) -> None:
        self.contestants = tuple(self.work)

    def prepare(self, contestant: str) -> None:  # noqa: ARG002 - everybody gets the same rows
        """Fresh rows, with the statistics that a database has of them, and their versions as announced."""
        with self.connect(autocommit=True) as connection:
            with connection.transaction(), psycopg.ClientCursor(connection) as cursor:
                cursor.execute(FILL, {"ids": TASK_IDS, "steps": STEPS})
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        self.versions = {i: entry.version for i, entry in self.catalog.read(TASK_IDS).items()}

    def run(self, contestant: str) -> float:
        """Seconds until the last row has changed."""
        begun = time.perf_counter()
        self.work[contestant](self)
        seconds = time.perf_counter() - begun
        with self.connect() as connection:
            left = connection.execute(LEFT).fetchone()
        if left != self.left:
            raise WorkNotDoneError(f"{contestant}: tasks, steps and marks are {left}, expected {self.left}")
        return seconds

    def connect(self, *, autocommit: bool = False) -> psycopg.Connection[Any]:
        """A connection as anybody makes one."""
        return psycopg.connect(self.url, autocommit=autocommit)


def delete_ours(contest: RowsContest) -> None:
    """Delete the records of all tasks, and count every row."""
    results = contest.catalog.delete_records(contest.versions, force=False)
    counted = sum(result.count for result in results.values() if result.outcome == "Deleted" and not result.at_least)
    if counted != TASKS * (1 + STEPS):
        raise WorkNotDoneError(f"{counted} rows were counted as deleted")


def delete_by_row(contest: RowsContest) -> None:
    """Delete the steps, then the task, and commit; for one task after the other."""
    with contest.connect() as connection:
        for task_id in contest.versions:
            connection.execute("DELETE FROM data_pipeline_task_steps WHERE task_id = %s", [task_id])
            connection.execute("DELETE FROM data_pipeline_tasks WHERE task_id = %s", [task_id])
            connection.commit()


def mark_ours(contest: RowsContest) -> None:
    """Mark all tasks."""
    marked = len(contest.catalog.mark(contest.versions, force=False).marked)
    if marked != TASKS:
        raise WorkNotDoneError(f"{marked} tasks were counted as marked")


def mark_by_row(contest: RowsContest) -> None:
    """Update one row and commit; for one task after the other."""
    statement = "UPDATE data_pipeline_tasks SET directory_exists = FALSE, updated_at = now() WHERE task_id = %s"
    with contest.connect() as connection:
        for task_id in contest.versions:
            connection.execute(statement, [task_id])
            connection.commit()


@contextmanager
def open_contest(
    work: Mapping[str, Callable[[RowsContest], None]], left: tuple[int, int, int]
) -> Iterator[RowsContest]:
    """A server of its own with the tables of a pipeline."""
    with start_stack(services=("postgres",)) as stack:
        url = stack.postgres.url
        with psycopg.connect(url) as connection:
            connection.execute(SCHEMA)
            connection.execute(read_migration().encode())
        catalog = PostgresCatalog(PostgresConnection(url), NAMES)
        try:
            yield RowsContest(url, catalog, work, left)
        finally:
            catalog.close()


def open_deletion() -> AbstractContextManager[RowsContest]:
    """The contest of postgres-delete."""
    return open_contest({OURS: delete_ours, ROW_AT_A_TIME: delete_by_row}, (0, 0, 0))


def open_mark() -> AbstractContextManager[RowsContest]:
    """The contest of postgres-update."""
    return open_contest({OURS: mark_ours, ROW_AT_A_TIME: mark_by_row}, (TASKS, TASKS * STEPS, TASKS))


LINES: Final = [
    Line(
        name="postgres-delete",
        work=f"PostgreSQL, {TASKS:,} tasks with {STEPS} steps each: DELETE",
        peer=ROW_AT_A_TIME,
        target=0.25,
        aim=None,
        open=open_deletion,
    ),
    Line(
        name="postgres-update",
        work=f"PostgreSQL, the rows of {TASKS:,} tasks: UPDATE",
        peer=ROW_AT_A_TIME,
        target=0.1,
        aim=None,
        open=open_mark,
    ),
]
