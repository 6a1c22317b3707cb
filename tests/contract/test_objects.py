"""The objects backend against two real S3 servers: what goes, what stays, and when it stops."""

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.objects import BATCH_SIZE, MAX_PASSES
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt
from tests.support.s3 import BODY, Guard, Store, purge, summary

pytest_plugins = ("tests.support.s3_fixtures",)


def test_all_objects_of_a_task_go_and_the_neighbours_stay(store: Store) -> None:
    neighbours = [
        "tasks/task_1",
        "tasks/task_1.x/a",
        "tasks/task_10/a",
        "tasks/task_1x",
        "task_1/a",
        "x/tasks/task_1/a",
    ]
    store.fill("tasks/task_1/a", "tasks/task_1/b/c/d", "tasks/task_1/d/e", *neighbours[1:])
    assert summary(purge(store.open())) == ("Deleted", "", 3, 3 * len(BODY))
    assert store.left() == sorted(neighbours[1:])


def test_a_second_purge_finds_nothing_and_says_absent(store: Store) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open()
    assert backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))
    assert not backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Skipped", reasons.ABSENT, 0, 0)


def test_all_prefixes_of_a_task_count_each_object_once(store: Store) -> None:
    store.fill("task_1/a", "task_1/logs/b", "logs/task_1/c", "logs/task_2/c")
    backend = store.open(["{taskId}/", "{taskId}/logs/", "logs/{taskId}/"])
    assert summary(purge(backend, delete=False))[2] == 3
    assert summary(purge(backend))[2] == 3
    assert store.left() == ["logs/task_2/c"]


def test_ten_thousand_objects_are_counted_exactly_dry_and_deleted(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(10_000)), "tasks/task_10/a")
    backend = store.open()
    assert summary(purge(backend, delete=False)) == ("WouldDelete", "", 10_000, 10_000 * len(BODY))
    assert summary(purge(backend)) == ("Deleted", "", 10_000, 10_000 * len(BODY))
    assert store.left() == ["tasks/task_10/a"]


def test_a_guard_that_refuses_mid_way_keeps_the_rest(store: Store) -> None:
    total = 4 * BATCH_SIZE
    store.fill_many(*(f"tasks/task_1/{number:05}" for number in range(total)))
    result = purge(store.open(threads=1), guard=Guard(refuse_after=1))
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.TASK_RESTARTED, "permanent")
    assert (result.count, result.bytes) == (BATCH_SIZE, BATCH_SIZE * len(BODY))
    assert len(store.left()) == total - BATCH_SIZE
    assert not result.at_least


def test_a_guard_that_refuses_at_once_keeps_everything(store: Store) -> None:
    store.fill("tasks/task_1/a")
    store.client._create_multipart_upload(store.bucket, "tasks/task_1/big", {})
    result = purge(store.open(), guard=Guard(refuse_after=0))
    assert summary(result) == ("Failed", reasons.TASK_RESTARTED, 0, 0)
    assert store.left() == ["tasks/task_1/a"]
    assert store.uploads() == ["tasks/task_1/big"]


def test_the_guard_is_asked_before_every_batch(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(2 * BATCH_SIZE + 1)))
    guard = Guard()
    purge(store.open(), guard=guard)
    assert guard.questions == [["task_1"]] * 3


def test_stores_that_share_slots_send_no_more_batches_at_once(on_minio: Store) -> None:
    on_minio.fill_many(*(f"tasks/task_{task}/{number:05}" for task in (1, 2) for number in range(4 * BATCH_SIZE)))
    slots, lock, asked, most = threading.BoundedSemaphore(2), threading.Lock(), 0, 0
    a_third = threading.Event()

    def guard(task_ids: Collection[str]) -> dict[str, Fault]:
        nonlocal asked, most
        with lock:
            asked += 1
            most = max(most, asked)
            if asked > 2:
                a_third.set()
        a_third.wait(0.5)  # it never comes; were there no slots, it would be on its way by now
        with lock:
            asked -= 1
        return {}

    stores = [on_minio.open(threads=4, slots=slots), on_minio.open(threads=4, slots=slots)]
    with ThreadPoolExecutor(2) as pool:
        tasks = zip(("task_1", "task_2"), stores, strict=True)
        results = list(pool.map(lambda one: one[1].purge(one[0], delete=True, guard=guard, halt=never_halt), tasks))
    assert [result.count for result in results] == [4 * BATCH_SIZE] * 2
    assert most == 2


def test_a_guard_that_cannot_tell_stops_the_purge(store: Store) -> None:
    store.fill("tasks/task_1/a")
    guard = Guard(fault=Fault("waiting", reasons.UNAVAILABLE, "the catalog is away"))
    result = purge(store.open(), guard=guard)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    assert store.left() == ["tasks/task_1/a"]


def test_a_guard_that_breaks_is_not_taken_for_a_failure_of_the_store(store: Store) -> None:
    store.fill("tasks/task_1/a")

    def explode(_: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        purge(store.open(), guard=Guard(act=explode))
    assert store.left() == ["tasks/task_1/a"]


def test_a_halt_stops_between_batches_and_keeps_the_counts(store: Store) -> None:
    total = 6 * BATCH_SIZE
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(total)))
    guard = Guard()
    halted = Fault("retriable", reasons.INTERRUPTED, "the operator is shutting down")
    result = purge(store.open(threads=1), guard=guard, halt=lambda: halted if guard.questions else None)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.INTERRUPTED, "retriable")
    assert 0 < result.count < total
    assert len(store.left()) == total - result.count


def test_objects_written_during_the_purge_go_too(store: Store) -> None:
    store.fill("tasks/task_1/a")
    guard = Guard(act=lambda question: store.fill("tasks/task_1/late") if question == 1 else None)
    assert summary(purge(store.open(), guard=guard)) == ("Deleted", "", 2, 2 * len(BODY))
    assert store.left() == []


def test_a_task_that_never_stops_writing_is_reported(store: Store) -> None:
    store.fill("tasks/task_1/0")
    guard = Guard(act=lambda question: store.fill(f"tasks/task_1/{question}"))
    result = purge(store.open(), guard=guard)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.STILL_WRITTEN, "retriable")
    assert result.count == MAX_PASSES


def test_several_tasks_are_purged_side_by_side(store: Store) -> None:
    store.fill_many(*(f"tasks/t{task}/{number}" for task in range(4) for number in range(50 + task)))
    backend = store.open(threads=2)
    counts = {}

    def work(task_id: str) -> None:
        counts[task_id] = purge(backend, task_id).count

    threads = [threading.Thread(target=work, args=(f"t{task}",)) for task in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {f"t{task}": 50 + task for task in range(4)}
    assert store.left() == []


@pytest.mark.parametrize("task_id", ["*", "", "..", "task_1/../task_2", "task_"])
def test_what_is_no_task_id_or_no_task_deletes_nothing(store: Store, task_id: str) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open()
    if task_id == "task_":
        assert purge(backend, task_id).outcome == "Skipped"
    else:
        with pytest.raises(ValueError, match="not a task id"):
            purge(backend, task_id)
    assert store.left() == ["tasks/task_1/a"]
