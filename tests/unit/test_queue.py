import threading
from collections import Counter
from collections.abc import Callable

import pytest

from taskdeletion.controller.queue import Depth, WorkQueue

PATIENCE_SECONDS = 10


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(lane_limit=2, clock=clock)


def take_all(queue: WorkQueue[str]) -> list[str]:
    """Take and finish whatever is due now, in order."""
    taken = []
    while len(queue):
        key = queue.get()
        assert key is not None
        taken.append(key)
        queue.done(key)
    return taken


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_keys_come_in_the_order_they_were_added_each_once(queue: WorkQueue[str]) -> None:
    for key in ("b", "a", "b", "c", "a"):
        queue.add(key)

    assert take_all(queue) == ["b", "a", "c"]


def test_a_key_added_while_it_is_worked_on_is_worked_on_once_more_afterwards(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert queue.get() == "a"
    queue.add("a")
    queue.add("a")
    queue.add("b")

    assert queue.get() == "b"  # not "a": it is in the hands of a worker
    assert queue.depth() == Depth(ready=1, delayed=0, processing=2)
    queue.done("a")
    assert queue.get() == "a"
    queue.done("a")
    queue.done("b")
    assert queue.depth() == Depth(0, 0, 0)


def test_done_without_get_is_an_error(queue: WorkQueue[str]) -> None:
    with pytest.raises(KeyError):
        queue.done("a")


def test_a_delayed_key_comes_when_it_is_due(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("late", 10)
    queue.add_after("early", 5)

    assert queue.depth() == Depth(ready=0, delayed=2, processing=0)
    clock.now += 4.9
    assert take_all(queue) == []
    clock.now += 0.2
    assert take_all(queue) == ["early"]
    clock.now += 5
    assert take_all(queue) == ["late"]
    assert queue.depth() == Depth(0, 0, 0)


@pytest.mark.parametrize("delays", [(5, 10), (10, 5)], ids=["early first", "late first"])
def test_of_several_delays_the_earliest_counts(queue: WorkQueue[str], clock: Clock, delays: tuple[float, ...]) -> None:
    for delay_seconds in delays:
        queue.add_after("a", delay_seconds)

    clock.now += 5
    assert take_all(queue) == ["a"]
    clock.now += 5
    assert take_all(queue) == []


def test_an_add_now_supersedes_the_delay(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    queue.add("a")

    assert take_all(queue) == ["a"]
    clock.now += 10
    assert take_all(queue) == []


def test_a_key_became_due_when_it_was_added_for_the_last_time(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    clock.now += 1
    queue.add("a")
    clock.now += 1
    assert queue.get() == "a"
    assert queue.due_at("a") == 101
    queue.add("a")
    clock.now += 1
    assert queue.due_at("a") == 101
    queue.done("a")
    assert queue.get() == "a"
    assert queue.due_at("a") == 103


def test_a_delayed_key_became_due_when_its_delay_was_seen_to_end(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    clock.now += 6
    assert queue.get() == "a"
    assert queue.due_at("a") == 106
    queue.done("a")
    with pytest.raises(KeyError):
        queue.due_at("a")


def test_the_oldest_key_waits_since_it_was_added_first_however_often_it_is_added_again(
    queue: WorkQueue[str], clock: Clock
) -> None:
    assert queue.oldest_seconds() == 0
    queue.add("a")
    clock.now += 5
    queue.add("b")
    queue.add("a")
    queue.add("a", lane="x")
    clock.now += 2
    assert queue.oldest_seconds() == 7

    assert queue.get() == "b"
    assert queue.oldest_seconds() == 7
    assert queue.get() == "a"
    queue.add("a")  # once more, afterwards: nobody waits for a worker before that
    clock.now += 1
    assert queue.oldest_seconds() == 0
    queue.done("a")
    clock.now += 1
    assert queue.oldest_seconds() == 1


def test_a_delayed_key_waits_for_a_worker_from_when_it_is_due(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add_after("a", 5)
    clock.now += 4
    assert queue.oldest_seconds() == 0
    clock.now += 4
    assert queue.oldest_seconds() == 0  # it is seen to be due only now
    clock.now += 3
    assert queue.oldest_seconds() == 3


@pytest.mark.parametrize("delay_seconds", [0, -1])
def test_no_delay_is_an_add(queue: WorkQueue[str], delay_seconds: float) -> None:
    queue.add_after("a", delay_seconds)

    assert take_all(queue) == ["a"]


def test_a_delay_that_ends_while_the_key_is_worked_on_gives_one_more_run(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a")
    queue.get()
    queue.add_after("a", 1)
    clock.now += 1

    assert queue.depth() == Depth(ready=1, delayed=0, processing=1)
    queue.done("a")
    assert take_all(queue) == ["a"]


def test_superseded_delays_do_not_pile_up(queue: WorkQueue[str]) -> None:
    for _ in range(10_000):
        queue.add_after("a", 600)
        queue.add("a")
        queue.get()
        queue.done("a")

    assert len(queue._delays) < 100


def test_a_full_lane_does_not_block_the_others(queue: WorkQueue[str]) -> None:
    for key in ("s1", "s2", "s3", "s4"):
        queue.add(key, lane="stuck")
    queue.add("f1", lane="free")

    assert [queue.get(), queue.get(), queue.get()] == ["s1", "s2", "f1"]
    queue.done("s2")
    assert queue.get() == "s3"


def test_the_oldest_key_of_all_lanes_with_room_comes_first(queue: WorkQueue[str]) -> None:
    queue.add("a1", lane="a")
    queue.add("b1", lane="b")
    queue.add("a2", lane="a")

    assert take_all(queue) == ["a1", "b1", "a2"]


def test_keys_without_a_lane_are_not_limited(queue: WorkQueue[str]) -> None:
    for key in ("a", "b", "c", "d"):
        queue.add(key)

    assert [queue.get() for _ in range(4)] == ["a", "b", "c", "d"]


def test_the_lane_of_a_key_is_remembered_while_it_waits_and_runs(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("s1", lane="stuck")
    queue.add("s1")
    queue.get()
    queue.add_after("s1", 1)
    queue.done("s1")
    for key in ("s2", "s3"):
        queue.add(key, lane="stuck")
        queue.get()
    clock.now += 1
    queue.add("f1")

    assert queue.depth().ready == 2
    assert queue.get() == "f1"  # the lane of s1 is full


def test_the_lane_is_forgotten_with_the_key(queue: WorkQueue[str]) -> None:
    queue.add("a", lane="x")
    take_all(queue)

    assert not queue._lanes
    assert not queue._busy
    assert not queue._ready


def test_a_waiting_key_moves_to_its_new_lane(queue: WorkQueue[str]) -> None:
    for key in ("s1", "s2", "s3"):
        queue.add(key, lane="stuck")
    queue.get()
    queue.get()
    queue.add("s3", lane="free")

    assert queue.get() == "s3"


def test_a_key_that_changes_its_lane_while_it_runs_frees_the_old_one(queue: WorkQueue[str]) -> None:
    for key in ("s1", "s2", "s3"):
        queue.add(key, lane="stuck")
    queue.get()
    queue.get()
    queue.add("s1", lane="free")
    queue.done("s1")

    assert {queue.get(), queue.get()} == {"s1", "s3"}


def test_get_blocks_until_a_key_is_added(queue: WorkQueue[str]) -> None:
    taken: list[str | None] = []
    waiting = in_thread(lambda: taken.append(queue.get()))
    queue.add("a")

    join(waiting)
    assert taken == ["a"]


def test_get_blocks_until_the_lane_has_room(queue: WorkQueue[str]) -> None:
    for key in ("s1", "s2", "s3"):
        queue.add(key, lane="stuck")
    queue.get()
    queue.get()
    taken: list[str | None] = []
    waiting = in_thread(lambda: taken.append(queue.get()))
    queue.done("s1")

    join(waiting)
    assert taken == ["s3"]


def test_get_wakes_up_by_itself_when_a_key_is_due() -> None:
    queue = WorkQueue[str](lane_limit=1)
    queue.add_after("late", 3600)
    taken: list[str | None] = []
    waiting = in_thread(lambda: taken.append(queue.get()))
    queue.add_after("a", 0.01)

    join(waiting)
    assert taken == ["a"]


def test_shut_down_releases_every_worker_and_hands_out_nothing_more(queue: WorkQueue[str]) -> None:
    taken: list[str | None] = []
    waiting = [in_thread(lambda: taken.append(queue.get())) for _ in range(3)]
    queue.shut_down()

    for thread in waiting:
        join(thread)
    assert taken == [None] * 3
    queue.add("a")
    queue.add_after("b", 1)
    assert queue.get() is None
    assert queue.depth() == Depth(0, 0, 0)


def test_shut_down_hands_out_no_key_that_waited(queue: WorkQueue[str]) -> None:
    queue.add("running")
    queue.add("waiting")
    queue.get()
    queue.shut_down()

    assert queue.get() is None
    queue.done("running")


def test_many_threads_never_share_a_key_nor_exceed_a_lane_nor_lose_a_key() -> None:
    queue = WorkQueue[tuple[str, int]](lane_limit=3)
    lanes, keys_per_lane, rounds = ("x", "y"), 20, 30
    lock, running, done = threading.Lock(), Counter[str](), Counter[tuple[str, int]]()
    at_work: set[tuple[str, int]] = set()
    problems: list[str] = []
    finished = threading.Event()

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                running[key[0]] += 1
                if key in at_work or running[key[0]] > 3:
                    problems.append(f"{key} {running}")
                at_work.add(key)
            with lock:
                running[key[0]] -= 1
                at_work.remove(key)
                done[key] += 1
                is_last = all(done[lane, n] >= rounds for lane in lanes for n in range(keys_per_lane))
            if done[key] < rounds:
                queue.add_after(key, 0 if done[key] % 2 else 0.0001)
            queue.done(key)
            if is_last:
                finished.set()

    threads = [in_thread(work) for _ in range(8)]
    for number in range(keys_per_lane):
        for lane in lanes:
            queue.add((lane, number), lane=lane)
    assert finished.wait(PATIENCE_SECONDS)
    queue.shut_down()
    for thread in threads:
        join(thread)
    assert problems == []
    assert queue.depth() == Depth(0, 0, 0)
