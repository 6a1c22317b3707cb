"""What the server ends: statements and waits over a limit, ours or an administrator's; deadlocks; serialization."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from taskdeletion.domain.catalog import Marks
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import CREATED, QUICK, Database, DatabaseHome, database_home, wait_until

WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND application_name = 'task-deletion-operator'"
)
PATIENT = replace(QUICK, lock_seconds=10)
TRIGGER = (
    "CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN coalesce(NEW, OLD); END $$;"
    " CREATE TRIGGER act BEFORE DELETE OR UPDATE ON data_pipeline_tasks FOR EACH ROW EXECUTE FUNCTION act()"
)
TASK_RIGHTS = "SELECT, UPDATE, DELETE ON data_pipeline_tasks"
STEP_RIGHTS = "SELECT, DELETE ON data_pipeline_task_steps"


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        for task_id in ("task_1", "task_2", "task_3"):
            database.add_task(task_id)
        yield database


@contextmanager
def crossing(database: Database, first: str, second: str) -> Iterator[None]:
    """Another session that does `first`, and `second` once ours waits for it; the loser of the deadlock is ours."""
    with database.connect() as other:
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("BEGIN")
        other.execute(first.encode())

        def cross() -> None:
            wait_until(lambda: database.execute(WAITING) == [(1,)])
            other.execute(second.encode())
            other.execute("COMMIT")

        thread = threading.Thread(target=cross)
        thread.start()
        try:
            yield
        finally:
            thread.join()


def count_deadlocks(database: Database) -> int:
    name = database.url.rpartition("/")[2]
    [(count,)] = database.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = %s", name)
    return int(count)


# --- deadlocks --------------------------------------------------------------------------------------------------------


def hold(table: str, task_id: str) -> str:
    return f"SELECT 1 FROM {table} WHERE task_id = '{task_id}' FOR UPDATE"


def test_a_deletion_that_loses_a_deadlock_begins_again_and_is_done(database: Database) -> None:
    versions, catalog = database.versions("task_1"), database.catalog(timeouts=PATIENT)
    before = count_deadlocks(database)
    with crossing(database, hold("data_pipeline_task_steps", "task_1"), hold("data_pipeline_tasks", "task_1")):
        results = catalog.delete_records(versions, force=False)
    catalog.close()  # a session tells of its deadlocks when it ends
    assert {(r.outcome, r.count) for r in results.values()} == {("Deleted", 2)}
    assert (database.task_ids(), database.step_ids()) == ({"task_2", "task_3"}, {"task_2", "task_3"})
    # A row is free for a moment when a deadlock ends: ours may take it once more before the one that waits.
    wait_until(lambda: count_deadlocks(database) > before)


def test_a_mark_that_loses_a_deadlock_begins_again_and_is_done(database: Database) -> None:
    versions, catalog = database.versions("task_1", "task_2"), database.catalog(timeouts=PATIENT)
    before = count_deadlocks(database)
    with crossing(database, hold("data_pipeline_tasks", "task_2"), hold("data_pipeline_tasks", "task_1")):
        marks = catalog.mark(versions, force=False)
    catalog.close()  # a session tells of its deadlocks when it ends
    assert marks == Marks(frozenset({"task_1", "task_2"}), frozenset())
    # A row is free for a moment when a deadlock ends: ours may take it once more before the one that waits.
    wait_until(lambda: count_deadlocks(database) > before)


# --- serialization failures -------------------------------------------------------------------------------------------


FAILS_ONCE = (
    "CREATE SEQUENCE tries;"  # what a sequence has given stays given after a rollback
    + TRIGGER.format(body="IF nextval('tries') = 1 THEN RAISE 'again' USING ERRCODE = '40001'; END IF;")
)
FAILS_ONCE_AT_COMMIT = FAILS_ONCE.replace(
    "TRIGGER act BEFORE DELETE OR UPDATE ON data_pipeline_tasks FOR",
    "CONSTRAINT TRIGGER act AFTER DELETE OR UPDATE ON data_pipeline_tasks DEFERRABLE INITIALLY DEFERRED FOR",
)


@pytest.mark.parametrize("schema", [FAILS_ONCE, FAILS_ONCE_AT_COMMIT], ids=["statement", "commit"])
def test_a_serialization_failure_is_tried_again_at_once(database: Database, schema: str) -> None:
    versions = database.versions("task_1", "task_2")
    database.execute(schema)
    assert database.catalog().mark({"task_1": versions["task_1"]}, force=False).marked == {"task_1"}
    database.execute("ALTER SEQUENCE tries RESTART")
    result = database.catalog().delete_records({"task_2": versions["task_2"]}, force=False)["task_2"]
    assert (result.outcome, result.count) == ("Deleted", 2)
    assert database.task_ids() == {"task_1", "task_3"}


def test_a_row_that_moves_to_another_partition_while_it_is_waited_for_is_seen_as_it_is_then(home: DatabaseHome) -> None:
    schema = """
    CREATE TABLE data_pipeline_tasks (task_id TEXT, status TEXT, created_at TIMESTAMP,
        updated_at TIMESTAMP, directory_exists BOOLEAN) PARTITION BY LIST (status);
    CREATE TABLE done PARTITION OF data_pipeline_tasks FOR VALUES IN ('completed');
    CREATE TABLE live PARTITION OF data_pipeline_tasks FOR VALUES IN ('in_progress');
    CREATE TABLE data_pipeline_task_steps (status TEXT, task_id TEXT)
    """
    with home.fresh(schema=schema, migrated=False) as database:
        database.add_task("task_1")
        with database.connect() as other:
            other.execute("BEGIN; UPDATE data_pipeline_tasks SET status = 'in_progress'")

            def commit_when_waited_for() -> None:
                wait_until(lambda: database.execute(WAITING) == [(1,)])
                other.execute("COMMIT")

            thread = threading.Thread(target=commit_when_waited_for)
            thread.start()
            with database.catalog(timeouts=PATIENT).claim(["task_1"], with_records=False) as seen:
                pass
            thread.join()
        assert seen.entries["task_1"].status == "in_progress"


def test_a_default_of_serializable_changes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own level is READ COMMITTED: what the holder of a lock has committed is seen, without another attempt."""
    monkeypatch.setattr("taskdeletion.backends.postgres.transactions._ATTEMPTS", 1)
    database.execute(
        f"ALTER DATABASE {database.url.rpartition('/')[2]} SET default_transaction_isolation = 'serializable'"
    )
    with database.connect() as other:
        other.execute("BEGIN; UPDATE data_pipeline_tasks SET status = 'in_progress' WHERE task_id = 'task_1'")

        def commit_when_waited_for() -> None:
            wait_until(lambda: database.execute(WAITING) == [(1,)])
            other.execute("COMMIT")

        thread = threading.Thread(target=commit_when_waited_for)
        thread.start()
        with database.catalog(timeouts=PATIENT).claim(["task_1"], with_records=False) as seen:
            pass
        thread.join()
    assert seen.entries["task_1"].status == "in_progress"


# --- limits of time ---------------------------------------------------------------------------------------------------


SLOW_TASK_2 = TRIGGER.format(body="IF OLD.task_id = 'task_2' THEN PERFORM pg_sleep(5); END IF;")
OURS, ENDLESS = replace(QUICK, statement_seconds=0.5), replace(QUICK, statement_seconds=60)


def limited_role(database: Database, *settings: str) -> str:
    """The URL of a role with settings of its own."""
    url = database.add_role(TASK_RIGHTS, STEP_RIGHTS, "USAGE ON SEQUENCE data_pipeline_task_steps_id_seq")
    for setting in settings:
        database.execute(f"ALTER ROLE {database.roles[-1]} SET {setting}")
    return url


def assert_timed_out(fault: Fault) -> None:
    assert (fault.kind, fault.reason) == ("retriable", "Timeout")


@pytest.mark.parametrize("whose", ["ours", "the role's"])
def test_a_statement_over_the_limit_is_a_timeout_that_can_be_retried(database: Database, whose: str) -> None:
    url = database.url if whose == "ours" else limited_role(database, "statement_timeout = '300ms'")
    catalog = database.catalog(url=url, timeouts=OURS if whose == "ours" else ENDLESS)
    versions = database.versions("task_1", "task_2", "task_3")
    database.execute(SLOW_TASK_2)
    with pytest.raises(Fault) as caught:
        catalog.mark(versions, force=False)
    assert_timed_out(caught.value)
    assert database.marked() == set()


def test_a_task_whose_deletion_takes_too_long_does_not_take_the_others_with_it(database: Database) -> None:
    url = limited_role(database, "statement_timeout = '300ms'")
    versions = database.versions("task_1", "task_2", "task_3")
    database.execute(SLOW_TASK_2)
    results = database.catalog(url=url, timeouts=ENDLESS).delete_records(versions, force=False)
    assert {i: (r.outcome, r.reason, r.kind) for i, r in results.items()} == {
        "task_1": ("Deleted", "", None),
        "task_2": ("Failed", "Timeout", "retriable"),
        "task_3": ("Deleted", "", None),
    }
    assert (database.task_ids(), database.step_ids()) == ({"task_2"}, {"task_2"})


SHOW = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (("statement_timeout = 0",), ("10s", "200ms")),
        (("statement_timeout = '3s'", "lock_timeout = '50ms'"), ("3s", "50ms")),
        (("statement_timeout = '1h'", "lock_timeout = '1d'"), ("10s", "200ms")),
    ],
)
def test_the_lower_one_of_our_limit_and_the_administrators_counts(
    database: Database, theirs: tuple[str, ...], expected: tuple[str, str]
) -> None:
    catalog = database.catalog(url=limited_role(database, *theirs))

    def look(connection: psycopg.Connection[Any]) -> Any:
        return connection.execute(SHOW).fetchone()

    assert catalog._transactions.run(look, mode="BEGIN") == expected


def test_a_lock_limit_of_the_role_postpones_only_the_task_that_is_held(database: Database) -> None:
    catalog = database.catalog(
        url=limited_role(database, "lock_timeout = '20ms'"), timeouts=replace(QUICK, lock_seconds=60)
    )
    versions = database.versions("task_1", "task_2")
    with database.holding("task_1"):
        with catalog.claim(["task_1", "task_2"], with_records=True) as seen:
            assert (set(seen.entries), set(seen.row_locked)) == ({"task_2"}, {"task_1"})
        assert catalog.mark(versions, force=False) == Marks(frozenset({"task_2"}), frozenset({"task_1"}))
        results = catalog.delete_records(database.versions("task_1", "task_2"), force=False)
    assert {i: (r.outcome, r.reason) for i, r in results.items()} == {
        "task_1": ("Failed", "RowLocked"),
        "task_2": ("Deleted", ""),
    }


# --- many tasks, some of them held ------------------------------------------------------------------------------------


def test_steps_that_somebody_holds_postpone_their_tasks_among_many(database: Database) -> None:
    ids = [f"many_{number:04}" for number in range(1200)]
    database.execute(
        "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT unnest(%s::text[]), 'completed', %s",
        ids,
        CREATED,
    )
    database.execute("INSERT INTO data_pipeline_task_steps (task_id) SELECT unnest(%s::text[])", ids)
    held = {ids[3], ids[700], ids[1199]}
    versions = database.versions(*ids)
    with database.connect() as other, other.transaction():
        other.execute("SELECT 1 FROM data_pipeline_task_steps WHERE task_id = ANY(%s) FOR UPDATE", [sorted(held)])
        results = database.catalog().delete_records(versions, force=False)
    assert {i for i, r in results.items() if r.reason == "RowLocked"} == held
    assert {r.count for i, r in results.items() if i not in held} == {2}
    assert database.task_ids() & set(ids) == held


def test_a_connection_is_replaced_when_the_server_was_read_only_and_is_no_more(database: Database) -> None:
    """A session keeps the default it began with: the next try has to be another session."""
    database.execute(f"ALTER DATABASE {database.url.rpartition('/')[2]} SET default_transaction_read_only = on")
    catalog, versions = database.catalog(), database.versions("task_1")
    with pytest.raises(Fault) as caught:
        catalog.mark(versions, force=False)
    assert (caught.value.kind, caught.value.reason) == ("waiting", "ReadOnly")
    assert [problem.reason for problem in catalog.probe()] == ["ReadOnly"]
    with database.connect() as other:
        other.execute("SET default_transaction_read_only = off")
        other.execute(f"ALTER DATABASE {database.url.rpartition('/')[2]} RESET default_transaction_read_only")
    assert catalog.probe() == []
    assert catalog.mark(versions, force=False).marked == {"task_1"}
