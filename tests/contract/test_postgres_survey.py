"""What only a survey of PostgreSQL has: one snapshot in pages, steps, columns of several types, what ends it early."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dev.stack import start_stack
from taskdeletion.backends.postgres import CatalogTables, PostgresCatalog, read_migration
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import QUICK, SCHEMA, Database, DatabaseHome, database_home, wait_until
from tests.contract.test_postgres_standby import standby_of
from tests.contract.test_survey import survey
from tests.support.pgbouncer import INSTALL, PROGRAM, pooler_to

TERMINAL = ("completed", "failed")
IDS = [f"task_{number:02}" for number in range(10)]
BACKENDS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'task-deletion-operator'"


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        yield database


@pytest.fixture
def ten(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Ten finished tasks, and pages of three rows."""
    monkeypatch.setattr("taskdeletion.backends.postgres.survey.PAGE_ROWS", 3)
    for task_id in IDS:
        database.add_task(task_id)
    return database


def found_in(catalog: PostgresCatalog) -> set[str]:
    return set(survey(catalog)[0])


# --- who is finished --------------------------------------------------------------------------------------------------
def test_a_task_with_a_running_step_is_not_found(database: Database) -> None:
    database.add_task("task_1", steps=("completed", "running"))
    database.add_task("task_10", steps=("pending", "RUNNING"))
    database.add_task("task_2", steps=())
    found, with_files = survey(database.catalog())
    assert (set(found), with_files) == ({"task_10", "task_2"}, 3)
    every_step = replace(database.tables, running_step_statuses=())
    assert found_in(database.catalog(tables=every_step)) == {"task_1", "task_10", "task_2"}


@pytest.mark.parametrize("running", [2, 3, 4, 10])
def test_more_running_steps_than_a_page_are_all_seen(ten: Database, running: int) -> None:
    for task_id in IDS[10 - running :]:
        ten.execute("INSERT INTO data_pipeline_task_steps (task_id, status) VALUES (%s, 'running')", task_id)
    assert found_in(ten.catalog()) == set(IDS[: 10 - running])


def test_a_task_that_is_marked_as_gone_is_found_only_where_its_records_are_to_go(database: Database) -> None:
    for task_id, exists in (("task_1", True), ("task_2", False), ("task_3", None)):
        database.add_task(task_id)
        database.execute("UPDATE data_pipeline_tasks SET directory_exists = %s WHERE task_id = %s", exists, task_id)
    database.add_task("task_4", status="running")
    found, with_files = survey(database.catalog())
    assert (set(found), with_files) == ({"task_1", "task_3"}, 3)
    found, with_files = survey(database.catalog(), with_gone=True)
    assert {task.task_id: task.has_files for task in found.values()} == {
        "task_1": True,
        "task_2": False,
        "task_3": True,
    }
    assert with_files == 3


def test_a_page_without_a_finished_task_does_not_end_the_survey(ten: Database) -> None:
    ten.execute("UPDATE data_pipeline_tasks SET status = 'running' WHERE task_id < 'task_07'")
    ten.execute("UPDATE data_pipeline_tasks SET directory_exists = FALSE WHERE task_id = 'task_08'")
    found, with_files = survey(ten.catalog())
    assert (set(found), with_files) == ({"task_07", "task_09"}, 9)


# --- when it was created ----------------------------------------------------------------------------------------------
ODD_TIMES = ("infinity", "-infinity", "20000-01-01", "0044-03-15 BC", None)


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_what_is_no_time_that_can_be_compared_is_not_found(database: Database, kind: str) -> None:
    database.execute(f"ALTER TABLE data_pipeline_tasks ALTER created_at TYPE {kind}")
    for number, value in enumerate((*ODD_TIMES, "2025-07-02")):
        database.add_task(f"task_{number}")
        database.execute("UPDATE data_pipeline_tasks SET created_at = %s WHERE task_id = %s", value, f"task_{number}")
    found, with_files = survey(database.catalog())
    assert (set(found), with_files) == ({f"task_{len(ODD_TIMES)}"}, len(ODD_TIMES) + 1)


def test_a_column_of_dates_is_read_as_midnight_and_an_infinite_one_left_out(database: Database) -> None:
    database.add_task("task_1")
    database.add_task("task_2")
    database.execute("ALTER TABLE data_pipeline_tasks ALTER created_at TYPE DATE")
    database.execute("UPDATE data_pipeline_tasks SET created_at = 'infinity' WHERE task_id = 'task_2'")
    tables = replace(database.tables, time_zone="Europe/Berlin")
    found, _ = survey(database.catalog(tables=tables))
    assert {i: task.created_at for i, task in found.items()} == {"task_1": datetime(2025, 7, 1, 22, tzinfo=UTC)}


@pytest.mark.parametrize("session_zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_a_creation_is_the_one_that_a_read_finds(database: Database, kind: str, zone: str, session_zone: str) -> None:
    values = ("2025-07-02 17:39:32.000001", "2025-10-26 02:30", "2025-03-30 02:30", "1969-12-31 23:59:59.999999")
    database.execute(f"ALTER TABLE data_pipeline_tasks ALTER created_at TYPE {kind}")
    for number, value in enumerate(values):
        database.add_task(f"task_{number}")
        database.execute("UPDATE data_pipeline_tasks SET created_at = %s WHERE task_id = %s", value, f"task_{number}")
    database.execute(f"ALTER DATABASE {database.url.rpartition('/')[2]} SET TimeZone = '{session_zone}'")
    catalog = database.catalog(tables=replace(database.tables, time_zone=zone))
    found, _ = survey(catalog)
    read = catalog.read(list(found))
    assert len(found) == len(values)
    assert {i: task.created_at for i, task in found.items()} == {i: entry.created_at for i, entry in read.items()}
    assert {task.created_at.tzinfo for task in found.values()} == {UTC}


def test_a_creation_that_is_no_time_at_all_is_told_by_the_schema(database: Database) -> None:
    database.add_task("task_1")
    database.execute("ALTER TABLE data_pipeline_tasks ALTER created_at TYPE TEXT")
    with pytest.raises(Fault) as caught:
        survey(database.catalog())
    assert (caught.value.kind, caught.value.reason) == ("waiting", "SchemaMissing")


# --- one snapshot -----------------------------------------------------------------------------------------------------
def test_what_changes_between_two_pages_is_reported_as_it_was(ten: Database) -> None:
    with ten.catalog().survey(TERMINAL, with_gone=False) as found:
        pages = found.pages()
        first = next(pages)
        ten.execute("UPDATE data_pipeline_tasks SET status = 'running' WHERE task_id IN ('task_00', 'task_04')")
        ten.execute("UPDATE data_pipeline_tasks SET directory_exists = FALSE WHERE task_id = 'task_05'")
        ten.execute("DELETE FROM data_pipeline_tasks WHERE task_id IN ('task_01', 'task_06')")
        ten.execute("INSERT INTO data_pipeline_task_steps (task_id, status) VALUES ('task_07', 'running')")
        ten.add_task("task_05a")
        ten.add_task("task_99")
        rest = [task for page in pages for task in page]
        assert ([task.task_id for task in (*first, *rest)], found.with_files) == (IDS, 10)
    found_later, with_files = survey(ten.catalog())
    assert (set(found_later), with_files) == ({"task_02", "task_03", "task_05a", "task_08", "task_09", "task_99"}, 9)


def test_every_page_is_of_so_many_rows(ten: Database) -> None:
    with ten.catalog().survey(TERMINAL, with_gone=False) as found:
        assert [len(page) for page in found.pages()] == [3, 3, 3, 1]


def test_the_transaction_is_read_only_and_ends_with_the_block(ten: Database) -> None:
    catalog = ten.catalog()
    with catalog.survey(TERMINAL, with_gone=False) as found:
        next(found.pages())
        assert ten.execute(f"SELECT state {BACKENDS}") == [("idle in transaction",)]
        held = f"SELECT DISTINCT mode FROM pg_locks WHERE pid IN (SELECT pid {BACKENDS}) AND locktype = 'relation'"
        assert ten.execute(held) == [("AccessShareLock",)]
    assert ten.execute(f"SELECT state {BACKENDS}") == [("idle",)]


def test_pages_follow_the_index_of_the_key(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskdeletion.backends.postgres.survey.PAGE_ROWS", 100)
    rows = "INSERT INTO data_pipeline_tasks SELECT 'task_' || i, 'completed', now() FROM generate_series(1, 20000) i"
    database.execute(rows)
    database.execute("VACUUM ANALYZE")
    scans = "SELECT pg_stat_force_next_flush(), seq_scan FROM pg_stat_user_tables WHERE relname = 'data_pipeline_tasks'"
    ((_, before),) = database.execute(scans)
    catalog = database.catalog()
    assert len(survey(catalog)[0]) == 20_000
    catalog.close()  # a session tells of its scans when it ends
    ((_, after),) = database.execute(scans)
    assert after - before < 10


# --- keys that do not lead to every row -------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [2, 3, 100])
def test_several_rows_of_one_task_are_reported_wherever_a_page_ends(
    ten: Database, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("taskdeletion.backends.postgres.survey.PAGE_ROWS", rows)
    ten.execute("ALTER TABLE data_pipeline_tasks DROP CONSTRAINT data_pipeline_tasks_pkey CASCADE")
    ten.add_task("task_02", status="running", steps=())
    with pytest.raises(Fault, match="must be unique") as caught:
        survey(ten.catalog())
    assert (caught.value.kind, caught.value.reason) == ("waiting", "SchemaMissing")


def test_ids_that_a_collation_takes_for_equal_are_two_tasks_or_a_fault(
    ten: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ten.execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    ten.execute("ALTER TABLE data_pipeline_tasks DROP CONSTRAINT data_pipeline_tasks_pkey CASCADE")
    ten.execute("ALTER TABLE data_pipeline_tasks ALTER task_id TYPE VARCHAR(32) COLLATE loose")
    ten.add_task("TASK_02", steps=())
    with pytest.raises(Fault, match="must be unique"):
        survey(ten.catalog())
    monkeypatch.setattr("taskdeletion.backends.postgres.survey.PAGE_ROWS", 4)
    assert found_in(ten.catalog()) == {*IDS, "TASK_02"}


# --- schemas ----------------------------------------------------------------------------------------------------------
def test_tables_may_have_a_schema_capitals_numbers_as_ids_and_an_enum_as_status(
    home: DatabaseHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskdeletion.backends.postgres.survey.PAGE_ROWS", 2)
    schema = """
    CREATE SCHEMA "Archive";
    CREATE TYPE status AS ENUM ('completed', 'running');
    CREATE TABLE "Archive"."Tasks" (task_id BIGINT PRIMARY KEY, status status, created_at TIMESTAMPTZ,
        updated_at TIMESTAMPTZ, directory_exists BOOLEAN);
    CREATE TABLE "Archive"."Steps" (task_id BIGINT, status status);
    INSERT INTO "Archive"."Tasks" SELECT n, 'completed', '2025-07-02 17:39:32+02' FROM generate_series(8, 12) n;
    INSERT INTO "Archive"."Steps" VALUES (9, 'running')
    """
    with home.fresh(schema=schema, migrated=False) as database:
        catalog = database.catalog(tables=CatalogTables("Archive.Tasks", "Archive.Steps", "UTC", ("running",)))
        found, with_files = survey(catalog)
        created = datetime(2025, 7, 2, 15, 39, 32, tzinfo=UTC)
        assert (list(found), with_files) == (["8", "10", "11", "12"], 5)
        assert found["8"] == FinishedTask("8", frozenset({"completed"}), created)


def test_a_missing_column_is_named_with_the_migration(home: DatabaseHome) -> None:
    with home.fresh(migrated=False) as database, pytest.raises(Fault) as caught:
        survey(database.catalog())
    assert (caught.value.kind, caught.value.reason) == ("waiting", "SchemaMissing")
    assert "directory_exists" in caught.value.message


# --- what ends in between ---------------------------------------------------------------------------------------------
def collect_until_fault(catalog: PostgresCatalog, act: Any) -> tuple[list[str], Fault]:
    """The ids of the pages before a fault; `act` happens behind the first page."""
    seen: list[str] = []

    def collect() -> None:
        with catalog.survey(TERMINAL, with_gone=False) as found:
            for number, page in enumerate(found.pages()):
                seen.extend(task.task_id for task in page)
                if not number:
                    act()

    with pytest.raises(Fault) as caught:
        collect()
    return seen, caught.value


def test_a_connection_that_is_ended_between_two_pages_is_a_fault_and_no_short_list(ten: Database) -> None:
    catalog = ten.catalog()
    seen, fault = collect_until_fault(
        catalog, lambda: ten.execute(f"SELECT pg_terminate_backend(pid, 5000) {BACKENDS}")
    )
    assert (seen, fault.kind, fault.reason) == (IDS[:3], "waiting", "Unavailable")
    assert found_in(catalog) == set(IDS)


def test_a_page_that_takes_too_long_is_a_timeout_that_can_be_retried(ten: Database) -> None:
    ten.execute("""
        CREATE FUNCTION slow(TIMESTAMP) RETURNS TIMESTAMP LANGUAGE plpgsql STABLE AS
            $$ BEGIN PERFORM pg_sleep(20); RETURN $1; END $$;
        CREATE VIEW slow_tasks AS SELECT task_id, status, updated_at, directory_exists,
            CASE task_id WHEN 'task_04' THEN slow(created_at) ELSE created_at END AS created_at FROM data_pipeline_tasks
    """)
    slow = replace(ten.tables, tasks_table="slow_tasks")
    catalog = ten.catalog(tables=slow, timeouts=replace(QUICK, statement_seconds=0.5))
    seen, fault = collect_until_fault(catalog, lambda: None)
    assert (seen, fault.kind, fault.reason) == (IDS[:3], "retriable", "Timeout")
    assert catalog.now().tzinfo is UTC
    assert ten.execute(f"SELECT state {BACKENDS}") == [("idle",)]


def test_a_consumer_that_is_too_slow_for_the_server_is_told_so(ten: Database) -> None:
    catalog = ten.catalog(timeouts=replace(QUICK, idle_seconds=0.1))

    def be_ended() -> None:
        wait_until(lambda: ten.execute(f"SELECT count(*) {BACKENDS}") == [(0,)])

    seen, fault = collect_until_fault(catalog, be_ended)
    assert (seen, fault.kind, fault.reason) == (IDS[:3], "waiting", "Unavailable")


@pytest.mark.parametrize("table", ["data_pipeline_tasks", "data_pipeline_task_steps"])
def test_a_table_that_may_not_be_read_is_named(ten: Database, table: str) -> None:
    url = ten.add_role(*(f"SELECT ON {name}" for name in ("data_pipeline_tasks", "data_pipeline_task_steps")))
    ten.execute(f"REVOKE SELECT ON {table} FROM {ten.roles[-1]}")
    with pytest.raises(Fault) as caught:
        survey(ten.catalog(url=url))
    assert (caught.value.kind, caught.value.reason) == ("permanent", "PermissionDenied")
    assert f"table {table} " in caught.value.message + " "


def test_reading_is_all_that_a_survey_needs(ten: Database) -> None:
    url = ten.add_role("SELECT ON data_pipeline_tasks", "SELECT ON data_pipeline_task_steps")
    assert found_in(ten.catalog(url=url)) == set(IDS)


def test_rows_that_a_policy_hides_are_a_fault_and_no_short_list(ten: Database) -> None:
    url = ten.add_role("SELECT ON data_pipeline_tasks", "SELECT ON data_pipeline_task_steps")
    ten.execute("ALTER TABLE data_pipeline_tasks ENABLE ROW LEVEL SECURITY")
    ten.execute("CREATE POLICY hiding ON data_pipeline_tasks USING (task_id < 'task_05')")
    with pytest.raises(Fault) as caught:
        survey(ten.catalog(url=url))
    assert (caught.value.kind, caught.value.reason) == ("permanent", "PermissionDenied")


# --- poolers and standbys ---------------------------------------------------------------------------------------------
@pytest.mark.skipif(PROGRAM is None, reason=INSTALL)
def test_a_pooler_that_changes_connections_between_transactions_shows_one_snapshot(
    ten: Database, tmp_path: Path
) -> None:
    with pooler_to(ten.url, tmp_path, pool_size=2) as url:
        catalog, other = ten.catalog(url=url), ten.catalog(url=url)
        with catalog.survey(TERMINAL, with_gone=False) as found:
            pages = found.pages()
            seen = [task.task_id for task in next(pages)]
            ten.execute("UPDATE data_pipeline_tasks SET status = 'running'")
            for page in pages:
                assert found_in(other) == set()
                seen += [task.task_id for task in page]
        assert seen == IDS
        assert found_in(catalog) == set()


def test_a_standby_is_surveyed_like_a_primary(tmp_path: Path) -> None:
    with start_stack(services=("postgres",)) as stack:
        primary = Database(stack.postgres.url)
        primary.execute(SCHEMA)
        primary.execute(read_migration())
        for task_id in IDS:
            primary.add_task(task_id)
        with standby_of(stack.postgres, tmp_path / "standby") as url:
            standby = Database(url)
            catalog = standby.catalog()
            try:
                assert standby.execute("SELECT pg_is_in_recovery()") == [(True,)]
                assert found_in(catalog) == set(IDS)
            finally:
                catalog.close()
