"""How the Redis catalog deletes state keys: compared and removed at one moment, never what changed since."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisServer, state_scripts
from taskdeletion.backends.redis.state_scripts import REMOVE
from taskdeletion.backends.redis.state_search import StateSearch
from taskdeletion.domain.catalog import Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from tests.support.catalogs import NODES, RedisTasks, key_of, redis_tasks, state
from tests.support.seams import failing, interpose

LOST = Fault("retriable", reasons.TIMEOUT, "Redis did not answer in time")
FIRST, LAST = key_of("task_1", NODES[0]), key_of("task_1", NODES[-1])
ALL = {key_of("task_1", node).encode() for node in NODES}
Act = Callable[[RedisTasks], object]


@pytest.fixture
def tasks(stack: Stack) -> Iterator[RedisTasks]:
    with redis_tasks(stack) as found:
        yield found


def removes(_: object, script: bytes, *__: object) -> bool:
    """For `RedisServer.evaluate`: the one that removes."""
    return script == REMOVE


def nth_search(number: int) -> Callable[..., bool]:
    """For `StateSearch.find`: the first one is before the keys go, the second one after it."""
    calls: list[int] = []

    def is_due(*_: object) -> bool:
        calls.append(1)
        return len(calls) == number

    return is_due


def delete(tasks: RedisTasks, versions: Mapping[str, Version], *, force: bool = False) -> StepResult:
    return tasks.catalog().delete_records(versions, force=force)["task_1"]


def summary(result: StepResult) -> tuple[str, str, int, bool]:
    return result.outcome, result.reason, result.count, result.at_least


RESTARTED = ("Failed", reasons.TASK_RESTARTED, 0, False)
ABSENT = ("Skipped", reasons.ABSENT, 0, False)
GONE = ("Deleted", "", 3, False)


# --- what goes --------------------------------------------------------------------------------------------------------
def test_the_result_says_that_state_keys_always_go(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    result = delete(tasks, tasks.versions("task_1"))
    assert (summary(result), result.kind) == (GONE, None)
    assert result.message == "state keys of the Redis catalog: they always go, last of all"


def test_keys_of_every_type_and_any_bytes_go_and_only_those(tasks: RedisTasks) -> None:
    any_bytes = bytes(range(256))
    tasks.client.set(key_of("task_1", "a"), any_bytes)
    tasks.client.set(key_of("task_1", "b"), b"")
    tasks.client.hset(key_of("task_1", "c"), mapping={any_bytes: any_bytes, b"": b"", b"status": b"completed"})
    tasks.client.rpush(key_of("task_1", "d"), "x", "y")
    tasks.client.zadd(b"task_1:node:" + any_bytes, {"x": 1})
    others = [b"task_1", b"task_1:node", b"task_1:nodes:a", b"task_10:node:a", b"task_1x:node:a", b"data:task_1:node:a"]
    for key in others:
        tasks.client.set(key, any_bytes)
    tasks.client.set(b"task_1:node:a\0", b"1")
    assert summary(delete(tasks, tasks.versions("task_1"), force=True)) == ("Deleted", "", 6, False)
    assert tasks.left() == set(others)


def test_hundreds_of_keys_and_large_values_go(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[Any, Any] = {f"field-{number}": "y" * number for number in range(2000)}
    for number in range(300):
        tasks.write(key_of("task_1", f"{number}"), state(log="x" * 100_000 if number % 10 == 0 else "x"))
    tasks.client.hset(key_of("task_1", "hash"), mapping=fields)
    tasks.put("task_2")
    versions = tasks.versions("task_1")
    interpose(
        monkeypatch,
        RedisServer,
        "evaluate",
        before=lambda *_: tasks.client.hset(key_of("task_1", "hash"), "field-1999", "z"),
        when=removes,
    )
    assert summary(delete(tasks, versions)) == RESTARTED
    assert tasks.records() == {"task_1": 301, "task_2": 3}
    assert summary(delete(tasks, tasks.versions("task_1"), force=True)) == ("Deleted", "", 301, False)
    assert tasks.records() == {"task_2": 3}


def test_a_time_to_live_that_is_renewed_keeps_nothing(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    tasks.client.expire(FIRST, 1000)
    assert summary(delete(tasks, versions)) == GONE


# --- a worker that comes between the comparison and the removal -------------------------------------------------------
def rewrite(tasks: RedisTasks) -> None:
    tasks.write(LAST, state("running"))


def append(tasks: RedisTasks) -> None:
    tasks.client.append(FIRST, b" ")


def turn_into_a_hash(tasks: RedisTasks) -> None:
    tasks.client.delete(FIRST)
    tasks.client.hset(FIRST, "status", "completed")


def begin_anew(tasks: RedisTasks) -> None:
    tasks.client.delete(LAST)
    tasks.write(key_of("task_1", "new"), state("running"))


def expire_in_part(tasks: RedisTasks) -> None:
    tasks.client.delete(FIRST)


@pytest.mark.parametrize("force", [False, True], ids=["as-asked", "forced"])
@pytest.mark.parametrize("act", [rewrite, append, turn_into_a_hash, begin_anew, expire_in_part])
def test_a_change_after_the_comparison_keeps_every_key_even_with_force(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch, act: Act, *, force: bool
) -> None:
    tasks.put("task_1", "task_2")
    versions = tasks.versions("task_1", "task_2")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: act(tasks), when=removes)
    results = tasks.catalog().delete_records(versions, force=force)
    assert (summary(results["task_1"]), results["task_1"].kind) == (RESTARTED, "permanent")
    assert summary(results["task_2"]) == GONE
    expected = ALL - {FIRST.encode()} if act is expire_in_part else ALL
    if act is begin_anew:
        expected = ALL - {LAST.encode()} | {b"task_1:node:new"}
    assert tasks.left() == expected


@pytest.mark.parametrize(
    ("before", "act"),
    [
        (lambda client, key: client.hset(key, mapping={"a": 1, "b": 2}), lambda client, key: client.hset(key, "c", 3)),
        (lambda client, key: client.hset(key, mapping={"a": 1, "b": 2}), lambda client, key: client.hset(key, "b", 3)),
        (lambda client, key: client.hset(key, mapping={"a": 1, "b": 2}), lambda client, key: client.hdel(key, "b")),
        (
            lambda client, key: client.hset(key, mapping={"a": 1, "b": 2}),
            lambda client, key: (client.hdel(key, "b"), client.hset(key, "c", 2)),
        ),
        (
            lambda client, key: client.hset(key, "status", "completed"),
            lambda client, key: (client.delete(key), client.set(key, "status")),
        ),
        (lambda client, key: client.rpush(key, "x", "y"), lambda client, key: client.rpush(key, "z")),
        (lambda client, key: client.sadd(key, "x"), lambda client, key: client.sadd(key, "y")),
    ],
    ids=["a field more", "another value", "a field fewer", "another field", "another type", "a list", "a set"],
)
def test_a_change_within_a_key_of_any_type_keeps_it(
    tasks: RedisTasks,
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[Any, str], object],
    act: Callable[[Any, str], object],
) -> None:
    before(tasks.client, FIRST)
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: act(tasks.client, FIRST), when=removes)
    assert summary(delete(tasks, versions)) == RESTARTED
    assert tasks.left() == {FIRST.encode()}


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_key_that_appears_around_the_removal_stays_and_the_count_says_what_went(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    acts: dict[str, Any] = {moment: lambda *_: tasks.write(key_of("task_1", "new"), state("running"))}
    interpose(monkeypatch, RedisServer, "evaluate", when=removes, **acts)
    result = delete(tasks, versions)
    assert (summary(result), result.kind) == (("Failed", reasons.TASK_RESTARTED, 3, False), "permanent")
    assert "restarted" in result.message
    assert tasks.left() == {b"task_1:node:new"}


def test_keys_that_expire_between_comparison_and_removal_are_absent(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: tasks.remove("task_1"), when=removes)
    assert summary(delete(tasks, versions)) == ABSENT


def test_keys_that_expire_between_search_and_comparison_are_absent(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, StateSearch, "find", after=lambda *_: tasks.remove("task_1"))
    assert summary(delete(tasks, versions)) == ABSENT


def test_a_key_that_is_written_again_as_it_was_goes(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: tasks.put("task_1"), when=removes)
    assert summary(delete(tasks, versions)) == GONE


def test_with_force_values_may_have_changed_before_the_comparison(tasks: RedisTasks) -> None:
    tasks.put("task_1", status="running")
    versions = tasks.versions("task_1")
    tasks.write(key_of("task_1", "new"), state("running"))
    assert summary(delete(tasks, versions, force=True)) == ("Deleted", "", 4, False)


# --- replies that do not come -----------------------------------------------------------------------------------------
def test_a_lost_reply_is_looked_into(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", after=failing(LOST), when=removes)
    assert summary(delete(tasks, versions)) == ("Deleted", "", 3, True)


def test_a_lost_reply_and_a_new_run_are_told_apart_by_the_next_attempt(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")

    def begin_and_lose(*_: object) -> None:
        tasks.write(key_of("task_1", "new"), state("running"))
        raise LOST

    interpose(monkeypatch, RedisServer, "evaluate", after=begin_and_lose, when=removes)
    assert summary(delete(tasks, versions)) == ("Failed", reasons.TIMEOUT, 3, True)
    assert summary(delete(tasks, versions)) == RESTARTED
    assert tasks.left() == {b"task_1:node:new"}


def test_a_request_that_never_arrived_is_a_failure_that_is_tried_again(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=failing(LOST), when=removes)
    result = delete(tasks, versions)
    assert (summary(result), result.kind) == (("Failed", reasons.TIMEOUT, 0, True), "retriable")
    assert tasks.left() == ALL
    assert summary(delete(tasks, versions)) == GONE


def test_a_server_that_is_too_slow_to_answer_loses_nothing_that_nobody_compared(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    catalog, versions = tasks.catalog_of(timeout_seconds=0.5), tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: pause_writes(tasks), when=removes)
    try:
        result = catalog.delete_records(versions, force=False)["task_1"]
    finally:
        tasks.client.client_unpause()
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.TIMEOUT, "retriable")
    again = catalog.delete_records(versions, force=False)["task_1"]
    assert again.reason in ("", reasons.ABSENT)
    assert tasks.left() == set()


def pause_writes(tasks: RedisTasks) -> None:
    tasks.client.client_pause(20_000, all=False)


def test_what_comes_after_a_lost_reply_is_not_attempted(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1", "task_2", "task_3")
    versions = tasks.versions("task_1", "task_2", "task_3")
    monkeypatch.setattr(state_scripts, "BATCH_KEYS", 3)
    interpose(monkeypatch, RedisServer, "evaluate", after=failing(LOST), when=removes)
    results = tasks.catalog().delete_records(versions, force=False)
    assert summary(results["task_1"]) == ("Deleted", "", 3, True)
    failed = ("Failed", reasons.TIMEOUT, 0, False)
    assert (summary(results["task_2"]), summary(results["task_3"])) == (failed, failed)
    assert tasks.records() == {"task_2": 3, "task_3": 3}


def test_a_last_look_that_fails_leaves_the_end_to_the_next_attempt(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, StateSearch, "find", before=failing(LOST), when=nth_search(2))
    result = delete(tasks, versions)
    assert (summary(result), result.kind) == (("Failed", reasons.TIMEOUT, 3, False), "retriable")
    assert summary(delete(tasks, versions)) == ABSENT


def test_a_first_search_that_fails_touches_nothing(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1", "task_2")
    versions = tasks.versions("task_1", "task_2")
    interpose(monkeypatch, StateSearch, "find", before=failing(LOST))
    results = tasks.catalog().delete_records(versions, force=False)
    assert {summary(result) for result in results.values()} == {("Failed", reasons.TIMEOUT, 0, False)}
    assert tasks.records() == {"task_1": 3, "task_2": 3}


def test_a_script_that_the_server_forgot_is_sent_again(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1")
    versions = tasks.versions("task_1")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: tasks.client.script_flush(), when=removes)
    assert summary(delete(tasks, versions)) == GONE
    assert tasks.left() == set()
