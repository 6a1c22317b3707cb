"""Deleting records: steps and task together, only of the claimed run, and never what others refer to."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from tests.contract.test_postgres_database import CREATED, Database, DatabaseHome, database_home, proxy_to

NOTES = "CREATE TABLE notes (id SERIAL, {columns} REFERENCES {target} ON DELETE {action})"


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        for task_id in ("task_1", "task_10", "task_2"):
            database.add_task(task_id, steps=("completed", "completed"))
        yield database


def delete(database: Database, *task_ids: str, force: bool = False) -> dict[str, StepResult]:
    return database.catalog().delete_records(database.versions(*task_ids), force=force)


def references(database: Database, *task_ids: str) -> dict[str, str]:
    with database.catalog().claim(task_ids, with_records=True) as seen:
        return dict(seen.foreign_references)


def test_steps_and_task_go_and_are_counted_and_no_neighbour(database: Database) -> None:
    results = delete(database, "task_1", "task_2")
    assert results == {
        task_id: StepResult(task_id, "DatabaseRecords", "Deleted", count=3) for task_id in ("task_1", "task_2")
    }
    assert database.task_ids() == {"task_10"}
    assert database.step_ids() == {"task_10"}


def test_steps_go_also_without_a_foreign_key(database: Database) -> None:
    database.execute("ALTER TABLE data_pipeline_task_steps DROP CONSTRAINT data_pipeline_task_steps_task_id_fkey")
    assert delete(database, "task_1")["task_1"].count == 3
    assert database.step_ids() == {"task_10", "task_2"}


def test_a_task_that_was_restarted_keeps_its_records(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    database.restart_task("task_1")
    results = database.catalog().delete_records(versions, force=False)
    assert (results["task_1"].outcome, results["task_1"].reason) == ("Failed", "TaskRestarted")
    assert (results["task_1"].kind, results["task_1"].count) == ("permanent", 0)
    assert results["task_2"].outcome == "Deleted"
    assert database.task_ids() == {"task_1", "task_10"}
    assert database.step_ids() == {"task_1", "task_10"}


def test_with_force_only_a_new_creation_is_a_restart(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    database.restart_task("task_1")
    database.execute("UPDATE data_pipeline_tasks SET created_at = now() WHERE task_id = 'task_2'")
    results = database.catalog().delete_records(versions, force=True)
    assert results["task_1"].outcome == "Deleted"
    assert (results["task_2"].outcome, results["task_2"].reason) == ("Failed", "TaskRestarted")


def test_records_that_are_gone_already_are_absent(database: Database) -> None:
    versions = database.versions("task_1")
    catalog = database.catalog()
    assert catalog.delete_records(versions, force=False)["task_1"].outcome == "Deleted"
    again = catalog.delete_records(versions, force=False)["task_1"]
    assert (again.outcome, again.reason, again.count) == ("Skipped", "Absent", 0)


def test_a_row_that_somebody_holds_blocks_only_its_own_task(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    with database.holding("task_1"):
        results = database.catalog().delete_records(versions, force=False)
    assert (results["task_1"].outcome, results["task_1"].reason) == ("Failed", "RowLocked")
    assert results["task_1"].kind == "retriable"
    assert results["task_2"].outcome == "Deleted"


def test_a_step_that_somebody_holds_blocks_only_its_own_task(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    with database.connect() as other, other.transaction():
        other.execute("SELECT 1 FROM data_pipeline_task_steps WHERE task_id = 'task_1' FOR UPDATE")
        results = database.catalog().delete_records(versions, force=False)
    assert (results["task_1"].reason, results["task_2"].outcome) == ("RowLocked", "Deleted")
    assert database.task_ids() == {"task_1", "task_10"}


def test_a_trigger_that_refuses_keeps_the_whole_task_and_quotes_no_row(database: Database) -> None:
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'secret of %', OLD.task_id; END $$;"
        " CREATE TRIGGER refuse BEFORE DELETE ON data_pipeline_tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    result = delete(database, "task_1")["task_1"]
    assert (result.outcome, result.reason, result.kind) == ("Failed", "DatabaseError", "retriable")
    assert "P0001" in result.message
    assert "secret" not in result.message
    assert database.step_ids() == {"task_1", "task_10", "task_2"}


def test_a_task_that_cannot_be_deleted_does_not_take_the_others_with_it(database: Database) -> None:
    ids = [f"many_{number:03}" for number in range(250)]
    database.execute(
        "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT unnest(%s::text[]), 'completed', %s",
        ids,
        CREATED,
    )
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF OLD.task_id = 'many_150' THEN RAISE 'no'; END IF; RETURN OLD; END $$;"
        " CREATE TRIGGER refuse BEFORE DELETE ON data_pipeline_tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    results = delete(database, *ids)
    failed = {task_id for task_id, result in results.items() if result.outcome == "Failed"}
    assert failed == {"many_150"}
    assert database.task_ids() & set(ids) == failed


def test_an_outage_is_told_for_every_task_and_not_waited_for_per_chunk(database: Database) -> None:
    version = database.versions("task_1")["task_1"]
    versions = {f"task_{number}": version for number in range(501)}
    results = database.catalog(url="postgresql://u:p@127.0.0.1:1/x").delete_records(versions, force=False)
    assert {(r.outcome, r.reason, r.kind) for r in results.values()} == {("Failed", "Unavailable", "waiting")}
    assert len(results) == 501


def test_a_lost_reply_is_looked_into(database: Database) -> None:
    versions = database.versions("task_1")
    with proxy_to(database.url) as proxy:
        proxy.loses_commits = 1
        result = database.catalog(url=proxy.url).delete_records(versions, force=False)["task_1"]
    assert (result.outcome, result.at_least) == ("Deleted", True)
    assert database.task_ids() == {"task_10", "task_2"}


def test_records_are_counted_without_a_change(database: Database) -> None:
    assert database.catalog().count_records(["task_1", "task_2", "absent"]) == {"task_1": 3, "task_2": 3}
    assert database.task_ids() == {"task_1", "task_10", "task_2"}


# --- rows of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"])
def test_a_row_of_another_table_keeps_the_task_whatever_its_action(database: Database, action: str) -> None:
    database.execute(NOTES.format(columns="task_id VARCHAR(32)", target="data_pipeline_tasks", action=action))
    database.execute("INSERT INTO notes (task_id) VALUES ('task_1'), (NULL), ('task_10')")
    assert references(database, "task_1", "task_2") == {"task_1": "public.notes (notes_task_id_fkey)"}
    results = delete(database, "task_1", "task_2")
    assert (results["task_1"].outcome, results["task_1"].reason) == ("Failed", "ForeignKeyReferences")
    assert results["task_1"].kind == "permanent"
    assert "public.notes (notes_task_id_fkey)" in results["task_1"].message
    assert results["task_2"].outcome == "Deleted"
    assert database.execute("SELECT count(task_id) FROM notes") == [(2,)]


@pytest.mark.parametrize("action", ["CASCADE", "NO ACTION"])
def test_a_row_that_refers_to_a_step_keeps_the_task(database: Database, action: str) -> None:
    database.execute(NOTES.format(columns="step INT", target="data_pipeline_task_steps", action=action))
    database.execute("INSERT INTO notes (step) SELECT min(id) FROM data_pipeline_task_steps WHERE task_id = 'task_1'")
    assert set(references(database, "task_1", "task_2")) == {"task_1"}
    results = delete(database, "task_1", "task_2")
    assert (results["task_1"].reason, results["task_2"].outcome) == ("ForeignKeyReferences", "Deleted")
    assert database.execute("SELECT count(step) FROM notes") == [(1,)]


def test_a_key_of_several_columns_is_compared_as_a_whole(database: Database) -> None:
    database.execute(
        "ALTER TABLE data_pipeline_tasks ADD tenant INT DEFAULT 7, ADD number INT GENERATED ALWAYS AS IDENTITY;"
        " ALTER TABLE data_pipeline_tasks ADD UNIQUE (number, tenant);"
        " CREATE TABLE notes (t INT, n INT, FOREIGN KEY (t, n) REFERENCES data_pipeline_tasks (tenant, number))"
    )
    database.execute("INSERT INTO notes SELECT tenant, number FROM data_pipeline_tasks WHERE task_id = 'task_2'")
    database.execute("INSERT INTO notes VALUES (NULL, 1)")
    assert references(database, "task_1", "task_2") == {"task_2": "public.notes (notes_t_n_fkey)"}


def test_a_task_that_another_task_refers_to_stays_unless_both_go(database: Database) -> None:
    database.execute(
        "ALTER TABLE data_pipeline_tasks ADD parent VARCHAR(32) REFERENCES data_pipeline_tasks ON DELETE CASCADE"
    )
    database.execute("UPDATE data_pipeline_tasks SET parent = 'task_1' WHERE task_id = 'task_2'")
    assert set(references(database, "task_1", "task_10")) == {"task_1"}
    assert delete(database, "task_1")["task_1"].reason == "ForeignKeyReferences"
    assert references(database, "task_1", "task_2") == {}
    assert {result.outcome for result in delete(database, "task_1", "task_2").values()} == {"Deleted"}
    assert database.task_ids() == {"task_10"}


def test_a_task_stays_that_a_task_that_has_to_stay_refers_to(database: Database) -> None:
    database.execute(
        "ALTER TABLE data_pipeline_tasks ADD parent VARCHAR(32) REFERENCES data_pipeline_tasks ON DELETE CASCADE;"
        " UPDATE data_pipeline_tasks SET parent = 'task_1' WHERE task_id = 'task_2';"
        " CREATE TABLE notes (task_id VARCHAR(32) REFERENCES data_pipeline_tasks); INSERT INTO notes VALUES ('task_2')"
    )
    assert set(references(database, "task_1", "task_2")) == {"task_1", "task_2"}
    restarted = database.versions("task_1", "task_2")
    database.execute("DELETE FROM notes")
    database.restart_task("task_2")
    results = database.catalog().delete_records(restarted, force=False)
    assert {i: r.reason for i, r in results.items()} == {"task_1": "ForeignKeyReferences", "task_2": "TaskRestarted"}
    assert database.task_ids() == {"task_1", "task_10", "task_2"}


def test_a_task_that_refers_to_its_own_step_goes(database: Database) -> None:
    database.execute(
        "ALTER TABLE data_pipeline_tasks ADD current INT REFERENCES data_pipeline_task_steps;"
        " UPDATE data_pipeline_tasks t SET current = (SELECT max(id) FROM data_pipeline_task_steps s"
        " WHERE s.task_id = t.task_id)"
    )
    assert references(database, "task_1") == {}
    assert delete(database, "task_1")["task_1"].count == 3


def test_a_task_whose_step_another_task_refers_to_stays(database: Database) -> None:
    database.execute(
        "ALTER TABLE data_pipeline_tasks ADD current INT REFERENCES data_pipeline_task_steps ON DELETE SET NULL;"
        " UPDATE data_pipeline_tasks SET current ="
        " (SELECT max(id) FROM data_pipeline_task_steps WHERE task_id = 'task_1') WHERE task_id = 'task_2'"
    )
    assert set(references(database, "task_1")) == {"task_1"}
    assert references(database, "task_2") == {}


def test_a_table_that_may_not_be_read_counts_as_referring(database: Database) -> None:
    database.execute("CREATE TABLE notes (task_id VARCHAR(32) REFERENCES data_pipeline_tasks)")
    url = database.add_role(
        "SELECT, UPDATE, DELETE ON data_pipeline_tasks", "SELECT, DELETE ON data_pipeline_task_steps"
    )
    catalog = database.catalog(url=url)
    with catalog.claim(["task_1"], with_records=True) as seen:
        assert "notes_task_id_fkey" in seen.foreign_references["task_1"]
        assert "could not be checked" in seen.foreign_references["task_1"]
    result = catalog.delete_records(database.versions("task_1"), force=False)["task_1"]
    assert (result.reason, result.kind) == ("ForeignKeyReferences", "permanent")


def test_rows_hidden_by_a_policy_count_as_referring(database: Database) -> None:
    database.execute(
        "CREATE TABLE notes (task_id VARCHAR(32) REFERENCES data_pipeline_tasks ON DELETE CASCADE);"
        " ALTER TABLE notes ENABLE ROW LEVEL SECURITY; INSERT INTO notes VALUES ('task_1')"
    )
    url = database.add_role(
        "SELECT, UPDATE, DELETE ON data_pipeline_tasks", "SELECT, DELETE ON data_pipeline_task_steps", "SELECT ON notes"
    )
    result = database.catalog(url=url).delete_records(database.versions("task_1"), force=False)["task_1"]
    assert result.reason == "ForeignKeyReferences"
    assert database.execute("SELECT count(*) FROM notes") == [(1,)]


def test_partitions_are_no_references_of_their_own(database: Database) -> None:
    database.execute(
        "CREATE TABLE notes (task_id VARCHAR(32) REFERENCES data_pipeline_tasks, day INT) PARTITION BY RANGE (day);"
        " CREATE TABLE notes_1 PARTITION OF notes FOR VALUES FROM (0) TO (9);"
        " INSERT INTO notes VALUES ('task_1', 1)"
    )
    assert references(database, "task_1", "task_2") == {"task_1": "public.notes (notes_task_id_fkey)"}


def test_a_reference_to_a_single_partition_keeps_the_task(home: DatabaseHome) -> None:
    schema = """
    CREATE TABLE data_pipeline_tasks (task_id TEXT PRIMARY KEY, status TEXT, created_at TIMESTAMP,
        updated_at TIMESTAMP, directory_exists BOOLEAN) PARTITION BY HASH (task_id);
    CREATE TABLE only_part PARTITION OF data_pipeline_tasks FOR VALUES WITH (MODULUS 1, REMAINDER 0);
    CREATE TABLE data_pipeline_task_steps (status TEXT, task_id TEXT REFERENCES data_pipeline_tasks);
    CREATE TABLE notes (task_id TEXT REFERENCES only_part ON DELETE CASCADE)
    """
    with home.fresh(schema=schema, migrated=False) as database:
        database.add_task("task_1")
        database.execute("INSERT INTO notes VALUES ('task_1')")
        assert set(references(database, "task_1")) == {"task_1"}


KEEPING_TRIGGER = (
    "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN IF OLD.task_id = 'task_1' THEN RETURN NULL; END IF; RETURN OLD; END $$;"
    " CREATE TRIGGER keep BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION keep()"
)
RETURNING_TRIGGER = (
    "CREATE FUNCTION bring_back() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO data_pipeline_tasks SELECT OLD.*; RETURN NULL; END $$;"
    " CREATE TRIGGER bring_back AFTER DELETE ON data_pipeline_tasks FOR EACH ROW"
    " WHEN (OLD.task_id = 'task_1') EXECUTE FUNCTION bring_back()"
)


@pytest.mark.parametrize(
    "keeper",
    [
        KEEPING_TRIGGER.format(table="data_pipeline_tasks"),
        KEEPING_TRIGGER.format(table="data_pipeline_task_steps"),
        RETURNING_TRIGGER,
        "CREATE RULE keep AS ON DELETE TO data_pipeline_tasks WHERE OLD.task_id = 'task_1' DO INSTEAD NOTHING",
    ],
    ids=["trigger", "trigger on steps", "trigger that brings back", "rule"],
)
def test_rows_that_the_database_keeps_are_never_called_deleted(database: Database, keeper: str) -> None:
    versions = database.versions("task_1", "task_2")
    database.execute(keeper)
    results = database.catalog().delete_records(versions, force=False)
    kept = results["task_1"]
    assert (kept.outcome, kept.reason, kept.count) == ("Failed", "DatabaseError", 0)
    rows = "SELECT count(*) FROM data_pipeline_task_steps WHERE task_id = 'task_1'"
    assert (database.task_ids() & {"task_1"}, database.execute(rows)) == ({"task_1"}, [(2,)])
    assert "task_10" in database.task_ids()


@pytest.mark.parametrize("table", ["data_pipeline_tasks", "data_pipeline_task_steps"])
def test_a_trigger_that_keeps_one_task_lets_the_others_go(database: Database, table: str) -> None:
    versions = database.versions("task_1", "task_10", "task_2")
    database.execute(KEEPING_TRIGGER.format(table=table))
    results = database.catalog().delete_records(versions, force=False)
    assert {i: (r.outcome, r.kind, r.count) for i, r in results.items()} == {
        "task_1": ("Failed", "permanent", 0),
        "task_10": ("Deleted", None, 3),
        "task_2": ("Deleted", None, 3),
    }
    assert "a trigger or rule stands in the way" in results["task_1"].message
    assert database.task_ids() == database.step_ids() == {"task_1"}


@pytest.mark.parametrize("table", ["data_pipeline_tasks", "data_pipeline_task_steps"])
def test_rows_behind_a_policy_are_never_called_deleted_or_absent(database: Database, table: str) -> None:
    """The policy shows every row, and lets none be deleted: a DELETE would end well and leave all of them."""
    url = database.add_role(
        "SELECT, UPDATE, DELETE ON data_pipeline_tasks", "SELECT, DELETE ON data_pipeline_task_steps"
    )
    versions, catalog = database.versions("task_1"), database.catalog(url=url)
    database.execute(
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
        f" CREATE POLICY look ON {table} FOR SELECT USING (TRUE);"
        f" CREATE POLICY change ON {table} FOR UPDATE USING (TRUE)"
    )
    result = catalog.delete_records(versions, force=False)["task_1"]
    assert (result.outcome, result.reason, result.kind) == ("Failed", "PermissionDenied", "permanent")
    with pytest.raises(Fault, match="PermissionDenied"), catalog.claim(["task_1"], with_records=True):
        pass
    assert database.task_ids() == database.step_ids() == {"task_1", "task_10", "task_2"}


@pytest.mark.parametrize(
    "action", ["CASCADE", "NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE DEFERRABLE"]
)
def test_steps_and_task_go_together_whatever_their_foreign_key_does(database: Database, action: str) -> None:
    name = "data_pipeline_task_steps_task_id_fkey"
    database.execute(
        f"ALTER TABLE data_pipeline_task_steps DROP CONSTRAINT {name}, ADD CONSTRAINT {name} FOREIGN KEY (task_id)"
        f" REFERENCES data_pipeline_tasks ON DELETE {action.removesuffix(' DEFERRABLE')}"
        f" {'DEFERRABLE INITIALLY DEFERRED' if 'DEFERRABLE' in action else ''}"
    )
    assert references(database, "task_1") == {}
    assert delete(database, "task_1")["task_1"].count == 3
    assert database.task_ids() == database.step_ids() == {"task_10", "task_2"}
    assert database.execute("SELECT count(*) FROM data_pipeline_task_steps") == [(4,)]


def test_steps_in_partitions_go_with_their_task(database: Database) -> None:
    database.execute(
        "DROP TABLE data_pipeline_task_steps; CREATE TABLE data_pipeline_task_steps (day INT, status TEXT,"
        " task_id VARCHAR(32) REFERENCES data_pipeline_tasks) PARTITION BY RANGE (day);"
        " CREATE TABLE steps_1 PARTITION OF data_pipeline_task_steps FOR VALUES FROM (0) TO (5);"
        " CREATE TABLE steps_2 PARTITION OF data_pipeline_task_steps FOR VALUES FROM (5) TO (9);"
        " INSERT INTO data_pipeline_task_steps VALUES (1, 'completed', 'task_1'), (6, 'completed', 'task_1'),"
        " (6, 'completed', 'task_2')"
    )
    assert database.catalog().probe() == []
    assert references(database, "task_1") == {}
    assert delete(database, "task_1")["task_1"].count == 3
    assert database.step_ids() == {"task_2"}
