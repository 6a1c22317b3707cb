"""The mark: only on the claimed run, repeatable, and in the zone of the column."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from taskdeletion.domain.catalog import Marks
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import CREATED, Database, DatabaseHome, database_home, proxy_to


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        for task_id in ("task_1", "task_10", "task_2"):
            database.add_task(task_id)
        yield database


def test_the_mark_changes_the_named_rows_and_no_neighbour(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    assert database.catalog().mark(versions, force=False).marked == {"task_1", "task_2"}
    assert database.marked() == {"task_1", "task_2"}
    rows = database.execute("SELECT status, updated_at IS NULL FROM data_pipeline_tasks WHERE task_id = 'task_10'")
    assert rows == [("completed", True)]


def test_a_row_that_changed_since_is_not_marked(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    database.restart_task("task_1")
    assert database.catalog().mark(versions, force=False).marked == {"task_2"}
    assert database.marked() == {"task_2"}


def test_with_force_only_the_creation_counts(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    database.restart_task("task_1")
    database.execute("UPDATE data_pipeline_tasks SET created_at = now() WHERE task_id = 'task_2'")
    assert database.catalog().mark(versions, force=True).marked == {"task_1"}


def test_a_row_that_is_gone_is_not_marked(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    database.execute("DELETE FROM data_pipeline_tasks WHERE task_id = 'task_1'")
    assert database.catalog().mark(versions, force=False).marked == {"task_2"}


def test_a_mark_can_be_repeated_and_keeps_its_time(database: Database) -> None:
    versions = database.versions("task_1")
    catalog = database.catalog()
    assert catalog.mark(versions, force=False).marked == {"task_1"}
    before = database.execute("SELECT * FROM data_pipeline_tasks ORDER BY task_id")
    assert catalog.mark(versions, force=False).marked == {"task_1"}
    assert catalog.mark(database.versions("task_1"), force=False).marked == {"task_1"}
    assert database.execute("SELECT * FROM data_pipeline_tasks ORDER BY task_id") == before


def test_a_marked_row_of_another_run_does_not_count(database: Database) -> None:
    versions = database.versions("task_1")
    catalog = database.catalog()
    catalog.mark(versions, force=False)
    database.restart_task("task_1")
    assert catalog.mark(versions, force=False).marked == set()


@pytest.mark.parametrize("kind", ["TIMESTAMP", "TIMESTAMPTZ"])
def test_the_time_of_the_mark_is_now_in_the_zone_of_the_column(database: Database, kind: str) -> None:
    database.execute(f"ALTER TABLE data_pipeline_tasks ALTER updated_at TYPE {kind}")
    database.execute(f"ALTER DATABASE {database.url.rpartition('/')[2]} SET TimeZone = 'America/New_York'")
    catalog = database.catalog(tables=replace(database.tables, time_zone="Asia/Tokyo"))
    before = catalog.now()
    catalog.mark({"task_1": catalog.read(["task_1"])["task_1"].version}, force=False)
    written = catalog.read(["task_1"])["task_1"].version.rest.split("|")[1]
    assert before.isoformat(timespec="microseconds") <= written
    assert written <= catalog.now().isoformat(timespec="microseconds")


def test_a_row_that_somebody_holds_is_named_and_the_others_are_marked(database: Database) -> None:
    versions = database.versions("task_1", "task_2")
    catalog = database.catalog()
    with database.holding("task_1"):
        assert catalog.mark(versions, force=False) == Marks(frozenset({"task_2"}), frozenset({"task_1"}))
    assert database.marked() == {"task_2"}
    assert catalog.mark(versions, force=False).marked == {"task_1", "task_2"}


def test_a_mark_whose_reply_was_lost_is_found(database: Database) -> None:
    versions = database.versions("task_1")
    with proxy_to(database.url) as proxy:
        proxy.loses_commits = 1
        assert database.catalog(url=proxy.url).mark(versions, force=False).marked == {"task_1"}
    assert database.marked() == {"task_1"}


def test_more_tasks_than_a_chunk_are_marked(database: Database) -> None:
    ids = [f"many_{number}" for number in range(1100)]
    database.execute(
        "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT unnest(%s::text[]), 'completed', %s",
        ids,
        CREATED,
    )
    assert database.catalog().mark(database.versions(*ids), force=False).marked == set(ids)


def test_a_row_that_the_database_keeps_as_it_was_is_not_called_marked(database: Database) -> None:
    versions = database.versions("task_1")
    database.execute("CREATE RULE keep AS ON UPDATE TO data_pipeline_tasks DO INSTEAD NOTHING")
    assert database.catalog().mark(versions, force=False).marked == frozenset()
    assert database.marked() == set()


@pytest.mark.parametrize(
    ("moment", "body"),
    [
        ("BEFORE", "NEW.directory_exists = TRUE; RETURN NEW;"),
        ("BEFORE", "RETURN NULL;"),
        ("AFTER", "UPDATE data_pipeline_tasks SET directory_exists = TRUE WHERE task_id = NEW.task_id; RETURN NULL;"),
    ],
    ids=["changes it", "keeps it", "takes it back"],
)
def test_a_row_that_a_trigger_keeps_is_not_called_marked_and_others_are(
    database: Database, moment: str, body: str
) -> None:
    versions = database.versions("task_1", "task_2")
    database.execute(
        f"CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f" CREATE TRIGGER act {moment} UPDATE ON data_pipeline_tasks FOR EACH ROW"
        " WHEN (OLD.task_id = 'task_1' AND NEW.directory_exists IS FALSE) EXECUTE FUNCTION act()"
    )
    assert database.catalog().mark(versions, force=False) == Marks(frozenset({"task_2"}), frozenset())
    assert database.marked() == {"task_2"}


@pytest.mark.parametrize("command", ["SELECT", "UPDATE"])
def test_a_policy_that_hides_rows_or_changes_is_an_error(database: Database, command: str) -> None:
    """What a policy lets through is not all: the mark is refused, it does not pass over the rest."""
    url = database.add_role("SELECT, UPDATE ON data_pipeline_tasks", "SELECT ON data_pipeline_task_steps")
    versions = database.versions("task_1")
    database.execute(
        "ALTER TABLE data_pipeline_tasks ENABLE ROW LEVEL SECURITY;"
        f" CREATE POLICY partial ON data_pipeline_tasks FOR {command} USING (TRUE)"
    )
    with pytest.raises(Fault) as caught:
        database.catalog(url=url).mark(versions, force=False)
    assert (caught.value.kind, caught.value.reason) == ("permanent", "PermissionDenied")
    assert database.marked() == set()
