"""The network is cut exactly at a COMMIT: where the server has done it, and where it never got it."""

from collections.abc import Iterator
from typing import Any

import pytest

from taskdeletion.domain.catalog import CommitUnknown, Marks
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from tests.contract.test_postgres_database import Database, DatabaseHome, Proxy, database_home, proxy_to, wait_until

CUTS = ["loses_commits", "drops_commits"]
EVERYTHING = {"task_1", "task_10", "task_2"}


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        for task_id in sorted(EVERYTHING):
            database.add_task(task_id)
        yield database


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with proxy_to(database.url) as proxy:
        yield proxy


def test_a_deletion_that_was_committed_without_a_reply_is_found_with_its_count(
    database: Database, proxy: Proxy
) -> None:
    versions = database.versions("task_1", "task_2")
    proxy.loses_commits = 1
    results = database.catalog(url=proxy.url).delete_records(versions, force=False)
    assert results == {
        task_id: StepResult(task_id, "DatabaseRecords", "Deleted", count=2, at_least=True) for task_id in versions
    }
    assert (proxy.loses_commits, database.task_ids(), database.step_ids()) == (0, {"task_10"}, {"task_10"})


def test_a_deletion_whose_commit_never_arrived_is_done_again_and_counted_exactly(
    database: Database, proxy: Proxy
) -> None:
    versions = database.versions("task_1", "task_2")
    proxy.drops_commits = 1
    results = database.catalog(url=proxy.url).delete_records(versions, force=False)
    assert results == {task_id: StepResult(task_id, "DatabaseRecords", "Deleted", count=2) for task_id in versions}
    assert (proxy.drops_commits, database.task_ids(), database.step_ids()) == (0, {"task_10"}, {"task_10"})


def test_a_deletion_that_never_arrives_is_reported_and_nothing_is_deleted(database: Database, proxy: Proxy) -> None:
    versions = database.versions("task_1", "task_2")
    proxy.drops_commits = 1000
    results = database.catalog(url=proxy.url).delete_records(versions, force=False)
    assert {(r.outcome, r.reason, r.kind, r.count) for r in results.values()} == {
        ("Failed", "Unavailable", "retriable", 0)
    }
    assert (database.task_ids(), database.step_ids()) == (EVERYTHING, EVERYTHING)


def test_what_was_absent_before_a_lost_commit_is_not_called_deleted(database: Database, proxy: Proxy) -> None:
    versions = database.versions("task_1", "task_2")
    database.execute("DELETE FROM data_pipeline_tasks WHERE task_id = 'task_1'")
    proxy.loses_commits = 1
    results = database.catalog(url=proxy.url).delete_records(versions, force=False)
    assert (results["task_1"].outcome, results["task_1"].reason) == ("Skipped", "Absent")
    assert (results["task_2"].outcome, results["task_2"].at_least) == ("Deleted", True)


@pytest.mark.parametrize("cut", CUTS)
def test_a_mark_is_there_in_the_end(database: Database, proxy: Proxy, cut: str) -> None:
    versions = database.versions("task_1", "task_2")
    setattr(proxy, cut, 1)
    marks = database.catalog(url=proxy.url).mark(versions, force=False)
    assert marks == Marks(frozenset({"task_1", "task_2"}), frozenset())
    assert (getattr(proxy, cut), database.marked()) == (0, {"task_1", "task_2"})


def test_a_mark_that_never_arrives_is_retried_later(database: Database, proxy: Proxy) -> None:
    versions = database.versions("task_1")
    proxy.drops_commits = 3
    with pytest.raises(Fault) as caught:
        database.catalog(url=proxy.url).mark(versions, force=False)
    assert (caught.value.kind, caught.value.reason) == ("retriable", "Unavailable")
    assert database.marked() == set()


@pytest.mark.parametrize("cut", CUTS)
def test_a_claim_is_not_confirmed_and_leaves_no_lock(database: Database, proxy: Proxy, cut: str) -> None:
    versions = database.versions("task_1")
    catalog = database.catalog(url=proxy.url)
    setattr(proxy, cut, 1)
    with pytest.raises(CommitUnknown) as caught, catalog.claim(["task_1"], with_records=False):
        pass
    assert (caught.value.fault.kind, caught.value.fault.reason) == ("retriable", "Unavailable")
    assert catalog.read(["task_1"])["task_1"].version == versions["task_1"]
    free = "SELECT task_id FROM data_pipeline_tasks WHERE task_id = 'task_1' FOR UPDATE SKIP LOCKED"
    wait_until(lambda: database.execute(free) == [("task_1",)])
