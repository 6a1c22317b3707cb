"""The probe: each thing that can be wrong, by its own reason."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from taskdeletion.backends.postgres.tables import TASK_COLUMNS
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Problem
from tests.contract.test_postgres_database import Database, DatabaseHome, database_home

TASKS = "SELECT, UPDATE, DELETE ON data_pipeline_tasks"
STEPS = "SELECT, DELETE ON data_pipeline_task_steps"


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        yield database


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def with_part(database: Database, **parts: str) -> str:
    address = urlsplit(database.url)
    values = {
        "user": address.username,
        "password": address.password,
        "host": address.hostname,
        "port": address.port,
        "name": address.path[1:],
        **parts,
    }
    return "postgresql://{user}:{password}@{host}:{port}/{name}".format(**values)


def test_a_usable_catalog_has_no_problem(database: Database) -> None:
    assert database.catalog().probe() == []


def test_the_documented_rights_are_enough(database: Database) -> None:
    assert database.catalog(url=database.add_role(TASKS, STEPS)).probe() == []


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"password": "wrong-word"}, "AuthenticationFailed"),
        ({"user": "nobody-like-this"}, "AuthenticationFailed"),
        ({"name": "no_such_database"}, "Unavailable"),
        ({"port": "1"}, "Unavailable"),
        ({"host": "no-such-host.invalid"}, "Unavailable"),
        ({"name": "x?sslmode=require"}, "TlsFailed"),
        ({"host": "127.0.0.1,127.0.0.1", "password": "wrong-word"}, "AuthenticationFailed"),
    ],
    ids=str,
)
def test_a_connection_that_fails_is_told_at_once_with_its_cause(
    database: Database, parts: dict[str, str], reason: str
) -> None:
    url = with_part(database, **parts)
    began = time.monotonic()
    problem = only(database.catalog(url=url).probe())
    assert problem.reason == reason
    assert time.monotonic() - began < 5
    assert "wrong-word" not in problem.message
    assert (urlsplit(database.url).password or "-") not in problem.message
    assert "postgresql://" not in problem.message


def test_a_missing_table_is_named(database: Database) -> None:
    problems = database.catalog(tables=replace(database.tables, tasks_table="public.Tasks")).probe()
    assert only(problems) == Problem("SchemaMissing", "the table public.Tasks does not exist")


def test_every_missing_column_is_named_by_table(database: Database) -> None:
    database.execute("ALTER TABLE data_pipeline_tasks DROP directory_exists, DROP updated_at, DROP created_at")
    database.execute("ALTER TABLE data_pipeline_task_steps DROP status")
    first, second = database.catalog().probe()
    assert first.reason == second.reason == "SchemaMissing"
    assert "data_pipeline_tasks has no column created_at, updated_at, directory_exists" in first.message
    assert "0001_directory_exists_and_updated_at.sql" in first.message
    assert "data_pipeline_task_steps has no column status" in second.message


@pytest.mark.parametrize(
    ("column", "kind"),
    [("created_at", "TEXT"), ("updated_at", "BIGINT"), ("directory_exists", "TEXT"), ("task_id", "INT")],
)
def test_a_column_of_a_type_that_cannot_be_used_is_named(database: Database, column: str, kind: str) -> None:
    database.execute("ALTER TABLE data_pipeline_task_steps DROP CONSTRAINT data_pipeline_task_steps_task_id_fkey")
    database.execute(f"ALTER TABLE data_pipeline_tasks ALTER {column} DROP DEFAULT")
    database.execute(f"ALTER TABLE data_pipeline_tasks ALTER {column} TYPE {kind} USING NULL::{kind}")
    problem = only(database.catalog().probe())
    assert problem.reason == "SchemaMissing"
    assert f"{column} is of type" in problem.message


#: Not enough: who wrote a row can be read only with the right to the whole table.
EVERY_COLUMN = f"SELECT ({', '.join(TASK_COLUMNS)}) ON data_pipeline_tasks"


@pytest.mark.parametrize(
    ("grants", "lacks"),
    [
        ((), "SELECT on data_pipeline_tasks, UPDATE on data_pipeline_tasks, SELECT on data_pipeline_task_steps"),
        (("SELECT, DELETE ON data_pipeline_tasks", STEPS), "UPDATE on data_pipeline_tasks"),
        ((TASKS, "DELETE ON data_pipeline_task_steps"), "SELECT on data_pipeline_task_steps"),
        ((EVERY_COLUMN, "UPDATE ON data_pipeline_tasks", STEPS), "lacks SELECT on data_pipeline_tasks"),
    ],
)
def test_missing_rights_are_named(database: Database, grants: tuple[str, ...], lacks: str) -> None:
    problem = only(database.catalog(url=database.add_role(*grants)).probe())
    assert problem.reason == "PermissionDenied"
    assert lacks in problem.message


def test_a_read_only_database_is_told(database: Database) -> None:
    database.execute(f"ALTER DATABASE {urlsplit(database.url).path[1:]} SET default_transaction_read_only = on")
    assert only(database.catalog().probe()).reason == "ReadOnly"


def test_an_unknown_zone_is_told(database: Database) -> None:
    problem = only(database.catalog(tables=replace(database.tables, time_zone="Mars/Olympus")).probe())
    assert problem.reason == "StoreInvalid"


def test_the_probe_changes_nothing_and_holds_nothing(database: Database) -> None:
    database.add_task("task_1")
    before = database.versions("task_1")
    database.catalog().probe()
    assert database.versions("task_1") == before
    assert database.execute("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == [(0,)]


@pytest.mark.parametrize("table", ["data_pipeline_tasks", "data_pipeline_task_steps"])
@pytest.mark.parametrize(
    "instead",
    [
        "CREATE VIEW {table} AS SELECT * FROM base",
        "CREATE MATERIALIZED VIEW {table} AS SELECT * FROM base",
        "CREATE FOREIGN DATA WRAPPER far; CREATE SERVER far FOREIGN DATA WRAPPER far; CREATE FOREIGN TABLE {table}"
        " (task_id TEXT, status TEXT, created_at TIMESTAMP, updated_at TIMESTAMP, directory_exists BOOLEAN) SERVER far",
    ],
    ids=["view", "materialized view", "foreign table"],
)
def test_what_only_looks_like_a_table_is_none_to_delete_from(database: Database, table: str, instead: str) -> None:
    database.execute(f"ALTER TABLE {table} RENAME TO base")
    try:
        database.execute(instead.format(table=table))
        problem = only(database.catalog().probe())
    finally:
        database.execute("DROP FOREIGN DATA WRAPPER IF EXISTS far CASCADE")
    assert problem.reason == "SchemaMissing"
    assert problem.message == f"{table} is no ordinary table; name the table itself"


def test_a_column_that_the_mark_cannot_write_is_named(database: Database) -> None:
    database.execute("ALTER TABLE data_pipeline_tasks DROP COLUMN directory_exists")
    database.execute("ALTER TABLE data_pipeline_tasks ADD directory_exists BOOLEAN GENERATED ALWAYS AS (TRUE) STORED")
    assert "directory_exists is generated" in only(database.catalog().probe()).message


@pytest.mark.parametrize("table", ["data_pipeline_tasks", "data_pipeline_task_steps"])
def test_rows_that_the_role_cannot_see_are_a_problem_and_never_absent(database: Database, table: str) -> None:
    database.add_task("task_1", steps=("running",))
    catalog = database.catalog(url=database.add_role(TASKS, STEPS))
    database.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in only(catalog.probe()).message
    with pytest.raises(Fault) as caught:
        catalog.read(["task_1"])
    assert (caught.value.kind, caught.value.reason) == ("permanent", "PermissionDenied")
