"""The claim: which rows it locks, whom it waits for, and what its end says."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from taskdeletion.domain.catalog import CommitUnknown
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import QUICK, Database, DatabaseHome, database_home, proxy_to, wait_until

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND application_name = 'task-deletion-operator'"
)
OURS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'task-deletion-operator' AND state LIKE 'idle in%'"


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        for task_id in ("task_1", "task_10", "task_2", "task_3"):
            database.add_task(task_id)
        yield database


def is_locked(database: Database, task_id: str) -> bool:
    try:
        database.execute("SELECT 1 FROM data_pipeline_tasks WHERE task_id = %s FOR UPDATE NOWAIT", task_id)
    except psycopg.errors.LockNotAvailable:
        return True
    return False


def test_the_claim_locks_the_named_rows_until_its_end_and_no_neighbour(database: Database) -> None:
    with database.catalog().claim(["task_1", "task_2", "absent"], with_records=False) as seen:
        assert set(seen.entries) == {"task_1", "task_2"}
        assert (seen.row_locked, seen.foreign_references) == (frozenset(), {})
        assert is_locked(database, "task_1")
        assert is_locked(database, "task_2")
        assert not is_locked(database, "task_10")
    assert not is_locked(database, "task_1")


def test_an_exception_ends_the_claim_without_a_commit_and_goes_on(database: Database) -> None:
    catalog = database.catalog()
    with pytest.raises(Fault, match="Busy"), catalog.claim(["task_1"], with_records=False):
        raise Fault("retriable", "Busy", "the directory is in use")
    assert not is_locked(database, "task_1")
    assert set(catalog.read(["task_1"])) == {"task_1"}


def test_a_step_cannot_be_added_to_a_claimed_task(database: Database) -> None:
    with database.catalog().claim(["task_1"], with_records=False), pytest.raises(psycopg.errors.LockNotAvailable):
        database.execute(
            "SET lock_timeout = '100ms';"
            " INSERT INTO data_pipeline_task_steps (task_id, status) VALUES ('task_1', 'running')"
        )


def test_a_row_that_somebody_holds_blocks_only_its_own_task(database: Database) -> None:
    with (
        database.holding("task_2"),
        database.catalog().claim(["task_1", "task_2", "task_3", "absent"], with_records=False) as seen,
    ):
        assert set(seen.entries) == {"task_1", "task_3"}
        assert seen.row_locked == {"task_2"}
        assert is_locked(database, "task_1")


def test_a_lock_on_the_whole_table_is_reported_as_such(database: Database) -> None:
    with database.connect() as other, other.transaction():
        other.execute("LOCK TABLE data_pipeline_tasks IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Fault) as caught, database.catalog().claim(["task_1"], with_records=False):
            pass
    assert (caught.value.kind, caught.value.reason) == ("retriable", "RowLocked")


def test_what_the_holder_of_the_lock_committed_is_seen(database: Database) -> None:
    """The steps, too: they are not part of the row that was waited for."""
    catalog = database.catalog(timeouts=replace(QUICK, lock_seconds=10))
    with database.connect() as other:
        other.execute("BEGIN; UPDATE data_pipeline_tasks SET status = 'in_progress' WHERE task_id = 'task_1'")
        other.execute("INSERT INTO data_pipeline_task_steps (task_id, status) VALUES ('task_1', 'running')")

        def commit_when_waited_for() -> None:
            wait_until(lambda: database.execute(WAITING) == [(1,)])
            other.execute("COMMIT")

        thread = threading.Thread(target=commit_when_waited_for)
        thread.start()
        with catalog.claim(["task_1"], with_records=False) as seen:
            entry = seen.entries["task_1"]
        thread.join()
    assert (entry.status, entry.activity) == ("in_progress", "a step of the task is running")


def test_rows_are_locked_in_order_of_id(database: Database) -> None:
    """While the claim waits for the second one, it holds the first and not the third."""
    # Without an index the rows come in their order on disk, and a rewritten row moves to the end of it.
    database.execute("ALTER TABLE data_pipeline_tasks DROP CONSTRAINT data_pipeline_tasks_pkey CASCADE")
    database.execute("UPDATE data_pipeline_tasks SET status = status WHERE task_id = 'task_1'")
    catalog = database.catalog(timeouts=replace(QUICK, lock_seconds=10))
    held: list[bool] = []
    with database.holding("task_2") as other:

        def look_when_waiting() -> None:
            wait_until(lambda: database.execute(WAITING) == [(1,)])
            held.extend(is_locked(database, task_id) for task_id in ("task_1", "task_3"))
            other.execute("ROLLBACK AND CHAIN")

        thread = threading.Thread(target=look_when_waiting)
        thread.start()
        with catalog.claim(["task_3", "task_2", "task_1"], with_records=False) as seen:
            pass
        thread.join()
    assert held == [True, False]
    assert len(seen.entries) == 3


def test_the_loser_of_a_deadlock_begins_again(database: Database) -> None:
    catalog = database.catalog(timeouts=replace(QUICK, lock_seconds=10))
    with database.connect() as other:
        other.execute("SET deadlock_timeout = '1min'")  # so that the claim is the loser
        other.execute("BEGIN")
        other.execute("SELECT 1 FROM data_pipeline_tasks WHERE task_id = 'task_2' FOR UPDATE")

        def cross() -> None:
            wait_until(lambda: database.execute(WAITING) == [(1,)])
            other.execute("SELECT 1 FROM data_pipeline_tasks WHERE task_id = 'task_1' FOR UPDATE")
            other.execute("COMMIT")

        thread = threading.Thread(target=cross)
        thread.start()
        with catalog.claim(["task_1", "task_2"], with_records=False) as seen:
            assert set(seen.entries) == {"task_1", "task_2"}
        thread.join()


def test_a_dry_run_sees_the_same_and_locks_nothing(database: Database) -> None:
    catalog = database.catalog()
    with database.holding("task_2"), catalog.claim(["task_1", "task_2"], with_records=True, lock=False) as seen:
        assert set(seen.entries) == {"task_1", "task_2"}
        assert not is_locked(database, "task_1")
        (read_only,) = database.execute(
            "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
            " WHERE c.relname = 'data_pipeline_tasks' AND l.mode <> 'AccessShareLock' AND l.pid = ANY(%s)",
            [pid for (pid,) in database.execute(OURS)],
        )
        assert read_only == (0,)


def test_a_claim_that_was_ended_by_the_server_is_not_confirmed(database: Database) -> None:
    catalog = database.catalog()
    with pytest.raises(CommitUnknown) as caught, catalog.claim(["task_1"], with_records=False):
        database.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({OURS}) ours")
    assert (caught.value.fault.kind, caught.value.fault.reason) == ("retriable", "Unavailable")
    assert set(catalog.read(["task_1"])) == {"task_1"}


def test_an_idle_claim_is_ended_by_the_server_and_not_confirmed(database: Database) -> None:
    catalog = database.catalog(timeouts=replace(QUICK, idle_seconds=0.2))
    with pytest.raises(CommitUnknown), catalog.claim(["task_1"], with_records=False):
        wait_until(lambda: not is_locked(database, "task_1"))


def test_a_commit_without_a_reply_is_not_confirmed(database: Database) -> None:
    with proxy_to(database.url) as proxy:
        catalog = database.catalog(url=proxy.url)
        proxy.loses_commits = 1
        with pytest.raises(CommitUnknown) as caught, catalog.claim(["task_1"], with_records=False):
            pass
    assert caught.value.fault.kind == "retriable"


def test_a_body_that_fails_after_the_server_ended_the_claim_keeps_its_own_error(database: Database) -> None:
    claim = database.catalog().claim(["task_1"], with_records=False)
    with pytest.raises(ValueError, match="mine"), claim:  # noqa: PT012 - the body is what is tested
        database.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({OURS}) ours")
        raise ValueError("mine")


def test_a_claim_takes_no_more_than_its_limit(database: Database) -> None:
    ids = [f"task_{number}" for number in range(51)]
    with pytest.raises(ValueError, match="at most 50"), database.catalog().claim(ids, with_records=False):
        pass


def test_a_claim_with_records_is_refused_where_they_cannot_be_deleted(database: Database) -> None:
    url = database.add_role("SELECT, UPDATE, DELETE ON data_pipeline_tasks", "SELECT ON data_pipeline_task_steps")
    catalog = database.catalog(url=url)
    claim = catalog.claim(["task_1"], with_records=True)
    with pytest.raises(Fault, match="DELETE on data_pipeline_task_steps") as caught:
        claim.__enter__()
    assert (caught.value.kind, caught.value.reason) == ("permanent", "PermissionDenied")
    with catalog.claim(["task_1"], with_records=False) as seen:
        assert set(seen.entries) == {"task_1"}


def test_a_read_only_server_is_waited_for(database: Database) -> None:
    database.execute(f"ALTER DATABASE {database.url.rpartition('/')[2]} SET default_transaction_read_only = on")
    with pytest.raises(Fault) as caught, database.catalog().claim(["task_1"], with_records=False):
        pass
    assert (caught.value.kind, caught.value.reason) == ("waiting", "ReadOnly")
