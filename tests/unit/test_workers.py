import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from taskdeletion.controller import workers as workers_module
from taskdeletion.controller.queue import Depth, WorkQueue
from taskdeletion.controller.workers import Workers, choose_backoff

PATIENCE_SECONDS = 10


@contextmanager
def running(workers: Workers[str]) -> Iterator[None]:
    workers.start()
    try:
        yield
    finally:
        assert workers.stop(PATIENCE_SECONDS)


@pytest.fixture
def queue() -> WorkQueue[str]:
    return WorkQueue(lane_limit=2)


def wait(event: threading.Event) -> None:
    assert event.wait(PATIENCE_SECONDS)


def test_workers_work_side_by_side(queue: WorkQueue[str]) -> None:
    together = threading.Barrier(3)

    def reconcile(key: str) -> None:
        together.wait(PATIENCE_SECONDS)

    with running(Workers(queue, reconcile, count=2, name="test")):
        queue.add("a")
        queue.add("b")
        together.wait(PATIENCE_SECONDS)


def test_a_returned_delay_brings_the_key_back_and_none_does_not(queue: WorkQueue[str]) -> None:
    answers, seen, finished = iter([0.001, 0, None]), [], threading.Event()

    def reconcile(key: str) -> float | None:
        seen.append(key)
        answer = next(answers)
        if answer is None:
            finished.set()
        return answer

    with running(Workers(queue, reconcile, count=1, name="test")):
        queue.add("a")
        wait(finished)
    assert seen == ["a"] * 3
    assert queue.depth() == Depth(0, 0, 0)


def test_an_error_is_logged_and_tried_again_later_and_the_worker_lives(
    queue: WorkQueue[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[int] = []

    def backoff(number: int) -> float:
        failures.append(number)
        return 0.001

    monkeypatch.setattr(workers_module, "choose_backoff", backoff)
    outcomes, finished = iter([ValueError, ValueError, None, ValueError, None]), threading.Event()
    runs: list[str] = []

    def reconcile(key: str) -> None:
        runs.append(key)
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome("broken")
        if len(runs) == 3:
            queue.add(key)
        if len(runs) == 5:
            finished.set()

    workers = Workers(queue, reconcile, count=1, name="test")
    with running(workers):
        queue.add("a")
        wait(finished)
        assert workers.is_healthy()
    assert failures == [0, 1, 0]  # a success in between starts again from the shortest delay
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert all(record.exc_info is not None and "a failed" in record.getMessage() for record in errors)
    assert not workers._failures


def test_what_passes_by_itself_is_tried_again_later_and_no_error(
    queue: WorkQueue[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(workers_module, "choose_backoff", lambda number: 0.001)
    outcomes, finished = iter([LookupError, None]), threading.Event()

    def reconcile(key: str) -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome("somebody else wrote first")
        finished.set()

    with running(Workers(queue, reconcile, count=1, name="test", passing=(LookupError,))):
        queue.add("a")
        wait(finished)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_stop_says_when_work_is_still_going_on(queue: WorkQueue[str]) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def reconcile(key: str) -> None:
        begun.set()
        wait(go_on)

    workers = Workers(queue, reconcile, count=2, name="test")
    workers.start()
    queue.add("a")
    wait(begun)

    assert workers.stop(0.01) is False
    go_on.set()
    assert workers.stop(PATIENCE_SECONDS) is True
    assert not workers.is_healthy()


def test_workers_are_not_healthy_before_the_start(queue: WorkQueue[str]) -> None:
    workers = Workers(queue, lambda key: None, count=1, name="test")

    assert not workers.is_healthy()
    with running(workers):
        assert workers.is_healthy()


@pytest.mark.parametrize(
    ("failures", "low", "high"),
    [(0, 0.5, 1), (1, 1, 2), (3, 4, 8), (6, 30, 60), (50, 30, 60), (100_000, 30, 60)],
)
def test_backoff_doubles_up_to_a_minute(failures: int, low: float, high: float) -> None:
    assert choose_backoff(failures, jitter=lambda a, b: a) == low
    assert choose_backoff(failures, jitter=lambda a, b: b) == high
    assert low <= choose_backoff(failures) <= high
