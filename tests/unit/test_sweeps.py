"""Requests of one store share a sweep of its Redis; none of them can harm, end or hang another."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import pytest

from dev.pipeline import wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisKeys
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Guard, Halt, StepResult, never_halt
from taskdeletion.executors.sweeps import SharedSweep

PATIENCE_SECONDS = 10
AWAY = Fault("waiting", reasons.UNAVAILABLE, "away")
STOPPED = Fault("waiting", reasons.INTERRUPTED, "stopped")
Behaviour = Callable[[frozenset[str], Guard, Halt], dict[str, StepResult]]


def deleted(task_id: str) -> StepResult:
    return StepResult(task_id, "Redis", "Deleted", count=1)


def delete_all(task_ids: frozenset[str], guard: Guard, halt: Halt) -> dict[str, StepResult]:
    """One batch with a key of every task: the halt is asked, then the guard, then what may go goes."""
    if (stopped := halt()) is not None:
        raise stopped
    denied = guard(sorted(task_ids))
    return {
        task_id: StepResult.failed(task_id, "Redis", denied[task_id]) if task_id in denied else deleted(task_id)
        for task_id in task_ids
    }


class FakeRedis:
    """The port of the backend. The first sweep waits inside until `go_on` is set, so that others gather behind it."""

    def __init__(self, behave: Behaviour = delete_all) -> None:
        self.sweeps: list[frozenset[str]] = []
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.behave = behave

    def sweep(self, task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt) -> dict[str, StepResult]:
        assert delete
        self.sweeps.append(frozenset(task_ids))
        if len(self.sweeps) == 1:
            self.inside.set()
            assert self.go_on.wait(PATIENCE_SECONDS)
            return {task_id: deleted(task_id) for task_id in task_ids}
        return self.behave(frozenset(task_ids), guard, halt)


class Sharing(SharedSweep):
    """Tells whether a request has joined those that wait."""

    def __init__(self, redis: FakeRedis) -> None:
        super().__init__(cast(RedisKeys, redis))

    def has_joined(self, task_id: str) -> bool:
        with self._lock:
            return any(task_id in job.task_ids for job in self._waiting)


class Scene:
    """A sweep that runs, and requests that wait behind it."""

    def __init__(self, redis: FakeRedis, pool: ThreadPoolExecutor) -> None:
        self.redis = redis
        self.shared = Sharing(redis)
        self._pool = pool
        self.first = self.start("first")
        assert redis.inside.wait(PATIENCE_SECONDS)

    def start(
        self, *task_ids: str, guard: Guard | None = None, halt: Halt = never_halt
    ) -> "Future[dict[str, StepResult]]":
        return self._pool.submit(self.shared.sweep, task_ids, guard=guard or (lambda _: {}), halt=halt)

    def join(self, *task_ids: str, **options: Any) -> "Future[dict[str, StepResult]]":
        """Start a request and return once it waits behind the sweep that runs."""
        future = self.start(*task_ids, **options)
        wait_until(lambda: self.shared.has_joined(task_ids[0]), seconds=PATIENCE_SECONDS, what="a request that waits")
        return future

    def end(self) -> None:
        self.redis.go_on.set()


def outcomes(future: "Future[dict[str, StepResult]]") -> dict[str, str]:
    return {task_id: found.reason or found.outcome for task_id, found in future.result(PATIENCE_SECONDS).items()}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as found:
        yield found


def play(pool: ThreadPoolExecutor, behave: Behaviour = delete_all) -> Scene:
    return Scene(FakeRedis(behave), pool)


def test_requests_that_wait_share_one_sweep_and_get_their_own_results(pool: ThreadPoolExecutor) -> None:
    scene = play(pool)
    waiting = [scene.join("a", "b"), scene.join("c"), scene.join("d")]
    scene.end()

    assert [outcomes(future) for future in [scene.first, *waiting]] == [
        {"first": "Deleted"},
        {"a": "Deleted", "b": "Deleted"},
        {"c": "Deleted"},
        {"d": "Deleted"},
    ]
    assert scene.redis.sweeps == [{"first"}, {"a", "b", "c", "d"}]


def test_who_comes_later_gets_a_sweep_that_began_after_it(pool: ThreadPoolExecutor) -> None:
    scene = play(pool)
    scene.end()
    scene.first.result(PATIENCE_SECONDS)

    assert outcomes(scene.start("late")) == {"late": "Deleted"}
    assert scene.redis.sweeps == [{"first"}, {"late"}]


def test_each_guard_is_asked_about_its_own_tasks_only(pool: ThreadPoolExecutor) -> None:
    asked: dict[str, list[set[str]]] = {"one": [], "two": []}

    def ask(name: str) -> Guard:
        def guard(task_ids: Collection[str]) -> Mapping[str, Fault]:
            asked[name].append(set(task_ids))
            return {"b": AWAY} if "b" in task_ids else {}

        return guard

    scene = play(pool)
    one, two = scene.join("a", "b", guard=ask("one")), scene.join("c", guard=ask("two"))
    scene.end()

    assert outcomes(one) == {"a": "Deleted", "b": reasons.UNAVAILABLE}
    assert outcomes(two) == {"c": "Deleted"}
    assert asked == {"one": [{"a", "b"}], "two": [{"c"}]}


def test_a_guard_is_not_asked_about_a_batch_without_its_tasks(pool: ThreadPoolExecutor) -> None:
    def never(task_ids: Collection[str]) -> Mapping[str, Fault]:
        raise AssertionError("asked about nothing of its own")

    def only_b(task_ids: frozenset[str], guard: Guard, halt: Halt) -> dict[str, StepResult]:
        assert guard(["b"]) == {}
        return {task_id: deleted(task_id) for task_id in task_ids}

    scene = play(pool, only_b)
    one, two = scene.join("a", guard=never), scene.join("b")
    scene.end()

    assert (outcomes(one), outcomes(two)) == ({"a": "Deleted"}, {"b": "Deleted"})


def test_the_fault_of_one_guard_touches_no_other_request(pool: ThreadPoolExecutor) -> None:
    def broken(task_ids: Collection[str]) -> Mapping[str, Fault]:
        raise AWAY

    scene = play(pool)
    one, two = scene.join("a", "b", guard=broken), scene.join("c")
    scene.end()

    assert outcomes(one) == {"a": reasons.UNAVAILABLE, "b": reasons.UNAVAILABLE}
    assert outcomes(two) == {"c": "Deleted"}


def test_a_request_that_stops_leaves_without_ending_the_sweep(pool: ThreadPoolExecutor) -> None:
    scene = play(pool)
    one, two = scene.join("a", halt=lambda: STOPPED), scene.join("b")
    scene.end()

    assert outcomes(one) == {"a": reasons.INTERRUPTED}
    assert outcomes(two) == {"b": "Deleted"}


def test_a_sweep_whose_requests_all_stop_ends(pool: ThreadPoolExecutor) -> None:
    scene = play(pool)
    one, two = scene.join("a", halt=lambda: STOPPED), scene.join("b", halt=lambda: STOPPED)
    scene.end()

    assert (outcomes(one), outcomes(two)) == ({"a": reasons.INTERRUPTED}, {"b": reasons.INTERRUPTED})


def test_a_fault_of_the_sweep_is_the_result_of_all(pool: ThreadPoolExecutor) -> None:
    def away(task_ids: frozenset[str], guard: Guard, halt: Halt) -> dict[str, StepResult]:
        raise AWAY

    scene = play(pool, away)
    one, two = scene.join("a"), scene.join("b", "c")
    scene.end()

    assert outcomes(one) == {"a": reasons.UNAVAILABLE}
    assert outcomes(two) == {"b": reasons.UNAVAILABLE, "c": reasons.UNAVAILABLE}
    assert {found.kind for found in two.result().values()} == {"waiting"}


def test_something_unexpected_is_raised_once_and_hangs_nobody(pool: ThreadPoolExecutor) -> None:
    def break_down(task_ids: frozenset[str], guard: Guard, halt: Halt) -> dict[str, StepResult]:
        raise RuntimeError("a bug")

    scene = play(pool, break_down)
    waiting = [scene.join("a"), scene.join("b"), scene.join("c")]
    scene.end()
    errors = [future.exception(PATIENCE_SECONDS) for future in waiting]
    rest = [future for future, error in zip(waiting, errors, strict=True) if error is None]

    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "NoneType", "RuntimeError"]
    assert {found.reason for future in rest for found in future.result().values()} == {reasons.INTERNAL_ERROR}
    assert {found.kind for future in rest for found in future.result().values()} == {"retriable"}
    scene.redis.behave = delete_all
    assert outcomes(scene.start("next")) == {"next": "Deleted"}


def test_a_task_without_a_result_is_no_success(pool: ThreadPoolExecutor) -> None:
    scene = play(pool, lambda task_ids, guard, halt: {})
    one = scene.join("a")
    scene.end()

    assert outcomes(one) == {"a": reasons.INTERNAL_ERROR}


def test_never_two_sweeps_at_once_and_nobody_is_left_out() -> None:
    running, most = 0, 0
    counting = threading.Lock()
    together = threading.Barrier(16)

    class Counting(FakeRedis):
        def sweep(self, task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt) -> dict[str, StepResult]:
            nonlocal running, most
            with counting:
                running += 1
                most = max(most, running)
                self.sweeps.append(frozenset(task_ids))
            try:
                return delete_all(frozenset(task_ids), guard, halt)
            finally:
                with counting:
                    running -= 1

    redis = Counting()
    shared = SharedSweep(cast(RedisKeys, redis))

    def work(name: str) -> None:
        together.wait(PATIENCE_SECONDS)
        for number in range(50):
            task_id = f"{name}_{number}"
            assert shared.sweep([task_id], guard=lambda _: {}, halt=never_halt) == {task_id: deleted(task_id)}

    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(work, f"w{number}") for number in range(16)]:
            future.result(6 * PATIENCE_SECONDS)
    assert most == 1
    assert sum(len(one) for one in redis.sweeps) == 16 * 50
