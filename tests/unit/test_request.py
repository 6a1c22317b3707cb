"""The cutoff of a request, in the catalog's clock, and the clock that it is computed with."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletionSpec
from taskdeletion.domain.conditions import View
from taskdeletion.domain.request import CLOCK_RESOLUTION, Request, resolve_cutoff
from taskdeletion.kube.objects import Cluster, Key, LiveObject, SpecChanged
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record

CREATED = datetime(2025, 7, 2, 12, 0, 0, tzinfo=UTC)
DATABASE_NOW = datetime(2019, 1, 1, tzinfo=UTC)  # a clock of its own
RUNNING = View("running", reasons.PROGRESSING, "tasks are being deleted")


def request(created_at: datetime = CREATED, **spec: Any) -> Request:
    parsed = TaskDeletionSpec.model_validate({"taskIds": ["task_1"], "confirm": True, **spec})
    return Request("ns", "td", "uid", created_at, parsed)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(timedelta(0), DATABASE_NOW, id="just created"),
        pytest.param(timedelta(minutes=10), DATABASE_NOW - timedelta(minutes=10), id="created ten minutes ago"),
        pytest.param(timedelta(days=400), DATABASE_NOW - timedelta(days=400), id="created long ago"),
    ],
)
def test_the_creation_is_carried_over_into_the_clock_of_the_catalog(age: timedelta, expected: datetime) -> None:
    cutoff = resolve_cutoff(request(), database_now=DATABASE_NOW, server_now=CREATED + age)

    assert cutoff == expected - CLOCK_RESOLUTION


def test_tasks_created_before_wins_whatever_the_clocks_say() -> None:
    given = request(tasksCreatedBefore="2030-01-01T02:00:00+02:00")

    cutoff = resolve_cutoff(given, database_now=DATABASE_NOW, server_now=CREATED)

    assert cutoff == datetime(2030, 1, 1, tzinfo=UTC)


def test_the_cutoff_is_never_later_than_the_true_creation() -> None:
    """The API server's times are cut to whole seconds; the clocks differ by anything; the request is of any age."""
    draw = random.Random(20250702)
    for _ in range(20_000):
        truly_created = CREATED + timedelta(microseconds=draw.randrange(1_000_000))
        truly_now = truly_created + timedelta(microseconds=draw.choice([0, 1, draw.randrange(10_000_000_000)]))
        skew = timedelta(microseconds=draw.randrange(-(10**13), 10**13))
        stated = request(truly_created.replace(microsecond=0))

        cutoff = resolve_cutoff(stated, database_now=truly_now + skew, server_now=truly_now.replace(microsecond=0))

        assert cutoff <= truly_created + skew
        assert cutoff >= truly_created + skew - 2 * CLOCK_RESOLUTION


@pytest.mark.parametrize(
    ("force", "policy", "expected"),
    [(False, "Fail", False), (True, "Fail", False), (False, "Ignore", False), (True, "Ignore", True)],
)
def test_residue_of_unknown_tasks_goes_only_with_force_and_ignore(force: bool, policy: str, expected: bool) -> None:
    assert request(force=force, notFoundPolicy=policy).cleans_unknown is expected


# --- the API server's clock, as the workflow carries it on ------------------------------------------------------------
class World:
    """An API server and a monotonic clock that go at the same pace. Answers take `latency` seconds each way."""

    def __init__(self, latency: float = 0.0) -> None:
        self.seconds = 0.0
        self.latency = latency
        self.changes: list[bool] = []

    def clock(self) -> float:
        return self.seconds

    @property
    def true_time(self) -> datetime:
        return CREATED + timedelta(seconds=self.seconds)

    def answer(self, status: Mapping[str, Any]) -> LiveObject:
        self.seconds += self.latency
        at = self.true_time.replace(microsecond=0)
        self.seconds += self.latency
        spec = {"taskIds": ["task_1"], "confirm": True}
        return LiveObject(Key("TaskDeletion", "ns", "td"), "uid", "1", 1, CREATED, False, spec, status, at)

    def write_status(self, live: LiveObject, status: Mapping[str, Any]) -> LiveObject:
        if status == live.status:
            return live
        answer = self.answer(status)
        if self.changes and self.changes.pop():
            raise SpecChanged(answer)
        return answer

    def emit(self, live: LiveObject, **_: Any) -> None:
        pass

    def record(self, pause_seconds: float = 0.0) -> Record:
        asked_at = self.clock()
        live = self.answer({})
        self.seconds += pause_seconds
        ownership = Ownership(lambda _: None)
        return Record(cast(Cluster, self), ownership, live, clock=self.clock, read_at=asked_at)


def lag_of(record: Record, world: World) -> float:
    return (world.true_time - record.now).total_seconds()


def test_time_passes_once_however_often_the_status_is_written() -> None:
    world = World()
    record = world.record()
    for _ in range(10):
        world.seconds += 600
        record.write(RUNNING)
        assert lag_of(record, world) == 0
        world.seconds += 600
        assert lag_of(record, world) == 0


def test_a_write_without_a_change_leaves_the_clock_alone() -> None:
    world = World()
    record = world.record()
    record.write(RUNNING)
    world.seconds += 600
    record.write(RUNNING)

    assert lag_of(record, world) == 0


def test_a_changed_spec_brings_the_time_of_its_read() -> None:
    world = World()
    record = world.record()
    world.changes = [True]
    world.seconds += 600
    record.write(RUNNING)
    world.seconds += 600

    assert lag_of(record, world) == 0


@pytest.mark.parametrize("latency", [0.0, 0.3, 4.0])
def test_the_clock_is_never_slow_by_more_than_the_whole_second_of_an_answer(latency: float) -> None:
    """Else a cutoff computed with it could be later than the request: a pause or slow answers must not count."""
    world = World(latency)
    record = world.record(pause_seconds=900)
    for changed in (False, True, False):
        assert lag_of(record, world) < CLOCK_RESOLUTION.total_seconds()
        world.changes = [changed]
        world.seconds += 61.7
        record.write(RUNNING)
    assert lag_of(record, world) < CLOCK_RESOLUTION.total_seconds()
