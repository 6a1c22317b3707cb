"""What every catalog promises, whatever keeps the tasks: one suite over PostgreSQL and Redis.

What only one of them has is in the files of its own: test_postgres_*.py, test_redis_catalog.py.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from itertools import chain

import pytest

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.domain.catalog import Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from tests.contract.test_postgres_database import DatabaseHome, database_home
from tests.support.catalogs import CREATED, RECORDS, Tasks, postgres_tasks, redis_tasks

#: None of them is task_1, whatever a pattern, a collation or an expression takes for the same.
NEIGHBOURS = ("task_10", "task_", "task", "TASK_1", "taskx1", "task-1", "task.1", "task_1.x", "xtask_1", "task_1_")
THREADS = 8

Change = Callable[[Tasks, str], None]


@pytest.fixture(scope="module")
def home(stack: Stack) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture(params=["postgres", "redis"])
def tasks(request: pytest.FixtureRequest, stack: Stack) -> Iterator[Tasks]:
    with _postgres(request) if request.param == "postgres" else redis_tasks(stack) as found:
        yield found


@contextmanager
def _postgres(request: pytest.FixtureRequest) -> Iterator[Tasks]:
    with request.getfixturevalue("home").fresh() as database, postgres_tasks(database) as found:
        yield found


def change(tasks: Tasks, task_id: str) -> None:
    """A field changes, and nothing else."""
    tasks.change(task_id)


def restart(tasks: Tasks, task_id: str) -> None:
    """A second run that keeps the creation time."""
    tasks.restart(task_id, renews_created_at=False)


def create_anew(tasks: Tasks, task_id: str) -> None:
    """A second run with a creation time of its own."""
    tasks.restart(task_id, renews_created_at=True)


CHANGES = [pytest.param(each, id=each.__name__) for each in (change, restart, create_anew)]


def summary(result: StepResult) -> tuple[str, str, str | None, int]:
    return result.outcome, result.reason, result.kind, result.count


RESTARTED = ("Failed", reasons.TASK_RESTARTED, "permanent", 0)
DELETED = ("Deleted", "", None, RECORDS)


# --- read -------------------------------------------------------------------------------------------------------------
def test_a_finished_task_is_an_entry_with_its_status_and_creation(tasks: Tasks) -> None:
    tasks.put("task_1")
    (entry,) = tasks.catalog().read(["task_1"]).values()
    assert (entry.task_id, entry.status, entry.created_at, entry.activity) == ("task_1", "completed", CREATED, "")
    assert entry.version.created == "2025-07-02T17:39:32.500000+00:00"


def test_a_running_task_is_an_entry_that_says_so(tasks: Tasks) -> None:
    tasks.put("task_1", status="running")
    assert tasks.catalog().read(["task_1"])["task_1"].status == "running"


def test_a_task_without_a_creation_time_is_an_entry_without_one(tasks: Tasks) -> None:
    tasks.put("task_1", created_at=None)
    (entry,) = tasks.catalog().read(["task_1"]).values()
    assert (entry.created_at, entry.version.created, entry.status) == (None, "", "completed")


def test_ids_that_are_not_in_the_catalog_are_left_out(tasks: Tasks) -> None:
    tasks.put("task_1")
    assert set(tasks.catalog().read(["task_1", *NEIGHBOURS, "a" * 128])) == {"task_1"}
    assert tasks.catalog().read(NEIGHBOURS) == {}
    assert tasks.catalog().read([]) == {}


def test_every_task_is_read_as_itself_and_not_as_its_neighbour(tasks: Tasks) -> None:
    tasks.put(*NEIGHBOURS)
    tasks.put("task_1", status="failed")
    entries = tasks.catalog().read(["task_1", *NEIGHBOURS])
    assert {entry.task_id for entry in entries.values()} == {"task_1", *NEIGHBOURS}
    assert [task_id for task_id, entry in entries.items() if entry.status == "failed"] == ["task_1"]


def test_a_task_that_somebody_removed_is_left_out(tasks: Tasks) -> None:
    tasks.put("task_1")
    catalog = tasks.catalog()
    assert set(catalog.read(["task_1"])) == {"task_1"}
    tasks.remove("task_1")
    assert catalog.read(["task_1"]) == {}


# --- versions ---------------------------------------------------------------------------------------------------------
def test_a_version_stays_while_nothing_changes_and_is_the_same_for_everybody(tasks: Tasks) -> None:
    tasks.put("task_1")
    catalog = tasks.catalog()
    first, second = (catalog.read(["task_1", "task_2"])["task_1"].version for _ in range(2))
    assert first == second == tasks.versions("task_1")["task_1"]
    assert Version.parse(str(first)) == first
    assert len(str(first)) < 256


def test_a_version_is_of_the_task_and_not_of_its_neighbour(tasks: Tasks) -> None:
    tasks.put("task_1", "task_10")
    before = tasks.versions("task_1")
    tasks.change("task_10")
    assert tasks.versions("task_1") == before


@pytest.mark.parametrize("act", CHANGES)
def test_a_version_differs_after_any_change_and_with_force_after_a_new_creation_only(tasks: Tasks, act: Change) -> None:
    tasks.put("task_1")
    before = tasks.versions("task_1")["task_1"]
    act(tasks, "task_1")
    after = tasks.versions("task_1")["task_1"]
    assert not before.matches(after, force=False)
    assert before.matches(after, force=True) == (act is not create_anew)


# --- claim ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("with_records", [False, True])
@pytest.mark.parametrize("lock", [False, True], ids=["dry-run", "for-good"])
def test_a_claim_sees_what_a_read_sees_and_changes_nothing(tasks: Tasks, *, lock: bool, with_records: bool) -> None:
    tasks.put("task_1")
    tasks.put("task_2", status="running")
    before, catalog = tasks.content(), tasks.catalog()
    with catalog.claim(["task_1", "task_2", "task_3"], with_records=with_records, lock=lock) as seen:
        assert seen.entries == catalog.read(["task_1", "task_2", "task_3"])
        assert set(seen.entries) == {"task_1", "task_2"}
        assert not seen.row_locked
        assert not seen.foreign_references
    assert tasks.content() == before


def test_a_claim_takes_fifty_tasks_and_no_more(tasks: Tasks) -> None:
    tasks.put("task_1")
    fifty = [f"task_{number}" for number in range(50)]
    catalog = tasks.catalog()
    with catalog.claim(fifty * 2, with_records=False) as seen:
        assert set(seen.entries) == {"task_1"}
    with pytest.raises(ValueError, match="at most 50 tasks, not 51"), catalog.claim([*fifty, "x"], with_records=False):
        pytest.fail("51 tasks were claimed")


def test_an_exception_in_a_claim_goes_on_and_the_next_claim_is_as_good(tasks: Tasks) -> None:
    tasks.put("task_1")
    catalog = tasks.catalog()
    with pytest.raises(KeyError), catalog.claim(["task_1"], with_records=True):
        raise KeyError
    with catalog.claim(["task_1"], with_records=True) as seen:
        assert set(seen.entries) == {"task_1"}


# --- records ----------------------------------------------------------------------------------------------------------
def test_the_records_of_the_named_tasks_go_and_no_others(tasks: Tasks) -> None:
    tasks.put("task_1", "task_2", *NEIGHBOURS)
    results = tasks.catalog().delete_records(tasks.versions("task_1", "task_2"), force=False)
    assert {task_id: summary(result) for task_id, result in results.items()} == {"task_1": DELETED, "task_2": DELETED}
    assert {(result.resource, result.at_least) for result in results.values()} == {("DatabaseRecords", False)}
    assert tasks.records() == dict.fromkeys(NEIGHBOURS, RECORDS)


def test_records_that_are_gone_already_are_absent(tasks: Tasks) -> None:
    tasks.put("task_1")
    versions, catalog = tasks.versions("task_1"), tasks.catalog()
    assert summary(catalog.delete_records(versions, force=False)["task_1"]) == DELETED
    again = catalog.delete_records(versions, force=False)["task_1"]
    assert summary(again) == ("Skipped", reasons.ABSENT, None, 0)


@pytest.mark.parametrize("act", CHANGES)
def test_a_task_that_changed_keeps_its_records_and_the_others_lose_theirs(tasks: Tasks, act: Change) -> None:
    tasks.put("task_1", "task_2", "task_3")
    versions = tasks.versions("task_1", "task_2", "task_3")
    act(tasks, "task_2")
    results = tasks.catalog().delete_records(versions, force=False)
    assert summary(results["task_2"]) == RESTARTED
    assert (summary(results["task_1"]), summary(results["task_3"])) == (DELETED, DELETED)
    assert tasks.records() == {"task_2": RECORDS}


@pytest.mark.parametrize("act", CHANGES)
def test_with_force_a_task_keeps_its_records_only_where_it_was_created_anew(tasks: Tasks, act: Change) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    act(tasks, "task_1")
    (result,) = tasks.catalog().delete_records(versions, force=True).values()
    assert summary(result) == (RESTARTED if act is create_anew else DELETED)
    assert tasks.records() == ({"task_1": RECORDS} if act is create_anew else {})


def test_hundreds_of_tasks_go_in_one_call(tasks: Tasks) -> None:
    ids = [f"many_{number:03}" for number in range(230)]
    tasks.put(*ids, "other")
    results = tasks.catalog().delete_records(tasks.versions(*ids), force=False)
    assert {summary(result) for result in results.values()} == {DELETED}
    assert (sorted(results), tasks.records()) == (ids, {"other": RECORDS})


def test_nothing_to_delete_is_no_work(tasks: Tasks) -> None:
    assert tasks.catalog(tasks.unreachable()).delete_records({}, force=False) == {}


def test_records_are_counted_without_a_change(tasks: Tasks) -> None:
    tasks.put("task_1", "task_2", *NEIGHBOURS)
    before = tasks.content()
    assert tasks.catalog().count_records(["task_1", "task_2", "absent"]) == {"task_1": RECORDS, "task_2": RECORDS}
    assert tasks.content() == before


# --- the server -------------------------------------------------------------------------------------------------------
def test_now_is_the_clock_of_the_server(tasks: Tasks) -> None:
    catalog = tasks.catalog()
    before, now, after = tasks.clock(), catalog.now(), tasks.clock()
    assert before <= now <= after
    assert (now.tzinfo, now.utcoffset()) == (UTC, timedelta())


def test_a_probe_of_a_good_server_finds_nothing_and_changes_nothing(tasks: Tasks) -> None:
    tasks.put("task_1")
    before = tasks.content()
    assert tasks.catalog().probe() == []
    assert tasks.content() == before


def test_a_server_that_nobody_reaches_is_told_everywhere(tasks: Tasks) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1") | {"task_2": Version("", "x")}
    assert_refused(tasks, tasks.unreachable(), reasons.UNAVAILABLE)
    results = tasks.catalog(tasks.unreachable()).delete_records(versions, force=False)
    assert {summary(result) for result in results.values()} == {("Failed", reasons.UNAVAILABLE, "waiting", 0)}
    assert (set(results), tasks.records()) == ({"task_1", "task_2"}, {"task_1": RECORDS})


def test_a_wrong_password_is_told_everywhere_and_never_repeated(tasks: Tasks) -> None:
    message = assert_refused(tasks, tasks.with_password("wr0ng-passw0rd"), reasons.AUTHENTICATION_FAILED)
    assert "wr0ng-passw0rd" not in message


def assert_refused(tasks: Tasks, url: str, reason: str) -> str:
    """Every way to the server says the same; returns what the probe says."""
    catalog = tasks.catalog(url)
    calls: list[Callable[[], object]] = [
        catalog.now,
        lambda: catalog.read(["task_1"]),
        lambda: catalog.count_records(["task_1"]),
        lambda: catalog.claim(["task_1"], with_records=False).__enter__(),
    ]
    for call in calls:
        with pytest.raises(Fault) as caught:
            call()
        assert (caught.value.kind, caught.value.reason) == ("waiting", reason)
    (problem,) = catalog.probe()
    assert problem.reason == reason
    return problem.message


# --- threads ----------------------------------------------------------------------------------------------------------
def test_threads_share_a_catalog_and_each_gets_its_own(tasks: Tasks) -> None:
    ids = [[f"task_{thread}_{number}" for number in range(3)] for thread in range(THREADS)]
    tasks.put("other", *chain(*ids))
    catalog = tasks.catalog()

    def work(mine: list[str]) -> tuple[set[str], set[str], list[tuple[str, str, str | None, int]]]:
        with catalog.claim(mine, with_records=True) as seen:
            claimed = set(seen.entries)
        versions = {task_id: entry.version for task_id, entry in catalog.read(mine).items()}
        return claimed, set(versions), list(map(summary, catalog.delete_records(versions, force=False).values()))

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(work, ids))
    assert found == [(set(mine), set(mine), [DELETED] * 3) for mine in ids]
    assert tasks.records() == {"other": RECORDS}
