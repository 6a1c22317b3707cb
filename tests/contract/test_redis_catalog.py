"""What only the Redis catalog has: state in JSON and hashes, values that cannot be read, times to live.

How its keys are found is in test_redis_catalog_search.py, how they are deleted in test_redis_catalog_records.py.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisConnection
from taskdeletion.backends.redis.catalog import RedisCatalog
from taskdeletion.backends.redis.state_scripts import BATCH_KEYS, order_content
from taskdeletion.backends.redis.state_search import StateSearch
from taskdeletion.domain.catalog import Marks
from taskdeletion.domain.faults import Fault
from tests.support.catalogs import CREATED, KEYS, UPDATED, RedisTasks, key_of, redis_tasks, state
from tests.support.seams import interpose

HASH = {"status": "completed", "created_at": CREATED.isoformat(), "updated_at": UPDATED.isoformat()}


@pytest.fixture
def tasks(stack: Stack) -> Iterator[RedisTasks]:
    with redis_tasks(stack) as found:
        yield found


def put_hash(tasks: RedisTasks, key: str, **fields: str) -> None:
    mapping: dict[Any, Any] = {**HASH, **fields}
    tasks.client.hset(key, mapping=mapping)


# --- what the keys say ------------------------------------------------------------------------------------------------
def test_json_and_hashes_make_one_entry(tasks: RedisTasks) -> None:
    tasks.write(key_of("task_1", "a"), state())
    put_hash(tasks, key_of("task_1", "b"))
    (entry,) = tasks.catalog().read(["task_1"]).values()
    assert (entry.status, entry.created_at, entry.activity) == ("completed", CREATED, "")
    assert tasks.catalog().count_records(["task_1"]) == {"task_1": 2}


def test_one_key_that_goes_on_makes_a_task_that_runs(tasks: RedisTasks) -> None:
    tasks.put("task_1", "task_2")
    put_hash(tasks, key_of("task_1", "x"), status="pending")
    entries = tasks.catalog().read(["task_1", "task_2"])
    assert {task_id: entry.status for task_id, entry in entries.items()} == {"task_1": "pending", "task_2": "completed"}


def test_the_version_of_a_hash_changes_with_every_field(tasks: RedisTasks) -> None:
    key = key_of("task_1")
    put_hash(tasks, key)
    seen = [tasks.versions("task_1")["task_1"]]
    acts: list[Callable[[], object]] = [
        lambda: tasks.client.hset(key, "more", "1"),
        lambda: tasks.client.hset(key, "more", "2"),
        lambda: tasks.client.hset(key, mapping={f"field-{number}": "x" for number in range(1000)}),
        lambda: tasks.client.hdel(key, "field-500"),
    ]
    for act in acts:
        act()
        seen.append(tasks.versions("task_1")["task_1"])
    assert len(set(seen)) == 5
    tasks.client.copy(key, "elsewhere")
    tasks.client.delete(key)
    tasks.client.copy("elsewhere", key)
    assert tasks.versions("task_1")["task_1"] == seen[-1]


def test_the_fields_of_a_hash_make_one_value_in_whatever_order_they_come() -> None:
    fields = (b"a", b"2", b"b", b"1", b"c", b"")
    assert order_content(b"hash", [b"b", b"1", b"c", b"", b"a", b"2"]) == order_content(b"hash", fields) == fields
    assert order_content(b"string", [b"b a"]) == (b"b a",)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda client, key: client.set(key, "completed"), id="no JSON"),
        pytest.param(lambda client, key: client.set(key, '["completed"]'), id="a JSON list"),
        pytest.param(lambda client, key: client.set(key, b"\xff"), id="no text"),
        pytest.param(lambda client, key: client.set(key, ""), id="empty"),
        pytest.param(lambda client, key: client.hset(key, "state", "completed"), id="a hash without a status"),
        pytest.param(lambda client, key: client.rpush(key, "status", "completed"), id="a list"),
        pytest.param(lambda client, key: client.sadd(key, "completed"), id="a set"),
        pytest.param(lambda client, key: client.zadd(key, {"completed": 1}), id="a sorted set"),
        pytest.param(lambda client, key: client.xadd(key, {"status": "completed"}), id="a stream"),
    ],
)
def test_a_key_that_cannot_be_read_counts_as_running_and_has_a_version(
    tasks: RedisTasks, spoil: Callable[[Any, str], object]
) -> None:
    tasks.put("task_1")
    before = tasks.versions("task_1")
    spoil(tasks.client, key_of("task_1", "x"))
    entry = tasks.catalog().read(["task_1"])["task_1"]
    assert (entry.status, entry.created_at, entry.version.created) == ("", None, "")
    assert entry.version.rest != before["task_1"].rest
    assert entry.version == tasks.versions("task_1")["task_1"]


def test_times_without_a_zone_are_in_the_zone_of_the_store(tasks: RedisTasks) -> None:
    tasks.write(key_of("task_1"), {**HASH, "created_at": "2025-10-26T02:30:00"})
    (entry,) = tasks.catalog_of(time_zone="Europe/Berlin").read(["task_1"]).values()
    assert entry.created_at == datetime(2025, 10, 26, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "Europe"])
def test_a_zone_that_is_none_is_told_before_anything_is_asked(tasks: RedisTasks, zone: str) -> None:
    with pytest.raises(Fault) as caught:
        tasks.catalog_of(time_zone=zone)
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.STORE_INVALID)


def test_a_secret_and_a_pattern_are_checked_before_anything_is_asked(tasks: RedisTasks) -> None:
    with pytest.raises(Fault) as caught:
        tasks.catalog_of("http://localhost")
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.SECRET_VALUE_INVALID)
    with pytest.raises(ValueError, match="is not a key pattern"):
        tasks.catalog_of(key_pattern="{taskId}*")


# --- settled ----------------------------------------------------------------------------------------------------------
def test_a_change_just_now_is_told_by_the_clock_of_the_server(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    tasks.write(key_of("task_1"), state(updated_at=tasks.clock() - timedelta(seconds=200)))
    activity = tasks.catalog().read(["task_1"])["task_1"].activity
    assert activity.startswith("its state changed 2")
    assert activity.endswith(" s ago, and settleSeconds is 300")
    assert tasks.catalog_of(settle_seconds=150).read(["task_1"])["task_1"].activity == ""


def test_a_time_to_live_tells_of_keys_that_do_not_say_when_they_changed(tasks: RedisTasks) -> None:
    catalog = tasks.catalog_of(ttl_seconds=86_400)
    plain = b'{"status": "completed", "created_at": 1751477972}'
    tasks.client.set(key_of("task_1"), plain, ex=86_400 - 500)
    tasks.client.set(key_of("task_2"), plain, ex=86_400)
    tasks.client.set(key_of("task_3"), plain)
    activities = {task_id: entry.activity for task_id, entry in catalog.read(["task_1", "task_2", "task_3"]).items()}
    assert activities["task_1"] == ""
    assert activities["task_2"].endswith("s ago, and settleSeconds is 300")
    assert activities["task_3"].startswith("when its state last changed is not known: set updatedField or ttlSeconds")


def test_a_time_to_live_that_is_renewed_is_no_change(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    before = tasks.versions("task_1")
    tasks.client.expire(key_of("task_1"), 1000)
    assert tasks.versions("task_1") == before


def test_a_key_that_expires_makes_another_version_and_the_last_one_ends_the_task(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    catalog, before = tasks.catalog(), tasks.versions("task_1")["task_1"]
    for number, key in enumerate(sorted(tasks.left())):
        tasks.client.pexpire(key, 1)
        wait_until(lambda key=key: not tasks.client.exists(key), what="the end of a key")
        entries = catalog.read(["task_1"])
        assert "task_1" not in entries if number == 2 else entries["task_1"].version != before


# --- between the search and the values --------------------------------------------------------------------------------
def test_a_key_that_goes_between_search_and_values_is_not_there(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks.put("task_1", "task_2")
    tasks.client.set(key_of("task_1", "x"), b'{"status": "running"}')

    def act(*_: object) -> None:
        tasks.client.delete(key_of("task_1", "x"))
        tasks.remove("task_2")

    interpose(monkeypatch, StateSearch, "find", after=act)
    entries = tasks.catalog().read(["task_1", "task_2"])
    assert [(task_id, entry.status) for task_id, entry in entries.items()] == [("task_1", "completed")]


def test_a_change_between_search_and_values_is_seen(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.put("task_1")
    interpose(monkeypatch, StateSearch, "find", after=lambda *_: tasks.restart("task_1", renews_created_at=False))
    assert tasks.catalog().read(["task_1"])["task_1"].status == "running"


# --- much -------------------------------------------------------------------------------------------------------------
def test_hundreds_of_keys_and_large_values_are_read_whole(tasks: RedisTasks) -> None:
    nodes = [f"node-{number:03}" for number in range(BATCH_KEYS + 44)]
    for node in nodes:
        tasks.write(key_of("task_1", node), state(log="x" * (100_000 if node.endswith("0") else 100)))
    tasks.put("task_2")
    entries = tasks.catalog().read(["task_1", "task_2"])
    assert {task_id: entry.status for task_id, entry in entries.items()} == {
        "task_1": "completed",
        "task_2": "completed",
    }
    tasks.write(key_of("task_1", nodes[-1]), state("running", log="x" * 99_999))
    assert tasks.catalog().read(["task_1"])["task_1"].status == "running"


def test_tasks_are_found_among_thousands_of_others(tasks: RedisTasks) -> None:
    ids = [f"task_{number}" for number in range(0, 4000, 10)]
    tasks.put(*(f"task_{number}" for number in range(4000)))
    entries = tasks.catalog().read(ids)
    assert set(entries) == set(ids)
    assert tasks.catalog().count_records(ids) == dict.fromkeys(ids, 3)


# --- what a catalog of keys is ----------------------------------------------------------------------------------------
def test_nothing_is_held_and_nothing_stays(tasks: RedisTasks) -> None:
    tasks.put("task_1")
    catalog, before = tasks.catalog(), tasks.content()
    assert (catalog.holds_entries, catalog.keeps_entries) == (False, False)
    assert catalog.mark(tasks.versions("task_1"), force=False) == Marks(frozenset(), frozenset())
    with catalog.claim(["task_1"], with_records=True) as seen:
        tasks.change("task_1")
    assert seen.entries["task_1"].version != tasks.versions("task_1")["task_1"]
    tasks.remove("task_1")
    tasks.put("task_1")
    assert tasks.content() == before


def test_nothing_of_a_connection_or_a_value_is_shown(tasks: RedisTasks) -> None:
    connection = RedisConnection("redis://:s3cret@localhost/0")
    assert "s3cret" not in repr(connection)
    assert "s3cret" not in repr(RedisCatalog(connection, KEYS))
