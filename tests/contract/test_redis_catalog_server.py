"""The Redis catalog and the servers it meets: users who may not do everything, replicas, clusters."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from dev.pipeline import wait_until
from dev.settings import free_port, write_private
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisCatalog, RedisConnection, RedisKeys, RedisServer
from taskdeletion.backends.redis.state_scripts import REMOVE
from taskdeletion.domain.catalog import Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult, never_halt
from tests.support.catalogs import KEYS, NODES, RedisTasks, key_of, redis_tasks, state
from tests.support.redis_cluster import RedisCluster, start_cluster
from tests.support.seams import interpose

COMMANDS = (
    "time",
    "scan",
    "exists",
    "type",
    "pttl",
    "get",
    "hgetall",
    "hlen",
    "hget",
    "dump",
    "unlink",
    "eval",
    "evalsha",
)


@pytest.fixture
def tasks(stack: Stack) -> Iterator[RedisTasks]:
    with redis_tasks(stack) as found:
        yield found


@pytest.fixture
def user(tasks: RedisTasks) -> Iterator[tuple[str, str]]:
    """Name and url of a user of the server that may do nothing yet."""
    name = f"user-{secrets.token_hex(4)}"
    allow(tasks, name, "on", ">pw", "~*")
    yield name, tasks.url.replace(f"//:{tasks.client.connection_pool.connection_kwargs['password']}@", f"//{name}:pw@")
    tasks.client.acl_deluser(name)


def allow(tasks: RedisTasks, name: str, *rules: str) -> None:
    tasks.client.execute_command("ACL", "SETUSER", name, *rules)  # type: ignore[no-untyped-call]  # as redis-py is


def result_of(catalog: RedisCatalog, versions: dict[str, Version], *, force: bool = False) -> StepResult:
    return catalog.delete_records(versions, force=force)["task_1"]


# --- permissions ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", COMMANDS)
def test_a_command_that_is_not_allowed_is_named(tasks: RedisTasks, user: tuple[str, str], missing: str) -> None:
    name, url = user
    tasks.put("task_1")
    before = tasks.content()
    allow(tasks, name, "+@all", f"-{missing}")
    (problem,) = tasks.catalog(url).probe()
    assert problem.reason == reasons.PERMISSION_DENIED
    assert missing.upper() in problem.message
    assert tasks.content() == before


@pytest.mark.parametrize("missing", ["get", "evalsha", "scan"])
def test_a_read_that_is_not_allowed_fails_for_good(tasks: RedisTasks, user: tuple[str, str], missing: str) -> None:
    name, url = user
    tasks.put("task_1")
    allow(tasks, name, "+@all", f"-{missing}")
    with pytest.raises(Fault) as caught:
        tasks.catalog(url).read(["task_1"])
    assert (caught.value.kind, caught.value.reason) == ("permanent", reasons.PERMISSION_DENIED)


def test_a_removal_that_is_not_allowed_keeps_every_key(tasks: RedisTasks, user: tuple[str, str]) -> None:
    name, url = user
    tasks.put("task_1")
    versions, before = tasks.versions("task_1"), tasks.content()
    allow(tasks, name, "+@all", "-unlink")
    result = result_of(tasks.catalog_of(url), versions)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.PERMISSION_DENIED, "permanent")
    assert (result.count, result.at_least, tasks.content()) == (0, False, before)


def test_the_permissions_that_the_message_names_suffice(tasks: RedisTasks, user: tuple[str, str]) -> None:
    name, url = user
    tasks.put("task_1")
    tasks.client.hset(key_of("task_1", "hash"), "status", "completed")
    tasks.client.rpush(key_of("task_1", "list"), "x")
    allow(tasks, name, "-@all", "resetkeys", "~*:node:*", "+select", *(f"+{command}" for command in COMMANDS))
    catalog = tasks.catalog_of(url)
    assert catalog.probe() == []
    versions = {task_id: entry.version for task_id, entry in catalog.read(["task_1"]).items()}
    assert (result_of(catalog, versions, force=True).count, tasks.left()) == (5, set())
    allow(tasks, name, "-get")
    tasks.put("task_1")
    with pytest.raises(Fault) as caught:
        catalog.read(["task_1"])
    assert all(command.upper() in caught.value.message for command in ("select", *COMMANDS))


def test_keys_of_others_need_no_permission(tasks: RedisTasks, user: tuple[str, str]) -> None:
    name, url = user
    allow(tasks, name, "+@all", "resetkeys", "~other:*")
    (problem,) = tasks.catalog(url).probe()
    assert problem.reason == reasons.PERMISSION_DENIED


# --- replicas ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def replica(stack: Stack, tmp_path: Path, tasks: RedisTasks) -> Iterator[str]:
    """The url of a replica of the stack's server that is up to date."""
    port, password = free_port(), stack.redis.password
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f"masterauth {password}",
        f"replicaof 127.0.0.1 {stack.redis.port}",
        f'dir "{tmp_path}"',
    ]
    write_private(tmp_path / "redis.conf", "\n".join(lines) + "\n")
    stack.spawn("redis-replica", [stack.settings.binaries["redis-server"], tmp_path / "redis.conf"])
    client = redis.Redis(port=port, password=password)
    wait_until(lambda: is_replica(client), what="a replica that is up to date")
    yield tasks.url.replace(f":{stack.redis.port}/", f":{port}/")
    client.close()
    stack.stop_process("redis-replica")


def is_replica(client: redis.Redis) -> bool:
    try:
        return bool(client.info("replication")["master_link_status"] == "up")
    except redis.RedisError:
        return False


def test_a_replica_is_told_by_the_probe_and_keeps_every_key(tasks: RedisTasks, replica: str) -> None:
    tasks.put("task_1")
    catalog = tasks.catalog_of(replica)
    (problem,) = catalog.probe()
    assert (problem.reason, "replica" in problem.message) == (reasons.UNAVAILABLE, True)
    result = result_of(catalog, tasks.versions("task_1"))
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    assert tasks.records() == {"task_1": 3}


@pytest.fixture(params=["{taskId}:node:*", "{taskId}:node:extract"], ids=["keys to find", "a key that is known"])
def demoted(request: pytest.FixtureRequest, tasks: RedisTasks, replica: str) -> Iterator[tuple[str, str]]:
    """The url of a server that was a primary while it was first looked at, and a pattern of keys."""
    with redis.Redis.from_url(replica) as client:
        client.replicaof("NO", "ONE")
        yield replica, request.param


def demote(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.replicaof("127.0.0.1", "1")  # where no primary is: what it shows is old from now on


def assert_no_answer(ask: Callable[[], object]) -> None:
    with pytest.raises(Fault) as caught:
        ask()
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.UNAVAILABLE)
    assert "replica" in caught.value.message


def test_a_catalog_whose_server_became_a_replica_says_nothing_of_tasks(
    tasks: RedisTasks, demoted: tuple[str, str]
) -> None:
    url, pattern = demoted
    catalog = RedisCatalog(RedisConnection(url), replace(KEYS, key_pattern=pattern))
    with redis.Redis.from_url(url) as client:
        client.set(key_of("task_1", "extract"), str(state("completed")).replace("'", '"'))
    assert catalog.read(["task_1", "task_2"]).keys() == {"task_1"}
    demote(url)
    assert_no_answer(lambda: catalog.read(["task_1"]))
    assert_no_answer(lambda: catalog.read(["task_2"]))
    assert_no_answer(lambda: catalog.count_records(["task_2"]))
    catalog.close()


def test_keys_of_a_server_that_became_a_replica_are_not_said_to_be_gone(
    tasks: RedisTasks, demoted: tuple[str, str]
) -> None:
    url, pattern = demoted
    keys = RedisKeys(RedisConnection(url), [pattern])
    assert keys.find_rest(["task_2"]) == set()
    demote(url)
    assert_no_answer(lambda: keys.find_rest(["task_2"]))
    result = keys.sweep(["task_2"], delete=True, guard=lambda _: {}, halt=never_halt)["task_2"]
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    keys.close()


def test_a_survey_of_a_server_that_becomes_a_replica_meanwhile_is_not_whole(
    tasks: RedisTasks, demoted: tuple[str, str]
) -> None:
    url, _ = demoted
    catalog = RedisCatalog(RedisConnection(url), KEYS)
    with catalog.survey(["completed"], with_gone=False) as survey:
        pages = survey.pages()
        assert next(pages) == ()
        demote(url)
        assert_no_answer(lambda: list(pages))
    catalog.close()


# --- clusters ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shared_cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with start_cluster(stack, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    shared_cluster.flush()
    return shared_cluster


@pytest.fixture
def catalog(cluster: RedisCluster) -> Iterator[RedisCatalog]:
    found = RedisCatalog(RedisConnection(cluster.url()), KEYS)
    yield found
    found.close()


def put(cluster: RedisCluster, *task_ids: str, status: str = "completed", nodes: tuple[str, ...] = NODES) -> set[bytes]:
    """Tasks with one key per node; returns the keys."""
    keys = {key_of(task_id, node).encode() for task_id in task_ids for node in nodes}
    with cluster.client() as client:
        for key in keys:
            client.set(key, str(state(status)).replace("'", '"'))
    return keys


def versions_of(catalog: RedisCatalog, *task_ids: str) -> dict[str, Version]:
    return {task_id: entry.version for task_id, entry in catalog.read(task_ids).items()}


def test_a_task_on_several_nodes_of_a_cluster_is_one_task(cluster: RedisCluster, catalog: RedisCatalog) -> None:
    keys = put(cluster, "task_1", nodes=tuple(f"node-{number}" for number in range(60)))
    others = put(cluster, "task_10", "task_2")
    assert all(node.left() & keys for node in cluster.primaries)
    assert catalog.probe() == []
    entry = catalog.read(["task_1", "task_3"])["task_1"]
    assert (entry.status, catalog.count_records(["task_1"])) == ("completed", {"task_1": 60})
    result = result_of(catalog, {"task_1": entry.version})
    assert (result.outcome, result.count, result.at_least) == ("Deleted", 60, False)
    assert cluster.left() == others


def test_one_key_on_any_node_of_a_cluster_changes_the_task(cluster: RedisCluster, catalog: RedisCatalog) -> None:
    keys = put(cluster, "task_1")
    versions = versions_of(catalog, "task_1")
    put(cluster, "task_1", status="running", nodes=NODES[-1:])
    assert catalog.read(["task_1"])["task_1"].status == "running"
    result = result_of(catalog, versions)
    assert (result.outcome, result.reason, result.count) == ("Failed", reasons.TASK_RESTARTED, 0)
    assert cluster.left() == keys


def test_a_restart_between_comparison_and_removal_keeps_what_it_wrote_on_a_cluster(
    cluster: RedisCluster, catalog: RedisCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cluster, "task_1")
    versions = versions_of(catalog, "task_1")
    interpose(
        monkeypatch,
        RedisServer,
        "evaluate",
        before=lambda *_: put(cluster, "task_1", status="running", nodes=NODES[:1]),
        when=lambda _, script, *__: script == REMOVE,
    )
    result = result_of(catalog, versions)
    assert (result.outcome, result.reason, result.count) == ("Failed", reasons.TASK_RESTARTED, len(NODES) - 1)
    assert cluster.left() == {key_of("task_1", NODES[0]).encode()}


def test_keys_with_one_hash_tag_go_all_or_none_on_a_cluster(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = put(cluster, "{task_1}")
    tagged: Any = {**vars(KEYS), "key_pattern": "{{taskId}}:node:*"}
    catalog = RedisCatalog(RedisConnection(cluster.url()), type(KEYS)(**tagged))
    versions = versions_of(catalog, "task_1")
    interpose(
        monkeypatch,
        RedisServer,
        "evaluate",
        before=lambda *_: put(cluster, "{task_1}", status="running", nodes=NODES[-1:]),
        when=lambda _, script, *__: script == REMOVE,
    )
    result = result_of(catalog, versions)
    assert (result.reason, result.count, cluster.left()) == (reasons.TASK_RESTARTED, 0, keys)
    assert result_of(catalog, versions_of(catalog, "task_1")).count == len(NODES)
    assert cluster.left() == set()
    catalog.close()


def test_a_slot_that_moves_is_waited_for(cluster: RedisCluster, catalog: RedisCatalog) -> None:
    keys = put(cluster, "task_1")
    key = key_of("task_1").encode()
    versions, slot, source = versions_of(catalog, "task_1"), cluster.slot_of(key), cluster.owner_of(key)
    target = next(node for node in cluster.primaries if node is not source)
    cluster.open_move(slot, source, target)
    try:
        result = result_of(catalog, versions)
    finally:
        cluster.give_up_move(slot, source, target)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    assert cluster.left() == keys
    cluster.wait_settled()
    assert result_of(catalog, versions).count == len(NODES)
