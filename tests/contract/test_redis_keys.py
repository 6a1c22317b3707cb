"""The Redis backend against a real Redis: what goes, what stays, and what is said when something is in the way."""

import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import cast

import pytest
import redis

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import MAX_PASSES, PAGE_SIZE, RedisConnection, RedisKeys
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern
from tests.support.redis_sweeps import Guard, assert_refused, summary, sweep

PATTERNS = ("task:{taskId}", "task:{taskId}:*")
DATABASES = count()


@dataclass
class Store:
    """One empty database of the server, and the backend on it."""

    url: str
    client: redis.Redis
    opened: list[RedisKeys] = field(default_factory=list)

    def open(self, patterns: Sequence[str] = PATTERNS, *, url: str = "", **options: float) -> RedisKeys:
        self.opened.append(RedisKeys(RedisConnection(url or self.url), patterns, **options))
        return self.opened[-1]

    def fill(self, *keys: str | bytes) -> None:
        with self.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.set(key, "x")
            pipeline.execute()

    def run(self, *command: str) -> None:
        self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated

    def left(self) -> set[bytes]:
        return set(cast("list[bytes]", self.client.keys()))


@pytest.fixture
def store(stack: Stack) -> Iterator[Store]:
    database = 1 + next(DATABASES) % 15
    client = redis.Redis(port=stack.redis.port, password=stack.redis.password, db=database)
    client.flushdb()
    store = Store(f"redis://:{stack.redis.password}@127.0.0.1:{stack.redis.port}/{database}", client)
    yield store
    for keys in store.opened:
        keys.close()
    client.close()


@pytest.fixture
def acl_user(store: Store) -> Iterator[tuple[str, str]]:
    """Name and url of a user of the server that may do nothing yet."""
    name = f"user-{secrets.token_hex(4)}"
    store.run("ACL", "SETUSER", name, "on", ">pw", "~*")
    yield name, f"redis://{name}:pw@{store.url.rpartition('@')[2]}"
    store.run("ACL", "DELUSER", name)


def test_all_keys_of_a_task_go_and_the_neighbours_stay(store: Store) -> None:
    neighbours = {
        b"task:task_10",
        b"task:task_10:a",
        b"task:task_1.x:a",
        b"task:task_1-x:a",
        b"task:task_:a",
        b"task:task_1*:a",
        b"xtask:task_1:a",
        b"task:task_1/a",
        b"Task:task_1:a",
        b"task_1:a",
    }
    store.fill(
        "task:task_1", "task:task_1:a", "task:task_1:b:c", b"task:task_1:\xff\x00\n", "task:task_1:", *neighbours
    )
    assert summary(sweep(store.open(), "task_1")) == [("Deleted", "", 5)]
    assert store.left() == neighbours


def test_a_second_sweep_finds_nothing_and_says_absent(store: Store) -> None:
    store.fill("task:task_1:a")
    keys = store.open()
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 1)]
    assert summary(sweep(keys, "task_1")) == [("Skipped", reasons.ABSENT, 0)]


def test_many_tasks_go_in_one_sweep_each_with_its_own_count(store: Store) -> None:
    store.fill(*(f"task:t{task}:{key}" for task in range(60) for key in range(task)), "task:other:a")
    results = sweep(store.open(), *(f"t{task}" for task in range(50)))
    assert [result.count for result in results] == list(range(50))
    assert len(store.left()) == sum(range(50, 60)) + 1


def test_many_tasks_cost_one_pass_over_the_keyspace(store: Store) -> None:
    store.fill(*(f"task:t{task}:a" for task in range(500)), *(f"other:{key}" for key in range(5000)))
    store.client.config_resetstat()
    sweep(store.open(), *(f"t{task}" for task in range(500)))
    calls = store.client.info("commandstats")["cmdstat_scan"]["calls"]
    assert calls <= 2 * (2 + 5500 // PAGE_SIZE)  # the pass that deletes, and the one that looks again


def test_known_keys_go_without_a_search(store: Store) -> None:
    store.fill("task:task_1", "state:{task_1}", "task:task_10", "task:task_1:a")
    store.client.config_resetstat()
    results = sweep(store.open(["task:{taskId}", "state:{{taskId}}"]), "task_1", "task_2")
    assert summary(results) == [("Deleted", "", 2), ("Skipped", reasons.ABSENT, 0)]
    assert store.left() == {b"task:task_10", b"task:task_1:a"}
    assert "cmdstat_scan" not in store.client.info("commandstats")


def test_more_keys_than_a_page_all_go(store: Store) -> None:
    store.fill(*(f"task:task_1:{key}" for key in range(3 * PAGE_SIZE + 1)), "task:task_10:a")
    assert summary(sweep(store.open(), "task_1")) == [("Deleted", "", 3 * PAGE_SIZE + 1)]
    assert store.left() == {b"task:task_10:a"}


def test_every_type_of_key_goes(store: Store) -> None:
    store.client.hset("task:task_1:hash", "a", "b")
    store.client.lpush("task:task_1:list", "a")
    store.client.xadd("task:task_1:stream", {"a": "b"})
    store.client.set("task:task_1:expiring", "a", ex=1000)
    assert summary(sweep(store.open(), "task_1")) == [("Deleted", "", 4)]


@pytest.mark.parametrize("task_ids", [["task_1"], ["task_1", "task_2"]], ids=["one task", "many tasks"])
def test_a_dry_run_counts_each_key_once_and_removes_nothing(store: Store, task_ids: list[str]) -> None:
    store.fill("task:task_1", *(f"task:task_1:{key}" for key in range(PAGE_SIZE + 10)), "task:task_10:a")
    before = store.left()
    guard = Guard()
    results = sweep(store.open([*PATTERNS, "task:{taskId}:1*"]), *task_ids, delete=False, guard=guard)
    assert summary(results)[0] == ("WouldDelete", "", PAGE_SIZE + 11)
    assert summary(results)[1:] == [("Skipped", reasons.ABSENT, 0)] * (len(task_ids) - 1)
    assert store.left() == before
    assert guard.questions == []


def test_a_dry_run_and_the_real_run_count_the_same(store: Store) -> None:
    store.fill(*(f"task:t{task}:{key}" for task in range(3) for key in range(100 * task)))
    keys = store.open()
    would = [result.count for result in sweep(keys, "t0", "t1", "t2", delete=False)]
    assert would == [result.count for result in sweep(keys, "t0", "t1", "t2")] == [0, 100, 200]


@pytest.mark.parametrize(
    "glob", ["*", "?", "[abc]", "[^a]", "[a-c]", "[c-a]", "a*c", "*a*b*", "[]", "[^]", "[ab", "]", "?*", "[a-]"]
)
@pytest.mark.parametrize("task_ids", [["t"], ["t", "u"]], ids=["one task", "many tasks"])
def test_exactly_what_redis_itself_matches_goes(store: Store, glob: str, task_ids: list[str]) -> None:
    rests = ["", "a", "b", "c", "d", "-", "]", "ab", "abc", "xaxbx", "[ab", "a\n"]
    store.fill(*(f"task:{task}:{rest}" for task in ("t", "tt") for rest in rests))
    pattern = f"task:{{taskId}}:{glob}"
    expected = set(store.client.keys(KeyPattern.parse(pattern).scan_match("t")))
    before = store.left()
    results = sweep(store.open([pattern]), *task_ids)
    assert before - store.left() == expected
    assert results[0].count == len(expected)


def test_a_task_that_the_guard_refuses_mid_way_keeps_the_rest_of_its_keys(store: Store) -> None:
    store.fill(*(f"task:task_1:{key}" for key in range(3 * PAGE_SIZE)), *(f"task:task_2:{key}" for key in range(100)))
    guard = Guard(refuse=["task_1"], after=1)
    first, second = sweep(store.open(), "task_1", "task_2", guard=guard)
    assert (first.outcome, first.reason, first.kind) == ("Failed", reasons.TASK_RESTARTED, "permanent")
    assert 0 < first.count < 3 * PAGE_SIZE
    assert summary([second]) == [("Deleted", "", 100)]
    assert len(store.left()) == 3 * PAGE_SIZE - first.count
    assert not first.at_least


def test_a_task_that_the_guard_refuses_at_once_loses_no_key(store: Store) -> None:
    store.fill("task:task_1", "task:task_1:a", "task:task_2:a")
    guard = Guard(refuse=["task_1"])
    first, second = sweep(store.open(), "task_1", "task_2", guard=guard)
    assert summary([first, second]) == [("Failed", reasons.TASK_RESTARTED, 0), ("Deleted", "", 1)]
    assert store.left() == {b"task:task_1", b"task:task_1:a"}


def test_the_guard_is_asked_about_the_tasks_of_the_batch_only(store: Store) -> None:
    store.fill("task:task_1:a", "task:task_3:a")
    guard = Guard()
    sweep(store.open(), "task_1", "task_2", "task_3", guard=guard)
    assert guard.questions == [{"task_1", "task_3"}]


def test_the_guard_is_asked_once_for_known_keys_and_those_of_the_first_page(store: Store) -> None:
    store.fill("task:task_1", "task:task_1:a", "task:task_2")
    guard = Guard()
    assert summary(sweep(store.open(PATTERNS), "task_1", "task_2", guard=guard)) == [
        ("Deleted", "", 2),
        ("Deleted", "", 1),
    ]
    assert guard.questions == [{"task_1", "task_2"}]
    assert store.left() == set()


def test_a_guard_that_cannot_tell_stops_the_sweep(store: Store) -> None:
    store.fill("task:task_1:a")
    guard = Guard(fault=Fault("waiting", reasons.UNAVAILABLE, "the catalog is away"))
    (result,) = sweep(store.open(), "task_1", guard=guard)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    assert store.left() == {b"task:task_1:a"}


def test_a_halt_stops_between_pages_and_keeps_the_counts(store: Store) -> None:
    store.fill(*(f"task:task_1:{key}" for key in range(5 * PAGE_SIZE)))
    guard = Guard()
    halted = Fault("retriable", reasons.INTERRUPTED, "the operator is shutting down")
    (result,) = sweep(
        store.open(), "task_1", "task_2", guard=guard, halt=lambda: halted if guard.questions[1:] else None
    )[:1]
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.INTERRUPTED, "retriable")
    assert result.count > 0
    assert len(store.left()) == 5 * PAGE_SIZE - result.count


def test_keys_written_during_the_sweep_go_too(store: Store) -> None:
    store.fill("task:task_1:a")
    guard = Guard(act=lambda question: store.fill("task:task_1:late") if question == 1 else None)
    assert summary(sweep(store.open(), "task_1", guard=guard)) == [("Deleted", "", 2)]
    assert store.left() == set()


def test_a_task_that_never_stops_writing_is_reported(store: Store) -> None:
    store.fill("task:task_1:0", "task:task_2:a")
    guard = Guard(act=lambda question: store.fill(f"task:task_1:{question}"))
    first, second = sweep(store.open(), "task_1", "task_2", guard=guard)
    assert summary([first]) == [("Failed", reasons.STILL_WRITTEN, MAX_PASSES)]
    assert first.kind == "retriable"
    assert summary([second]) == [("Deleted", "", 1)]


def test_find_rest_names_the_tasks_that_still_have_keys(store: Store) -> None:
    store.fill("task:task_1", "task:task_2:a", "task:task_30:a")
    assert store.open().find_rest(["task_1", "task_2", "task_3"]) == {"task_1", "task_2"}
    assert len(store.left()) == 3


def test_a_key_that_two_patterns_give_to_two_tasks_is_left_alone(store: Store) -> None:
    store.fill("task:task_1:a", "task:a", "other:task_1:a")
    keys = store.open(["{taskId}:*", "task:{taskId}:*"])
    (result,) = sweep(keys, "task_1")
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.STORE_INVALID, "permanent")
    assert b"task:task_1:a" in store.left()
    assert keys.find_rest(["task_1"]) == {"task_1"}


@pytest.mark.parametrize("task_id", ["*", "task_*", "", "task_1:*", "[a]"])
@pytest.mark.parametrize("patterns", [["task:{taskId}"], ["task:{taskId}:*"]], ids=["known key", "search"])
def test_what_is_no_task_id_deletes_nothing(store: Store, task_id: str, patterns: list[str]) -> None:
    store.fill("task:task_1", "task:task_1:a")
    with pytest.raises(ValueError, match="not a task id"):
        sweep(store.open(patterns), task_id, "task_1")
    assert len(store.left()) == 2


def test_other_databases_are_not_touched(store: Store, stack: Stack) -> None:
    marker = f"task:task_1:{secrets.token_hex(4)}"
    with redis.Redis(port=stack.redis.port, password=stack.redis.password, db=0) as other:
        other.set(marker, "x")
        store.fill(marker)
        assert summary(sweep(store.open(), "task_1")) == [("Deleted", "", 1)]
        assert other.delete(marker) == 1


def test_a_connection_that_the_server_closed_meanwhile_is_replaced(store: Store) -> None:
    store.fill("task:task_1:a")
    keys = store.open()
    assert keys.find_rest(["task_1"]) == {"task_1"}
    store.client.client_kill_filter(_type="normal", skipme=True)
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 1)]


def test_threads_share_the_backend(store: Store) -> None:
    store.fill(*(f"task:t{task}:{key}" for task in range(8) for key in range(300)))
    keys = store.open()
    counts = {}

    def work(task_id: str) -> None:
        counts[task_id] = sweep(keys, task_id)[0].count

    threads = [threading.Thread(target=work, args=(f"t{task}",)) for task in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(counts.values()) == {300}
    assert store.left() == set()


# --- in the way ---------------------------------------------------------------------------------------------------


def test_a_healthy_server_passes_the_probe_and_loses_nothing(store: Store) -> None:
    store.fill("task:task_1", "task:task_1:a")
    assert store.open().probe() is None
    assert store.left() == {b"task:task_1", b"task:task_1:a"}


def test_a_stopped_server_is_unavailable_and_works_again_once_it_is_back(store: Store, stack: Stack) -> None:
    keys = store.open()
    assert keys.probe() is None
    stack.stop_service("redis")
    try:
        result = assert_refused(keys, "waiting", reasons.UNAVAILABLE)
        assert stack.redis.password not in result.message
    finally:
        stack.start_service("redis")
    assert keys.probe() is None
    store.fill("task:task_1:a")
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 1)]


def test_a_server_that_goes_away_mid_way_leaves_counts_marked_uncertain(store: Store, stack: Stack) -> None:
    store.fill(*(f"task:task_1:{key}" for key in range(3 * PAGE_SIZE)))
    guard = Guard(act=lambda question: stack.stop_service("redis") if question == 2 else None)
    try:
        (result,) = sweep(store.open(), "task_1", guard=guard)
    finally:
        stack.start_service("redis")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "waiting", reasons.UNAVAILABLE)
    assert result.count > 0
    assert result.at_least


@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_unreachable_address_is_unavailable(store: Store, host: str) -> None:
    assert_refused(store.open(url=f"redis://{host}/0", timeout_seconds=2), "waiting", reasons.UNAVAILABLE)


def test_a_server_that_never_answers_is_a_timeout(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        keys = store.open(url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_seconds=0.2)
        (result,) = sweep(keys, "task_1")
        assert (result.kind, result.reason) == ("retriable", reasons.TIMEOUT)


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
def test_a_wrong_password_is_an_authentication_failure(store: Store, credentials: str) -> None:
    address = store.url.rpartition("@")[2]
    assert_refused(store.open(url=f"redis://{credentials}{address}"), "waiting", reasons.AUTHENTICATION_FAILED)


def test_a_database_that_is_not_there_is_named(store: Store) -> None:
    url = store.url.rpartition("/")[0] + "/9999"
    result = assert_refused(store.open(url=url), "waiting", reasons.SECRET_VALUE_INVALID)
    assert "database" in result.message


@pytest.mark.parametrize("missing", ["scan", "unlink", "select"])
def test_a_missing_permission_is_reported(store: Store, acl_user: tuple[str, str], missing: str) -> None:
    name, url = acl_user
    store.fill("task:task_1:a")
    store.run("ACL", "SETUSER", name, "+@all", f"-{missing}")
    keys = store.open(url=url)
    (result,) = sweep(keys, "task_1")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.PERMISSION_DENIED)
    problem = keys.probe()
    assert problem is not None
    assert problem.reason == reasons.PERMISSION_DENIED
    assert store.left() == {b"task:task_1:a"}


def test_the_permissions_that_the_message_names_suffice(store: Store, acl_user: tuple[str, str]) -> None:
    name, url = acl_user
    store.run(
        "ACL", "SETUSER", name, "-@all", "+ping", "+select", "+scan", "+exists", "+unlink", "resetkeys", "~task:*"
    )
    store.fill("task:task_1", "task:task_1:a")
    keys = store.open(url=url)
    assert keys.probe() is None
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 2)]


def test_one_task_without_permission_does_not_stop_the_others(store: Store, acl_user: tuple[str, str]) -> None:
    name, url = acl_user
    store.run("ACL", "SETUSER", name, "+@all", "resetkeys", "~task:task_1*")
    store.fill("task:task_1:a", "task:task_2:a")
    first, second = sweep(store.open(["task:{taskId}:*"], url=url), "task_1", "task_2")
    assert summary([first]) == [("Deleted", "", 1)]
    assert (second.outcome, second.reason, second.count) == ("Failed", reasons.PERMISSION_DENIED, 0)
    assert store.left() == {b"task:task_2:a"}


def test_tls_to_a_server_that_speaks_plainly_fails(store: Store) -> None:
    url = store.url.replace("redis://", "rediss://")
    (result,) = sweep(store.open(url=url, timeout_seconds=1), "task_1")
    assert (result.outcome, result.kind) == ("Failed", "waiting")
    assert result.reason in {reasons.TLS_FAILED, reasons.UNAVAILABLE}


@pytest.fixture
def sentinel(stack: Stack, tmp_path: Path) -> Iterator[int]:
    """The port of a sentinel: it knows servers, and holds no keys."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f'port {port}\nbind 127.0.0.1\ndir "{tmp_path}"\n')
    name = f"redis-sentinel-{port}"
    stack.spawn(name, [stack.settings.binaries["redis-server"], configuration, "--sentinel"])
    yield port
    stack.stop_process(name)


def test_a_sentinel_is_refused_by_name(store: Store, sentinel: int) -> None:
    keys = store.open(url=f"redis://127.0.0.1:{sentinel}/0")
    wait_until(lambda: (problem := keys.probe()) and problem.reason != reasons.UNAVAILABLE, what="the sentinel")
    result = assert_refused(keys, "waiting", reasons.STORE_INVALID)
    assert "sentinel" in result.message


@pytest.mark.parametrize("task_ids", [["t"], ["t", "other"]], ids=["one task", "many tasks"])
@pytest.mark.parametrize("near", ["t*", "t?", "t[1]", "t\\", "t1", "t*:x", "*", "?", "[t]", "\\t"])
def test_a_neighbour_whose_name_a_search_could_match_stays(store: Store, near: str, task_ids: list[str]) -> None:
    store.fill("task:t:a", f"task:{near}:a")
    assert summary(sweep(store.open(["task:{taskId}:a*"]), *task_ids))[0] == ("Deleted", "", 1)
    assert store.left() == {f"task:{near}:a".encode()}


@pytest.mark.parametrize("task_ids", [["task_1"], ["task_1", "task_2"]], ids=["one task", "many tasks"])
def test_keys_that_the_user_may_not_touch_are_reported(
    store: Store, acl_user: tuple[str, str], task_ids: list[str]
) -> None:
    name, url = acl_user
    store.run("ACL", "SETUSER", name, "+@all", "resetkeys", "~other:*")
    store.fill("task:task_1:a")
    keys = store.open(["task:{taskId}:*"], url=url)
    result = sweep(keys, *task_ids)[0]
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.PERMISSION_DENIED)
    problem = keys.probe()
    assert problem is not None
    assert problem.reason == reasons.PERMISSION_DENIED
    assert store.left() == {b"task:task_1:a"}
