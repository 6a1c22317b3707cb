"""The PostgreSQL catalog of one TaskStore, as the workflow and the probe see it. Threads may share it.

Each method hands over to the file that owns the idea. Nothing here decides whether a task may go.
"""

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Final

from psycopg import sql

from taskdeletion.backends.postgres.claim import claim_tasks
from taskdeletion.backends.postgres.connection import (
    CatalogConnection,
    ConnectionPool,
    PostgresConnection,
    Timeouts,
)
from taskdeletion.backends.postgres.marks import mark_rows
from taskdeletion.backends.postgres.probe import probe_catalog
from taskdeletion.backends.postgres.records import RecordDeletion, count_rows
from taskdeletion.backends.postgres.survey import PostgresSurvey, survey_tasks
from taskdeletion.backends.postgres.tables import CatalogTables, chunked, read_rows
from taskdeletion.backends.postgres.transactions import READ, Transactions
from taskdeletion.domain.catalog import CatalogEntry, HeldTasks, Marks, Version
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.results import Problem, StepResult

READ_CHUNK: Final = 500
_CLOCK = sql.SQL("SELECT clock_timestamp()")


class PostgresCatalog:
    """Tasks as rows. Every method may raise Fault; messages hold neither the URL nor a password nor data of rows."""

    def __init__(
        self,
        connection: PostgresConnection,
        tables: CatalogTables,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        pool_size: int = 8,
        leadership: Leadership = ALONE,
    ) -> None:
        """Check the values; no connection is made yet. Raises Fault (waiting, SecretValueInvalid).

        `leadership`: asked before each commit.
        """
        self._tables = tables
        self._pool = ConnectionPool(connection, timeouts, size=pool_size)
        self._transactions = Transactions(self._pool, timeouts, leadership)

    @property
    def holds_entries(self) -> bool:
        """A claim locks its rows."""
        return True

    @property
    def keeps_entries(self) -> bool:
        """Rows stay unless a request asks for their deletion."""
        return True

    def now(self) -> datetime:
        """The database's clock, in UTC."""

        def work(connection: CatalogConnection) -> datetime:
            with connection.cursor(binary=True) as cursor:
                (value,) = cursor.execute(_CLOCK).fetchone() or (None,)
            assert isinstance(value, datetime)
            return value.astimezone(UTC)

        return self._transactions.run(work, mode=READ)

    def read(self, task_ids: Collection[str]) -> dict[str, CatalogEntry]:
        """The entries of these tasks, all from one moment; ids that are not in the catalog are left out."""

        def work(connection: CatalogConnection) -> dict[str, CatalogEntry]:
            found: dict[str, CatalogEntry] = {}
            for ids in chunked(task_ids, READ_CHUNK):
                found |= read_rows(connection, self._tables, ids).entries
            return found

        return self._transactions.run(work, mode=READ) if task_ids else {}

    def claim(
        self, task_ids: Collection[str], *, with_records: bool, lock: bool = True
    ) -> AbstractContextManager[HeldTasks]:
        """The rows of at most 50 tasks, locked in order of id until the `with` block ends.

        The end of the block commits; an exception in it rolls back and goes on. `lock=False` (dry run): the same
        query in a read-only transaction. Raises Fault before the block, CommitUnknown after it where the commit was
        not confirmed.
        """
        return claim_tasks(self._transactions, self._tables, task_ids, with_records=with_records, lock=lock)

    def mark(self, versions: Mapping[str, Version], *, force: bool) -> Marks:
        """Mark the rows that are still of the given version; says which are marked now, by this call or before.

        A row that somebody holds is not waited for: the others are marked, and it is named.
        """
        return mark_rows(self._transactions, self._tables, versions, force=force)

    def delete_records(self, versions: Mapping[str, Version], *, force: bool) -> dict[str, StepResult]:
        """Delete steps and task of each id whose row is still of the given version; one result per id, never a Fault.

        `count`: rows deleted, the task's own included; `at_least` where the reply to the commit was lost.
        """
        return RecordDeletion(self._transactions, self._tables, force).delete(versions)

    def count_records(self, task_ids: Collection[str]) -> dict[str, int]:
        """How many rows (steps and task) would go; ids that are not in the catalog are left out."""
        return count_rows(self._transactions, self._tables, task_ids)

    def survey(self, terminal_statuses: Collection[str], *, with_gone: bool) -> AbstractContextManager[PostgresSurvey]:
        """The finished tasks that a TaskDeletion could name, with those whose creation is not known left out.

        One read-only transaction holds a connection until the `with` block ends; a page of rows is in memory at a
        time. Raises Fault before the block and from `pages`.
        """
        return survey_tasks(self._transactions, self._tables, terminal_statuses, with_gone=with_gone)

    def probe(self) -> list[Problem]:
        """What keeps the catalog from being worked with: connection, tables and columns, privileges, read-only."""
        return probe_catalog(self._transactions, self._tables)

    def close(self) -> None:
        """Close the connections (those in use when they are given back) and remove the TLS files."""
        self._pool.close()
