"""Tables whose names need quoting: they are found, worked on, and told apart from those that look alike."""

from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql

from taskdeletion.domain.faults import Fault
from taskdeletion.domain.table_names import parse_table_name
from tests.contract.test_postgres_database import DatabaseHome, database_home

COLUMNS = (
    "task_id TEXT PRIMARY KEY, status TEXT, created_at TIMESTAMPTZ, updated_at TIMESTAMPTZ, directory_exists BOOLEAN"
)


@pytest.fixture(scope="module")
def home(stack: Any) -> Any:
    with database_home(stack.postgres) as home:
        yield home


def identify(name: str) -> sql.Identifier:
    return sql.Identifier(*parse_table_name(name))


@pytest.mark.parametrize(
    ("tasks", "steps"),
    [
        ('"Data-Tasks"', 'public."task steps"'),
        ("Tasks", "Steps"),
        ('"order"', '"select"."from"'),
        ('"my.schema"."tasks.2025"', '"my.schema"."steps"'),
        ('"任务"."Ä-é"', '"任务"."шаги"'),
        ('"say ""hi"""', '"a""b"."c""d"'),
        ('"100% done"', '"%s"."%(ids)s"'),
        ('"it\'s"', '"; DROP TABLE x; --"'),
        ('"{tasks}"', '"{steps}"'),
        (f'"{"ä" * 31}a"', f'"{"ä" * 31}b"'),
    ],
)
def test_a_table_of_any_name_is_worked_on(home: DatabaseHome, tasks: str, steps: str) -> None:
    with home.fresh(schema="", migrated=False) as database:
        for schema in {parts[0] for parts in map(parse_table_name, (tasks, steps)) if len(parts) == 2} - {"public"}:
            database.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        for statement in (
            f"CREATE TABLE {{tasks}} ({COLUMNS})",
            "CREATE TABLE {steps} (number SERIAL PRIMARY KEY, status TEXT, task_id TEXT REFERENCES {tasks})",
            'CREATE TABLE "no-tes 5%" ("st%ep" INT REFERENCES {steps})',
            "INSERT INTO {tasks} VALUES ('task_1', 'completed', now()), ('task_2', 'completed', now())",
            "INSERT INTO {steps} (status, task_id) VALUES ('running', 'task_1'), ('completed', 'task_2')",
            'INSERT INTO "no-tes 5%" VALUES (2)',
        ):
            database.execute(sql.SQL(statement).format(tasks=identify(tasks), steps=identify(steps)))
        catalog = database.catalog(tables=replace(database.tables, tasks_table=tasks, steps_table=steps))
        assert catalog.probe() == []
        with catalog.claim(["task_1", "task_2"], with_records=True) as seen:
            assert seen.entries["task_1"].activity == "a step of the task is running"
            assert seen.foreign_references == {"task_2": "public.no-tes 5% (no-tes 5%_st%ep_fkey)"}
        versions = {task_id: entry.version for task_id, entry in seen.entries.items()}
        assert catalog.count_records(versions) == {"task_1": 2, "task_2": 2}
        assert catalog.mark({"task_2": versions["task_2"]}, force=False).marked == {"task_2"}
        results = catalog.delete_records(versions, force=True)
        assert {i: (r.outcome, r.count) for i, r in results.items()} == {
            "task_1": ("Deleted", 2),
            "task_2": ("Failed", 0),
        }
        found = database.execute(sql.SQL("SELECT task_id, directory_exists FROM {}").format(identify(tasks)))
        assert found == [("task_2", False)]


def test_a_name_in_other_case_is_another_table(home: DatabaseHome) -> None:
    with home.fresh() as database:
        tables = replace(database.tables, tasks_table='"DATA_PIPELINE_TASKS"')
        [problem] = database.catalog(tables=tables).probe()
        assert problem.message == 'the table "DATA_PIPELINE_TASKS" does not exist'


def test_rights_are_told_by_the_name_as_it_is_written(home: DatabaseHome) -> None:
    with home.fresh() as database:
        database.execute('ALTER TABLE data_pipeline_tasks RENAME TO "Data-Tasks"')
        url = database.add_role('SELECT ON "Data-Tasks"', "SELECT ON data_pipeline_task_steps")
        tables = replace(database.tables, tasks_table='"Data-Tasks"')
        [problem] = database.catalog(url=url, tables=tables).probe()
        assert (problem.reason, problem.message) == ("PermissionDenied", 'the role lacks UPDATE on "Data-Tasks"')


def test_a_name_that_the_server_would_cut_is_refused_before_anything_is_done(home: DatabaseHome) -> None:
    with home.fresh() as database:
        database.execute(f"ALTER TABLE data_pipeline_tasks RENAME TO {'a' * 63}")
        catalog = database.catalog(tables=replace(database.tables, tasks_table="a" * 64))
        assert [problem.reason for problem in catalog.probe()] == ["StoreInvalid"]
        with pytest.raises(Fault, match="StoreInvalid"):
            catalog.read(["task_1"])
