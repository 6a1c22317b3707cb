"""Reading entries and versions, and the life of connections: what is refused, lent, lost and healed."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskdeletion.backends.postgres import CatalogTables
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import Database, DatabaseHome, database_home, proxy_to, wait_until


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        yield database


def set_times(database: Database, created: str | None, updated: str | None) -> None:
    database.execute("UPDATE data_pipeline_tasks SET created_at = %s, updated_at = %s", created, updated)


def test_an_entry_holds_the_version_in_utc(database: Database) -> None:
    database.add_task("task_1")
    set_times(database, "2025-07-02 17:39:32.5", "2025-07-02 18:00:00")
    entry = database.catalog().read(["task_1"])["task_1"]
    assert entry.version.created == "2025-07-02T17:39:32.500000+00:00"
    assert entry.version.rest.rpartition("|")[0] == "completed|2025-07-02T18:00:00.000000+00:00"
    assert entry.created_at == datetime(2025, 7, 2, 17, 39, 32, 500000, tzinfo=UTC)
    assert (entry.status, entry.activity) == ("completed", "")


def test_every_write_of_a_row_is_a_new_version_and_a_lock_is_none(database: Database) -> None:
    database.add_task("task_1")
    before = database.versions("task_1")
    with database.holding("task_1"):
        pass
    assert database.versions("task_1") == before
    for status in ("in_progress", "completed"):
        database.execute("UPDATE data_pipeline_tasks SET status = %s", status)
    after = database.versions("task_1")
    assert not before["task_1"].matches(after["task_1"], force=False)
    assert before["task_1"].matches(after["task_1"], force=True)


def test_vacuum_and_a_rewritten_table_leave_the_version_as_it_was(database: Database) -> None:
    database.add_task("task_1")
    before = database.versions("task_1")
    for statement in ("VACUUM (FREEZE) data_pipeline_tasks", "VACUUM (FULL, FREEZE) data_pipeline_tasks"):
        database.execute(statement)
        assert database.versions("task_1") == before


def test_a_column_without_zone_is_read_in_the_zone_of_the_store(database: Database) -> None:
    database.add_task("task_1")
    tables = replace(database.tables, time_zone="Europe/Berlin")
    entry = database.catalog(tables=tables).read(["task_1"])["task_1"]
    assert entry.version.created == "2025-07-02T15:39:32.500000+00:00"


@pytest.mark.parametrize("local", ["2025-10-26 02:30:00", "2025-03-30 02:30:00"], ids=["twice", "left out"])
def test_an_hour_of_two_meanings_is_taken_for_the_later_one_as_the_database_does(
    database: Database, local: str
) -> None:
    database.add_task("task_1")
    set_times(database, local, None)
    tables = replace(database.tables, time_zone="Europe/Berlin")
    entry = database.catalog(tables=tables).read(["task_1"])["task_1"]
    assert [(entry.created_at,)] == database.execute(
        "SELECT created_at AT TIME ZONE 'Europe/Berlin' FROM data_pipeline_tasks"
    )


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_the_version_does_not_depend_on_settings_of_the_session(database: Database, kind: str) -> None:
    for column in ("created_at", "updated_at"):
        database.execute(
            f"ALTER TABLE data_pipeline_tasks ALTER {column} TYPE {kind} USING {column} AT TIME ZONE 'UTC'"
            if kind == "TIMESTAMPTZ"
            else f"ALTER TABLE data_pipeline_tasks ALTER {column} TYPE {kind}"
        )
    database.execute(
        "SET TimeZone = 'UTC'; INSERT INTO data_pipeline_tasks VALUES ('task_1', 'completed', '2025-07-02 17:39:32')"
    )
    before = database.versions("task_1")
    name = urlsplit(database.url).path[1:]
    database.execute(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Tokyo'")
    database.execute(f"ALTER DATABASE {name} SET DateStyle = 'German'")
    assert database.execute("SHOW DateStyle") == [("German, DMY",)]
    assert database.versions("task_1") == before
    assert before["task_1"].created == "2025-07-02T17:39:32.000000+00:00"


@pytest.mark.parametrize("created", [None, "infinity", "-infinity"])
def test_a_creation_that_is_no_time_is_unknown(database: Database, created: str | None) -> None:
    database.add_task("task_1")
    set_times(database, created, None)
    entry = database.catalog().read(["task_1"])["task_1"]
    assert (entry.version.created, entry.version.rest.rpartition("|")[0], entry.created_at) == ("", "completed|", None)


def test_a_step_in_a_running_word_counts_as_running_and_others_do_not(database: Database) -> None:
    database.add_task("task_1", steps=("completed", "running"))
    database.add_task("task_10", steps=("pending",))
    database.add_task("task_2", steps=())
    entries = database.catalog().read(["task_1", "task_10", "task_2"])
    assert {task_id for task_id, entry in entries.items() if entry.activity} == {"task_1"}


def test_ids_that_are_not_in_the_catalog_are_left_out_however_long(database: Database) -> None:
    database.add_task("task_1")
    entries = database.catalog().read(["task_1", "task", "task_1_", "TASK_1", "a" * 128, "task_1%"])
    assert set(entries) == {"task_1"}
    assert database.catalog().read([]) == {}


def test_more_ids_than_a_chunk_are_read(database: Database) -> None:
    database.execute("INSERT INTO data_pipeline_tasks SELECT 'task_' || i FROM generate_series(1, 1200) i")
    assert len(database.catalog().read([f"task_{i}" for i in range(1, 1300)])) == 1200


def test_an_index_on_the_id_is_used(database: Database) -> None:
    database.execute("INSERT INTO data_pipeline_tasks SELECT 'task_' || i FROM generate_series(1, 5000) i")
    database.execute("ANALYZE")
    before = database.execute("SELECT pg_stat_force_next_flush(), seq_scan FROM pg_stat_user_tables")
    database.catalog().read([f"task_{i}" for i in range(50)])
    assert database.execute("SELECT pg_stat_force_next_flush(), seq_scan FROM pg_stat_user_tables") == before


def test_tables_may_have_a_schema_capitals_and_an_enum_as_status(home: DatabaseHome) -> None:
    schema = """
    CREATE SCHEMA "Archive";
    CREATE TYPE status AS ENUM ('completed', 'running');
    CREATE TABLE "Archive"."Tasks" (task_id TEXT PRIMARY KEY, status status, created_at TIMESTAMPTZ,
        updated_at TIMESTAMPTZ, directory_exists BOOLEAN);
    CREATE TABLE "Archive"."Steps" (task_id TEXT, status status);
    INSERT INTO "Archive"."Tasks" VALUES ('task_1', 'completed', '2025-07-02 17:39:32+02');
    INSERT INTO "Archive"."Steps" VALUES ('task_1', 'running')
    """
    with home.fresh(schema=schema, migrated=False) as database:
        catalog = database.catalog(tables=CatalogTables("Archive.Tasks", "Archive.Steps", "UTC", ("running",)))
        assert catalog.probe() == []
        entry = catalog.read(["task_1"])["task_1"]
        assert (entry.status, entry.activity) == ("completed", "a step of the task is running")
        assert entry.version.created == "2025-07-02T15:39:32.000000+00:00"
        assert catalog.mark({"task_1": entry.version}, force=False).marked == {"task_1"}
        entry = catalog.read(["task_1"])["task_1"]
        assert catalog.delete_records({"task_1": entry.version}, force=False)["task_1"].count == 2


def test_a_partitioned_table_is_an_ordinary_one(home: DatabaseHome) -> None:
    schema = """
    CREATE TABLE data_pipeline_tasks (task_id TEXT PRIMARY KEY, status TEXT, created_at TIMESTAMP,
        updated_at TIMESTAMP, directory_exists BOOLEAN) PARTITION BY HASH (task_id);
    CREATE TABLE tasks_0 PARTITION OF data_pipeline_tasks FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE tasks_1 PARTITION OF data_pipeline_tasks FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE data_pipeline_task_steps (status TEXT, task_id TEXT REFERENCES data_pipeline_tasks)
    """
    with home.fresh(schema=schema, migrated=False) as database:
        for number in range(4):
            database.add_task(f"task_{number}")
        catalog = database.catalog()
        versions = database.versions("task_0", "task_1", "task_2")
        with catalog.claim(versions, with_records=True) as seen:
            assert (set(seen.entries), seen.foreign_references) == (set(versions), {})
        assert {r.count for r in catalog.delete_records(versions, force=False).values()} == {2}
        assert database.task_ids() == {"task_3"}


def test_several_rows_of_one_task_are_reported_not_chosen_from(database: Database) -> None:
    database.execute("ALTER TABLE data_pipeline_tasks DROP CONSTRAINT data_pipeline_tasks_pkey CASCADE")
    database.add_task("task_1")
    database.add_task("task_1", steps=())
    with pytest.raises(Fault, match="must be unique") as caught:
        database.catalog().read(["task_1"])
    assert caught.value.reason == "SchemaMissing"


def test_a_collation_that_ignores_case_finds_no_other_task(database: Database) -> None:
    database.execute("CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    database.execute("ALTER TABLE data_pipeline_task_steps DROP CONSTRAINT data_pipeline_task_steps_task_id_fkey")
    database.execute("ALTER TABLE data_pipeline_task_steps ALTER task_id TYPE VARCHAR(32) COLLATE loose")
    database.execute("ALTER TABLE data_pipeline_tasks DROP CONSTRAINT data_pipeline_tasks_pkey")
    database.execute("ALTER TABLE data_pipeline_tasks ALTER task_id TYPE VARCHAR(32) COLLATE loose")
    database.add_task("task_1")
    database.add_task("TASK_1")
    assert database.execute("SELECT count(*) FROM data_pipeline_tasks WHERE task_id = 'task_1'") == [(2,)]
    result = database.catalog().delete_records(database.versions("task_1"), force=False)["task_1"]
    assert (result.count, database.task_ids(), database.step_ids()) == (2, {"TASK_1"}, {"TASK_1"})


def test_a_missing_column_is_named_with_the_migration(home: DatabaseHome) -> None:
    with home.fresh(migrated=False) as database, pytest.raises(Fault) as caught:
        database.catalog().read(["task_1"])
    assert (caught.value.kind, caught.value.reason) == ("waiting", "SchemaMissing")
    assert "updated_at" in caught.value.message
    assert "0001_directory_exists_and_updated_at.sql" in caught.value.message


def test_the_clock_is_the_databases_and_has_a_zone(database: Database) -> None:
    before = database.execute("SELECT clock_timestamp()")[0][0]
    assert before <= database.catalog().now() <= database.execute("SELECT clock_timestamp()")[0][0]
    assert database.catalog().now().tzinfo is UTC


def test_the_catalog_heals_after_a_restart_of_the_server(stack: Any, database: Database) -> None:
    database.add_task("task_1")
    catalog = database.catalog()
    assert set(catalog.read(["task_1"])) == {"task_1"}
    stack.stop_service("postgres")
    try:
        with pytest.raises(Fault) as caught:
            catalog.read(["task_1"])
    finally:
        stack.start_service("postgres")
    assert (caught.value.kind, caught.value.reason) == ("waiting", "Unavailable")
    assert set(catalog.read(["task_1"])) == {"task_1"}


def test_a_connection_that_was_ended_between_two_calls_is_replaced(database: Database) -> None:
    database.add_task("task_1")
    catalog = database.catalog()
    catalog.read(["task_1"])
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'task-deletion-operator'"
    )
    assert set(catalog.read(["task_1"])) == {"task_1"}


@pytest.mark.parametrize("trusted_seconds", [60.0, 0.0], ids=["used a moment ago", "idle for a while"])
def test_many_connections_that_were_ended_between_two_calls_are_replaced(
    database: Database, monkeypatch: pytest.MonkeyPatch, trusted_seconds: float
) -> None:
    monkeypatch.setattr("taskdeletion.backends.postgres.connection.TRUSTED_SECONDS", trusted_seconds)
    database.add_task("task_1")
    catalog = database.catalog()
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(catalog.claim([], with_records=False))
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'task-deletion-operator'"
        " AND datname = current_database()"
    )
    for _ in range(4):
        assert set(catalog.read(["task_1"])) == {"task_1"}


def test_a_session_is_not_kept_for_ever(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskdeletion.backends.postgres.connection.MAX_AGE_SECONDS", 0.3)
    catalog = database.catalog()
    pids = "SELECT pid FROM pg_stat_activity WHERE application_name = 'task-deletion-operator' AND datname = %s"
    name = urlsplit(database.url).path[1:]
    catalog.now()
    [first] = database.execute(pids, name)

    def is_replaced() -> bool:
        catalog.now()
        return database.execute(pids, name) not in ([first], [])

    wait_until(is_replaced)


def test_a_server_that_does_not_answer_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy_to(database.url) as proxy:
        monkeypatch.setattr("taskdeletion.backends.postgres.connection.REPLY_GRACE_SECONDS", -9.7)
        catalog = database.catalog(url=proxy.url)
        catalog.now()
        proxy.is_silent = True
        began = time.monotonic()
        with pytest.raises(Fault) as caught:
            catalog.read(["task_1"])
    assert (caught.value.kind, caught.value.reason) == ("waiting", "Unavailable")
    assert time.monotonic() - began < 8


def test_more_calls_than_connections_wait_for_each_other(database: Database) -> None:
    database.add_task("task_1")
    catalog = database.catalog()
    with ThreadPoolExecutor(24) as threads:
        found = list(threads.map(lambda _: set(catalog.read(["task_1"])), range(100)))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'task-deletion-operator' AND datname = %s"
    assert found == [{"task_1"}] * 100
    assert database.execute(count, urlsplit(database.url).path[1:])[0][0] <= 8


def test_close_ends_the_connections_and_later_calls_are_told(database: Database) -> None:
    catalog = database.catalog()
    catalog.now()
    catalog.close()
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'task-deletion-operator' AND datname = %s"
    wait_until(lambda: database.execute(count, urlsplit(database.url).path[1:]) == [(0,)])
    with pytest.raises(Fault, match="Unavailable"):
        catalog.now()


def without_password(database: Database) -> str:
    address = urlsplit(database.url)
    return f"postgresql://{address.username}@{address.hostname}:{address.port}{address.path}"


@pytest.mark.parametrize("place", ["PGPASSFILE", "PGPASSWORD", "HOME", "PGSERVICE"])
def test_the_operators_own_password_is_never_lent(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    password = urlsplit(database.url).password or ""
    passfile = tmp_path / ".pgpass"
    passfile.write_text(f"*:*:*:*:{password}\n")
    passfile.chmod(0o600)
    services = tmp_path / ".pg_service.conf"
    services.write_text(f"[own]\npassword={password}\n")
    values = {"PGPASSFILE": str(passfile), "PGPASSWORD": password, "HOME": str(tmp_path), "PGSERVICE": "own"}
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv(place, values[place])
    with pytest.raises(Fault) as caught:
        database.catalog(url=without_password(database)).now()
    assert (caught.value.kind, caught.value.reason) == ("waiting", "AuthenticationFailed")


def test_the_operators_environment_has_no_say(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "PGHOST": "/tmp",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGDATABASE": "other",
        "PGUSER": "other",
        "PGOPTIONS": "-c statement_timeout=1",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/nowhere",
        "PGREQUIREAUTH": "none",
        "PGTARGETSESSIONATTRS": "standby",
        "PGCONNECT_TIMEOUT": "0",
        "PGSERVICE": "undefined",
        "PGTZ": "Asia/Tokyo",
        "PGDATESTYLE": "German",
    }
    database.add_task("task_1")
    expected = database.versions("task_1")
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert database.catalog().read(["task_1"])["task_1"].version == expected["task_1"]
    assert "PGSERVICE" not in os.environ


def test_a_pooler_may_run_every_transaction_on_another_connection(database: Database) -> None:
    catalog = database.catalog()
    connection = catalog._pool.acquire()
    try:
        before = connection.execute("SHOW lock_timeout").fetchone()
    finally:
        catalog._pool.release(connection)
    catalog.read(["task_1"])
    connection = catalog._pool.acquire()
    try:
        assert connection.execute("SHOW lock_timeout").fetchone() == before == ("0",)
        assert connection.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    finally:
        catalog._pool.release(connection)
