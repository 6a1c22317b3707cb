"""What every catalog promises of a survey: who is finished, who is left out, and what becomes of a failure.

One suite over PostgreSQL and Redis. What only one of them has is in test_postgres_survey.py and test_redis_survey.py.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, timedelta
from itertools import chain

import pytest

from bench.lines.retention import measure_growth, open_postgres, open_redis
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.domain.catalog import Catalog, FinishedTask
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import DatabaseHome, database_home
from tests.support.catalogs import CREATED, PostgresTasks, Tasks, postgres_tasks, redis_tasks

TERMINAL = ("completed", "failed")
MANY = 200_000
LIMIT_BYTES = 50_000_000


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


def survey(catalog: Catalog, *terminal: str, with_gone: bool = False) -> tuple[dict[str, FinishedTask], int]:
    """The finished tasks by id, each of which came once, and the number of tasks with files."""
    with catalog.survey(terminal or TERMINAL, with_gone=with_gone) as found:
        tasks = list(chain.from_iterable(found.pages()))
        by_id = {task.task_id: task for task in tasks}
        assert len(by_id) == len(tasks)
        return by_id, found.with_files


def test_finished_tasks_come_with_status_and_creation(tasks: Tasks) -> None:
    tasks.put("task_1")
    tasks.put("task_2", status="failed", created_at=CREATED + timedelta(microseconds=1))
    assert survey(tasks.catalog()) == (
        {
            "task_1": FinishedTask("task_1", frozenset({"completed"}), CREATED),
            "task_2": FinishedTask("task_2", frozenset({"failed"}), CREATED + timedelta(microseconds=1)),
        },
        2,
    )


@pytest.mark.parametrize("status", ["running", "pending", "COMPLETED", "complete", ""])
def test_a_task_that_goes_on_is_counted_but_not_found(tasks: Tasks, status: str) -> None:
    tasks.put("task_1")
    tasks.put("task_2", status=status)
    found, with_files = survey(tasks.catalog())
    assert (set(found), with_files) == ({"task_1"}, 2)


def test_the_statuses_that_are_asked_for_are_the_terminal_ones(tasks: Tasks) -> None:
    tasks.put("task_1")
    tasks.put("task_2", status="failed")
    assert set(survey(tasks.catalog(), "failed")[0]) == {"task_2"}
    assert survey(tasks.catalog(), "else") == ({}, 2)


def test_a_task_without_a_creation_time_is_counted_but_not_found(tasks: Tasks) -> None:
    tasks.put("task_1", created_at=None)
    assert survey(tasks.catalog()) == ({}, 1)


def test_an_empty_catalog_has_nothing(tasks: Tasks) -> None:
    assert survey(tasks.catalog()) == ({}, 0)


def test_every_task_is_found_as_itself(tasks: Tasks) -> None:
    ids = ("task_1", "task_10", "task_", "TASK_1", "task-1", "task.1", "_", "-x", "0", "a" * 32)
    tasks.put(*ids)
    assert set(survey(tasks.catalog())[0]) == set(ids)


@pytest.mark.parametrize("odd", [".task", "task 1", "täsk", "task/1", "task_1\n", "*"])
def test_what_no_request_could_name_is_not_found(tasks: Tasks, odd: str) -> None:
    tasks.put(odd, "task_1")
    assert set(survey(tasks.catalog())[0]) == {"task_1"}


def test_the_clock_is_that_of_the_catalog_and_older_than_what_is_read(tasks: Tasks) -> None:
    catalog, before = tasks.catalog(), tasks.clock()
    with catalog.survey(TERMINAL, with_gone=False) as found:
        assert before <= found.now <= tasks.clock()
        assert found.now.tzinfo is UTC


def test_a_removed_task_is_not_found_again(tasks: Tasks) -> None:
    tasks.put("task_1", "task_2")
    catalog = tasks.catalog()
    assert set(survey(catalog)[0]) == {"task_1", "task_2"}
    tasks.remove("task_1")
    found, with_files = survey(catalog)
    assert (set(found), with_files) == ({"task_2"}, 1)


def test_a_survey_changes_nothing(tasks: Tasks) -> None:
    tasks.put("task_1", "task_2")
    before = tasks.content()
    survey(tasks.catalog(), with_gone=True)
    assert tasks.content() == before


def test_more_tasks_than_a_page_each_come_once(tasks: Tasks) -> None:
    tasks.fill(12_001)
    found, with_files = survey(tasks.catalog())
    assert set(found) == {f"task_{number:06}" for number in range(1, 12_002)}
    assert (with_files, found["task_012001"].created_at) == (12_001, CREATED.replace(microsecond=0) + offset(tasks))


def offset(tasks: Tasks) -> timedelta:
    """How much later than CREATED, in whole seconds, `fill` makes task 12,001."""
    microseconds = CREATED.microsecond if isinstance(tasks, PostgresTasks) else 0
    return timedelta(minutes=12_001, microseconds=microseconds)


def test_two_surveys_at_once_do_not_disturb_each_other(tasks: Tasks) -> None:
    tasks.fill(6_000)
    catalog = tasks.catalog()
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(lambda _: survey(catalog), range(3)))
    assert [(len(by_id), with_files) for by_id, with_files in found] == [(6_000, 6_000)] * 3
    assert found[0] == found[1] == found[2]


def test_a_block_that_is_left_early_leaves_the_catalog_usable(tasks: Tasks) -> None:
    tasks.fill(6_000)
    catalog = tasks.catalog()

    def leave_early() -> None:
        with catalog.survey(TERMINAL, with_gone=False) as found:
            next(iter(found.pages()))
            raise KeyError

    for _ in range(10):  # more often than there are connections
        with pytest.raises(KeyError):
            leave_early()
    assert len(survey(catalog)[0]) == 6_000


def test_a_server_that_nobody_started_is_waited_for(tasks: Tasks) -> None:
    with pytest.raises(Fault) as caught:
        survey(tasks.catalog(tasks.unreachable()))
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.UNAVAILABLE)


def test_a_wrong_password_is_named(tasks: Tasks) -> None:
    with pytest.raises(Fault) as caught:
        survey(tasks.catalog(tasks.with_password("wrong")))
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.AUTHENTICATION_FAILED)


def test_200_000_tasks_and_their_selection_take_little_memory(tasks: Tasks) -> None:
    tasks.fill(MANY)
    connect = open_postgres if isinstance(tasks, PostgresTasks) else open_redis
    grown_bytes, selected = measure_growth(connect, tasks.url)
    assert (selected.evaluated, selected.matched) == (MANY, MANY)
    assert grown_bytes <= LIMIT_BYTES
