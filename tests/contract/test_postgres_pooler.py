"""Behind a real PgBouncer that gives every transaction another connection: nothing may live in a session."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskdeletion.domain.catalog import CommitUnknown, Marks
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import QUICK, Database, DatabaseHome, database_home, wait_until
from tests.support.pgbouncer import INSTALL, PROGRAM, pooler_to

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=INSTALL)

BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
OURS = f"{BACKENDS} AND application_name = 'task-deletion-operator'"
IDS = [f"task_{number:02}" for number in range(40)]


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh() as database:
        tasks = "INSERT INTO data_pipeline_tasks SELECT unnest(%s::text[]), 'completed', '2025-07-02 17:39:32'"
        database.execute(tasks, IDS)
        steps = "INSERT INTO data_pipeline_task_steps (task_id, status) SELECT unnest(%s::text[]), 'completed'"
        database.execute(steps, IDS)
        yield database


@pytest.fixture
def pooler(database: Database, tmp_path: Path) -> Iterator[str]:
    with pooler_to(database.url, tmp_path) as url:
        yield url


def test_every_kind_of_work_is_done_through_the_pooler(database: Database, pooler: str) -> None:
    catalog = database.catalog(url=pooler)
    assert catalog.probe() == []
    assert catalog.now().tzinfo is not None
    versions = {task_id: entry.version for task_id, entry in catalog.read(IDS).items()}
    assert versions == database.versions(*IDS)
    with database.holding(IDS[0]), catalog.claim(IDS, with_records=True) as seen:
        assert (set(seen.entries), set(seen.row_locked)) == (set(IDS[1:]), {IDS[0]})
        locked = "SELECT count(*) FROM (SELECT 1 FROM data_pipeline_tasks FOR UPDATE SKIP LOCKED) free"
        assert database.execute(locked) == [(0,)]
    assert catalog.count_records(IDS[:1]) == {IDS[0]: 2}
    marked = {task_id: versions[task_id] for task_id in IDS[:20]}
    assert catalog.mark(marked, force=False) == Marks(frozenset(marked), frozenset())
    deleted = {task_id: versions[task_id] for task_id in IDS[20:]}
    results = catalog.delete_records(deleted, force=False)
    assert {(result.outcome, result.count) for result in results.values()} == {("Deleted", 2)}
    assert database.task_ids() == database.marked() == set(IDS[:20])


def test_many_threads_share_few_connections_and_mix_up_nothing(database: Database, pooler: str) -> None:
    catalog, versions = database.catalog(url=pooler, timeouts=replace(QUICK, lock_seconds=10)), database.versions(*IDS)
    most = 0

    def work(task_id: str) -> tuple[int, frozenset[str], int]:
        nonlocal most
        own = {task_id: versions[task_id]}
        with catalog.claim(own, with_records=True) as seen:
            held = len(seen.entries)
        marks = catalog.mark(own, force=False)
        most = max(most, len(database.execute(OURS)))
        again = {task_id: catalog.read([task_id])[task_id].version}
        return held, marks.marked, catalog.delete_records(again, force=False)[task_id].count

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(work, IDS))
    assert found == [(1, frozenset({task_id}), 2) for task_id in IDS]
    assert database.task_ids() == database.step_ids() == set()
    assert 1 <= most <= 2


def test_no_statement_is_prepared_on_a_server_that_the_next_transaction_may_not_get(
    database: Database, pooler: str
) -> None:
    catalog = database.catalog(url=pooler)
    count = "SELECT count(*) FROM pg_prepared_statements"
    with psycopg.connect(pooler, prepare_threshold=None) as other:
        for task_id in IDS:  # psycopg prepares what it has seen five times
            assert set(catalog.read([task_id])) == {task_id}
            other.execute("BEGIN")  # takes one of the two connections, so that ours change places
            assert other.execute(count).fetchone() == (0,)
            assert set(catalog.read([task_id])) == {task_id}
            other.execute("COMMIT")


def test_what_another_client_has_set_in_the_session_does_not_count(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE SCHEMA other; CREATE TABLE other.data_pipeline_tasks (LIKE data_pipeline_tasks)")
    database.execute("CREATE TABLE other.data_pipeline_task_steps (LIKE data_pipeline_task_steps)")
    database.execute("INSERT INTO other.data_pipeline_tasks SELECT * FROM data_pipeline_tasks")
    database.execute("UPDATE data_pipeline_tasks SET updated_at = '2025-07-03 00:00:00'")
    versions = database.versions(*IDS)
    with pooler_to(database.url, tmp_path, pool_size=1) as url:
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
            other.execute(
                "SET search_path = other; SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'; SET lock_timeout = 1;"
                " SET default_transaction_isolation = 'serializable'"
            )
        catalog = database.catalog(url=url)
        assert {task_id: entry.version for task_id, entry in catalog.read(IDS).items()} == versions
        assert catalog.mark({IDS[0]: versions[IDS[0]]}, force=False).marked == {IDS[0]}
        assert catalog.delete_records({IDS[1]: versions[IDS[1]]}, force=False)[IDS[1]].count == 2
    assert database.marked() == {IDS[0]}
    assert database.task_ids() == set(IDS) - {IDS[1]}
    assert database.execute("SELECT count(*) FROM other.data_pipeline_tasks") == [(len(IDS),)]


def test_our_limits_do_not_stay_in_the_session_of_others(database: Database, tmp_path: Path) -> None:
    with pooler_to(database.url, tmp_path, pool_size=1) as url:
        names = ("lock_timeout", "statement_timeout", "search_path")
        show = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
        with psycopg.connect(url, autocommit=True, prepare_threshold=None) as other:
            before = other.execute(show.encode()).fetchone()
            database.catalog(url=url).mark(database.versions(IDS[0]), force=False)
            assert other.execute(show.encode()).fetchone() == before == ("0", "0", '"$user", public')


def test_a_pooler_without_a_free_connection_is_waited_for_by_name(database: Database, tmp_path: Path) -> None:
    with (
        pooler_to(database.url, tmp_path, pool_size=1, wait_seconds=1) as url,
        psycopg.connect(url, prepare_threshold=None) as other,
    ):
        catalog, versions = database.catalog(url=url), database.versions(IDS[0])
        other.execute("SELECT 1")
        with pytest.raises(Fault) as caught:
            catalog.read(IDS)
        result = catalog.delete_records(versions, force=False)[IDS[0]]
        other.rollback()
        assert catalog.mark(versions, force=False).marked == {IDS[0]}
    assert (caught.value.kind, caught.value.reason) == ("waiting", "Unavailable")
    assert (result.outcome, result.reason, result.kind) == ("Failed", "Unavailable", "waiting")


def test_a_claim_whose_connection_behind_the_pooler_ends_is_not_confirmed(database: Database, pooler: str) -> None:
    catalog = database.catalog(url=pooler)
    with pytest.raises(CommitUnknown) as caught, catalog.claim([IDS[0]], with_records=False):
        database.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({BACKENDS}) behind")
    assert (caught.value.fault.kind, caught.value.fault.reason) == ("retriable", "Unavailable")
    assert set(catalog.read([IDS[0]])) == {IDS[0]}


def test_the_pooler_may_restart_between_two_calls(database: Database, tmp_path: Path) -> None:
    with pooler_to(database.url, tmp_path) as url:
        catalog = database.catalog(url=url)
        assert len(catalog.read(IDS)) == len(IDS)
    with pytest.raises(Fault) as caught:
        catalog.read(IDS)
    assert (caught.value.kind, caught.value.reason) == ("waiting", "Unavailable")


def test_a_lock_that_somebody_takes_through_the_same_pooler_postpones_its_task_only(
    database: Database, pooler: str
) -> None:
    catalog, versions = database.catalog(url=pooler), database.versions(*IDS[:3])
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with psycopg.connect(pooler, prepare_threshold=None) as other:
            other.execute("SELECT 1 FROM data_pipeline_tasks WHERE task_id = %s FOR UPDATE", [IDS[1]])
            is_held.set()
            may_end.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        wait_until(is_held.is_set)
        marks = catalog.mark(versions, force=False)
        results = catalog.delete_records({IDS[1]: versions[IDS[1]]}, force=False)
    finally:
        may_end.set()
        holder.join()
    assert marks == Marks(frozenset({IDS[0], IDS[2]}), frozenset({IDS[1]}))
    assert results[IDS[1]].reason == "RowLocked"
