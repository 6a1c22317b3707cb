"""What only a survey of Redis has: several keys per task, states that have not settled, sweeps that are not whole."""

import json
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisCatalog, RedisConnection
from taskdeletion.backends.redis.scan import Scan
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.domain.faults import Fault
from tests.contract.test_survey import survey
from tests.support.catalogs import CREATED, KEYS, NODES, RedisTasks, key_of, redis_tasks, state
from tests.support.redis_cluster import RedisCluster, start_cluster
from tests.support.seams import interpose

TERMINAL = ("completed", "failed")


@pytest.fixture
def tasks(stack: Stack) -> Iterator[RedisTasks]:
    with redis_tasks(stack) as found:
        yield found


# --- several keys -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("node", ["a", "m", "z"])
def test_one_key_that_goes_on_keeps_the_whole_task(tasks: RedisTasks, node: str) -> None:
    tasks.put("task_1", "task_2")
    tasks.write(key_of("task_1", node), state("running"))
    found, with_files = survey(tasks.catalog())
    assert (set(found), with_files) == ({"task_2"}, 2)


def test_a_task_has_the_statuses_of_all_its_keys_and_the_latest_creation(tasks: RedisTasks) -> None:
    later = CREATED + timedelta(days=3)
    tasks.write(key_of("task_1", "a"), state("completed"))
    tasks.write(key_of("task_1", "b"), state("failed", created_at=later))
    tasks.write(key_of("task_1", "c"), state("completed"))
    tasks.write(key_of("task_2", "a"), state("failed", created_at=later))
    tasks.write(key_of("task_2", "b"), state("failed"))
    found, _ = survey(tasks.catalog())
    assert {task.task_id: task.statuses for task in found.values()} == {
        "task_1": frozenset({"completed", "failed"}),
        "task_2": frozenset({"failed"}),
    }
    assert {task.created_at for task in found.values()} == {later}


@pytest.mark.parametrize("node", ["a", "z"])
def test_a_task_of_which_one_key_has_no_creation_is_not_found(tasks: RedisTasks, node: str) -> None:
    tasks.put("task_1")
    tasks.write(key_of("task_1", node), state(created_at=None))
    assert survey(tasks.catalog()) == ({}, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda client, key: client.set(key, "completed"), id="no JSON"),
        pytest.param(lambda client, key: client.set(key, b"\xff"), id="no text"),
        pytest.param(lambda client, key: client.hset(key, "state", "completed"), id="a hash without a status"),
        pytest.param(lambda client, key: client.rpush(key, "status", "completed"), id="a list"),
    ],
)
def test_a_key_that_cannot_be_read_keeps_its_task(tasks: RedisTasks, spoil: Callable[[Any, str], object]) -> None:
    tasks.put("task_1")
    spoil(tasks.client, key_of("task_1", "x"))
    assert survey(tasks.catalog()) == ({}, 1)


def test_hashes_and_numbers_are_states_too(tasks: RedisTasks) -> None:
    fields: Any = {"status": "completed", "created_at": "1751477972", "updated_at": "1751477973000"}
    tasks.client.hset(key_of("task_1"), mapping=fields)
    found, _ = survey(tasks.catalog())
    assert found["task_1"].created_at == datetime.fromtimestamp(1751477972, UTC)


def test_times_without_a_zone_are_in_the_zone_of_the_store(tasks: RedisTasks) -> None:
    tasks.write(key_of("task_1"), {**state(), "created_at": "2025-10-26T02:30:00"})
    found, _ = survey(tasks.catalog_of(time_zone="Europe/Berlin"))
    assert found["task_1"].created_at == datetime(2025, 10, 26, 1, 30, tzinfo=UTC)


def test_a_creation_is_the_one_that_a_read_finds(tasks: RedisTasks) -> None:
    created = [CREATED + timedelta(microseconds=number) for number in range(1, 1000, 37)]
    for number, each in enumerate(created):
        tasks.put(f"task_{number}", created_at=each)
    found, _ = survey(tasks.catalog())
    read = tasks.catalog().read(list(found))
    assert {i: task.created_at for i, task in found.items()} == {i: entry.created_at for i, entry in read.items()}
    assert len(found) == len(created)


def test_keys_of_others_and_of_what_is_no_task_id_are_not_counted(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    value = json.dumps(state())
    for key in (".task:node:a", "x" * 129 + ":node:a", "task:nodes:a", "pre:task:node:a", "task_1", ":node:a"):
        tasks.client.set(key, value)
    found, with_files = survey(tasks.catalog())
    assert (set(found), with_files) == ({"task_1"}, 1)


def test_a_pattern_without_a_wildcard_has_one_key_per_task(tasks: RedisTasks) -> None:
    for key in ("state:task_1", "state:task_2", "state:task_2:more", "other:task_3"):
        tasks.write(key, state())
    found, with_files = survey(tasks.catalog_of(key_pattern="state:{taskId}"))
    assert (set(found), with_files) == ({"task_1", "task_2"}, 2)


# --- settled ----------------------------------------------------------------------------------------------------------
def test_a_state_that_changed_just_now_keeps_its_task(tasks: RedisTasks) -> None:
    tasks.put("task_1", "task_2")
    tasks.write(key_of("task_1"), state(updated_at=tasks.clock() - timedelta(seconds=200)))
    assert set(survey(tasks.catalog())[0]) == {"task_2"}
    assert set(survey(tasks.catalog_of(settle_seconds=150))[0]) == {"task_1", "task_2"}
    assert set(survey(tasks.catalog_of(settle_seconds=0))[0]) == {"task_1", "task_2"}


def test_a_state_that_never_says_when_it_changed_keeps_its_task(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    tasks.write(key_of("task_1"), {"status": "completed", "created_at": CREATED.isoformat()})
    assert survey(tasks.catalog()) == ({}, 1)
    assert set(survey(tasks.catalog_of(settle_seconds=0))[0]) == {"task_1"}


@pytest.mark.parametrize(("seconds_ago", "expected"), [(500, {"task_1"}), (100, set())])
def test_a_time_to_live_tells_when_a_state_changed(tasks: RedisTasks, seconds_ago: int, expected: set[str]) -> None:
    plain = b'{"status": "completed", "created_at": 1751477972}'
    tasks.client.set(key_of("task_1"), plain, ex=86_400 - seconds_ago)
    assert set(survey(tasks.catalog_of(ttl_seconds=86_400))[0]) == expected


# --- the sweep --------------------------------------------------------------------------------------------------------
def test_a_key_that_is_shown_twice_counts_once(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1", "task_2")
    original = Scan.page
    monkeypatch.setattr(Scan, "page", lambda scan: original(scan) * 2)
    found, with_files = survey(tasks.catalog())
    assert (set(found), with_files) == ({"task_1", "task_2"}, 2)


def test_a_task_that_was_seen_to_run_is_not_finished_where_its_key_is_shown_again(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1", "task_2")
    tasks.write(key_of("task_1"), state("running"))
    interpose(monkeypatch, RedisServer, "evaluate", after=lambda *_: tasks.put("task_1"))
    original = Scan.__iter__

    def show_twice(scan: Scan) -> Iterator[list[bytes]]:
        for page in original(scan):
            yield page
            yield page

    monkeypatch.setattr(Scan, "__iter__", show_twice)
    assert set(survey(tasks.catalog())[0]) == {"task_2"}


def test_a_task_that_somebody_removes_meanwhile_is_not_counted(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1", "task_2")
    interpose(monkeypatch, RedisServer, "evaluate", before=lambda *_: tasks.remove("task_1"))
    found, with_files = survey(tasks.catalog())
    assert (set(found), with_files) == ({"task_2"}, 1)


def test_the_caller_can_stop_in_the_middle_of_the_sweep(tasks: RedisTasks) -> None:
    tasks.fill(12_000)
    with tasks.catalog().survey(TERMINAL, with_gone=False) as found:
        pages = found.pages()
        assert [len(next(pages)), len(next(pages))] == [0, 0]
        with pytest.raises(ValueError, match="behind the last page"):
            _ = found.with_files
        assert sum(len(page) for page in pages) == found.with_files == 12_000


def test_a_server_that_falls_silent_in_the_middle_is_a_fault_and_no_short_list(tasks: RedisTasks) -> None:
    tasks.fill(12_000)
    catalog = tasks.catalog_of(timeout_seconds=0.3)

    def collect() -> None:
        with catalog.survey(TERMINAL, with_gone=False) as found:
            for page in found.pages():
                assert not page
                tasks.client.client_pause(3_000)

    try:
        with pytest.raises(Fault) as caught:
            collect()
    finally:
        tasks.client.client_unpause()
    assert (caught.value.kind, caught.value.reason) == ("retriable", reasons.TIMEOUT)
    assert len(survey(tasks.catalog())[0]) == 12_000


@pytest.mark.parametrize("missing", ["scan", "evalsha", "get", "time"])
def test_a_command_that_is_not_allowed_is_a_permission_that_lacks(tasks: RedisTasks, missing: str) -> None:
    tasks.put("task_1")
    name = f"user-{secrets.token_hex(4)}"
    acl: Any = tasks.client.execute_command
    acl("ACL", "SETUSER", name, "on", ">pw", "~*", "+@all", f"-{missing}")
    password = tasks.client.connection_pool.connection_kwargs["password"]
    try:
        with pytest.raises(Fault) as caught:
            survey(tasks.catalog(tasks.url.replace(f"//:{password}@", f"//{name}:pw@")))
    finally:
        tasks.client.acl_deluser(name)
    assert (caught.value.kind, caught.value.reason) == ("permanent", reasons.PERMISSION_DENIED)


# --- clusters ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with start_cluster(stack, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def catalog(cluster: RedisCluster) -> Iterator[RedisCatalog]:
    """Of 40 tasks with keys on every node, one of which goes on, in one key."""
    cluster.flush()
    with cluster.client() as client:
        for number in range(40):
            for node in NODES:
                client.set(key_of(f"task_{number}", node), json.dumps(state()))
        client.set(key_of("task_7", "last"), json.dumps(state("running")))
    assert all(node.left() for node in cluster.primaries)
    found = RedisCatalog(RedisConnection(cluster.url()), KEYS)
    yield found
    found.close()


def test_the_keys_of_all_nodes_of_a_cluster_make_the_tasks(catalog: RedisCatalog) -> None:
    found, with_files = survey(catalog)
    assert (set(found), with_files) == ({f"task_{number}" for number in range(40)} - {"task_7"}, 40)


def test_a_cluster_that_moves_a_slot_is_waited_for(cluster: RedisCluster, catalog: RedisCatalog) -> None:
    key = key_of("task_1").encode()
    slot, source = cluster.slot_of(key), cluster.owner_of(key)
    target = next(node for node in cluster.primaries if node is not source)
    cluster.open_move(slot, source, target)
    try:
        with pytest.raises(Fault) as caught:
            survey(catalog)
    finally:
        cluster.give_up_move(slot, source, target)
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.UNAVAILABLE)
    cluster.wait_settled()
    assert len(survey(catalog)[0]) == 39


def test_a_slot_that_moved_during_the_sweep_is_a_fault_before_any_task(
    cluster: RedisCluster, catalog: RedisCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_of("task_1").encode()
    slot, source = cluster.slot_of(key), cluster.owner_of(key)
    target = next(node for node in cluster.primaries if node is not source)

    def move(*_: object) -> None:
        cluster.open_move(slot, source, target)
        cluster.move_keys([each for each in source.left() if cluster.slot_of(each) == slot], source, target)
        cluster.close_move(slot, target)

    interpose(monkeypatch, RedisServer, "evaluate", before=move)
    seen: list[object] = []

    def collect() -> None:
        with catalog.survey(TERMINAL, with_gone=False) as found:
            for page in found.pages():
                seen.extend(page)

    with pytest.raises(Fault) as caught:
        collect()
    assert (seen, caught.value.kind, caught.value.reason) == ([], "waiting", reasons.UNAVAILABLE)
    assert len(survey(catalog)[0]) == 39
