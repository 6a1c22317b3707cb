"""One Redis as its callers see it, standalone and as a cluster: commands by key, scripts by slot, pages of keys."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisConnection, RedisServer
from taskdeletion.domain.faults import Fault
from tests.support.redis_cluster import ClusterNode, RedisCluster, start_cluster

ADD = b"return {redis.call('INCRBY', KEYS[1], ARGV[1]), #KEYS}"


@pytest.fixture(scope="module")
def cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with start_cluster(stack, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(params=["standalone", "cluster"])
def server(request: pytest.FixtureRequest, stack: Stack) -> Iterator[RedisServer]:
    """An empty Redis."""
    if request.param == "cluster":
        cluster: RedisCluster = request.getfixturevalue("cluster")
        cluster.flush()
        url = cluster.url()
    else:
        url = stack.redis.url.rpartition("/")[0] + "/14"
        with redis.Redis(port=stack.redis.port, password=stack.redis.password, db=14) as client:
            client.flushdb()
    found = RedisServer(RedisConnection(url))
    yield found
    found.close()


def test_replies_come_in_order_whatever_node_they_are_from(server: RedisServer) -> None:
    keys = [f"key:{number}".encode() for number in range(200)]
    assert server.exchange([("SET", key, key) for key in keys]) == [b"OK"] * 200
    assert server.exchange([("PING",), *(("GET", key) for key in keys)]) == [b"PONG", *keys]


def test_an_error_reply_stands_in_its_place(server: RedisServer) -> None:
    server.exchange([("SET", b"a", b"text")])
    first, second, third = server.exchange([("GET", b"a"), ("INCR", b"a"), ("GET", b"b")])
    assert (first, third) == (b"text", None)
    assert isinstance(second, redis.ResponseError)


def test_a_script_runs_once_per_call_also_where_the_server_does_not_know_it(server: RedisServer) -> None:
    calls = [([f"n:{number}".encode()], [number]) for number in range(50)]
    assert server.evaluate(ADD, calls) == [[number, 1] for number in range(50)]
    assert server.evaluate(ADD, calls) == [[2 * number, 1] for number in range(50)]


def test_the_error_of_one_script_call_stands_in_its_place(server: RedisServer) -> None:
    server.exchange([("SET", b"a", b"text")])
    first, second = server.evaluate(ADD, [([b"a"], [1]), ([b"b"], [1])])
    assert isinstance(first, redis.ResponseError)
    assert second == [1, 1]


def test_the_keys_of_a_group_go_into_one_call_of_a_script(server: RedisServer) -> None:
    keys = [f"{{{tag}}}:{number}".encode() for tag in "abc" for number in range(5)]
    groups = server.group_by_slot(keys)
    assert sorted(key for group in groups for key in group) == sorted(keys)
    assert len(groups) == (3 if server.is_cluster else 1)
    assert server.evaluate(ADD, [(group, [1]) for group in groups]) == [[1, len(group)] for group in groups]


def test_every_key_is_shown_and_match_narrows(server: RedisServer) -> None:
    keys = {f"key:{number}".encode() for number in range(3000)}
    server.exchange([("SET", key, b"x") for key in [*keys, b"other"]])
    assert {key for page in server.scan(None, count=100) for key in page} == keys | {b"other"}
    assert {key for page in server.scan(b"key:1*", count=100) for key in page} == {
        key for key in keys if key.startswith(b"key:1")
    }


def test_a_scan_of_one_node_is_never_taken_for_all(server: RedisServer) -> None:
    with pytest.raises(ValueError, match="use scan"):
        server.exchange([("SCAN", 0)])


def test_the_clock_is_in_utc(server: RedisServer) -> None:
    found = server.now()
    assert found.tzinfo is UTC
    assert abs(datetime.now(UTC) - found) < timedelta(seconds=5)


def test_a_failed_connection_is_raised() -> None:
    server = RedisServer(RedisConnection("redis://127.0.0.1:1"))
    for call in (
        server.now,
        lambda: server.exchange([("PING",)]),
        lambda: server.is_cluster,
        lambda: server.scan(None),
    ):
        with pytest.raises(Fault) as caught:
            call()
        assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.UNAVAILABLE)


def test_scripts_follow_a_slot_that_moves(cluster: RedisCluster) -> None:
    cluster.flush()
    server = RedisServer(RedisConnection(cluster.url()))
    assert server.evaluate(ADD, [([b"moving"], [1])]) == [[1, 1]]
    slot, source = cluster.slot_of(b"moving"), cluster.owner_of(b"moving")
    target = next(node for node in cluster.primaries if node is not source)
    cluster.open_move(slot, source, target)
    cluster.move_keys([b"moving"], source, target)
    assert server.evaluate(ADD, [([b"moving"], [1])]) == [[2, 1]]  # redirected for this once
    cluster.close_move(slot, target)
    assert server.evaluate(ADD, [([b"moving"], [1])]) == [[3, 1]]  # for good
    assert [read(node, b"moving") for node in (source, target)] == [None, b"3"]
    server.close()


def read(node: ClusterNode, key: bytes) -> bytes | None:
    """The value on this very node."""
    found: bytes | None = node.run("GET", key) if key in node.left() else None
    return found
