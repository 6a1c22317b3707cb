"""The Redis backend against a real cluster: every primary is asked, and what moves meanwhile is not missed."""

import secrets
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import MAX_PASSES, PAGE_SIZE, RedisConnection, RedisKeys
from taskdeletion.domain.faults import Fault
from tests.support.redis_cluster import ClusterNode, RedisCluster, start_cluster
from tests.support.redis_sweeps import Guard, assert_refused, summary, sweep

PATTERNS = ("task:{taskId}", "task:{taskId}:*")


@pytest.fixture(scope="module")
def shared_cluster(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """Three primaries; tests that kill one start their own."""
    with start_cluster(stack, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture
def cluster(shared_cluster: RedisCluster) -> RedisCluster:
    shared_cluster.flush()
    return shared_cluster


@dataclass
class Opener:
    """Opens backends, and closes them after the test."""

    opened: list[RedisKeys] = field(default_factory=list)

    def __call__(self, url: str, *patterns: str, timeout_seconds: float = 10.0) -> RedisKeys:
        connection = RedisConnection(url)
        self.opened.append(RedisKeys(connection, patterns or PATTERNS, timeout_seconds=timeout_seconds))
        return self.opened[-1]


@pytest.fixture
def connect() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    for keys in opener.opened:
        keys.close()


class Once:
    """Something that happens at the nth of the calls, and never again."""

    def __init__(self, act: Callable[[], object], *, at: int) -> None:
        self.calls, self.act, self.at = 0, act, at

    def __call__(self, *_: object) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.act()


def halting_never(act: Once) -> Callable[[], Fault | None]:
    """A halt, asked before every page, at which something happens; it stops nothing."""

    def halt() -> Fault | None:
        act()
        return None

    return halt


# --- a healthy cluster --------------------------------------------------------------------------------------------


def test_keys_on_all_nodes_go_and_the_neighbours_stay(cluster: RedisCluster, connect: Opener) -> None:
    mine = ["task:task_1", *(f"task:task_1:{number}" for number in range(300))]
    neighbours = {f"task:task_10:{number}".encode() for number in range(300)} | {b"task:task_10", b"other"}
    cluster.fill([*mine, *neighbours])
    assert all(node.left() for node in cluster.primaries)

    assert summary(sweep(connect(cluster.url()), "task_1")) == [("Deleted", "", 301)]
    assert cluster.left() == neighbours


def test_every_node_of_the_cluster_will_do_for_the_url(cluster: RedisCluster, connect: Opener) -> None:
    for number in range(3):
        cluster.fill(f"task:task_1:{key}" for key in range(30))
        assert summary(sweep(connect(cluster.url(number)), "task_1")) == [("Deleted", "", 30)]


def test_many_tasks_go_in_one_sweep_of_the_cluster_each_with_its_own_count(
    cluster: RedisCluster, connect: Opener
) -> None:
    cluster.fill(f"task:t{task}:{key}" for task in range(40) for key in range(task))
    results = sweep(connect(cluster.url()), *(f"t{task}" for task in range(30)))
    assert [result.count for result in results] == list(range(30))
    assert len(cluster.left()) == sum(range(30, 40))


def test_more_keys_than_a_page_of_each_node_all_go(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill([*(f"task:task_1:{key}" for key in range(7 * PAGE_SIZE)), "task:task_10:a"])
    assert summary(sweep(connect(cluster.url()), "task_1")) == [("Deleted", "", 7 * PAGE_SIZE)]
    assert cluster.left() == {b"task:task_10:a"}


def test_keys_that_share_a_slot_by_their_hash_tag_go(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(f"{{task_{task}}}:{key}" for task in range(4) for key in range(100))
    results = sweep(connect(cluster.url(), "{{taskId}}:*"), "task_1", "task_2")
    assert summary(results) == [("Deleted", "", 100)] * 2
    assert len(cluster.left()) == 200


def test_known_keys_of_a_cluster_go_without_a_search(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(f"task:t{task}" for task in range(100))
    for node in cluster.primaries:
        node.run("CONFIG", "RESETSTAT")
    results = sweep(connect(cluster.url(), "task:{taskId}"), *(f"t{task}" for task in range(50)), "absent")
    assert summary(results) == [("Deleted", "", 1)] * 50 + [("Skipped", reasons.ABSENT, 0)]
    assert len(cluster.left()) == 50
    assert all(b"cmdstat_scan" not in node.run("INFO", "commandstats") for node in cluster.primaries)


def test_a_dry_run_counts_the_keys_of_all_nodes(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(f"task:task_1:{key}" for key in range(500))
    assert summary(sweep(connect(cluster.url()), "task_1", delete=False)) == [("WouldDelete", "", 500)]
    assert len(cluster.left()) == 500


def test_find_rest_finds_the_last_key_on_any_node(cluster: RedisCluster, connect: Opener) -> None:
    keys = connect(cluster.url())
    for node in cluster.primaries:
        cluster.flush()
        cluster.fill([key_on(cluster, node)])
        assert keys.find_rest(["task_1", "task_2"]) == {"task_1"}


def test_a_healthy_cluster_passes_the_probe_and_loses_nothing(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(f"task:task_1:{key}" for key in range(100))
    assert connect(cluster.url()).probe() is None
    assert len(cluster.left()) == 100


# --- slots that move ----------------------------------------------------------------------------------------------


def key_on(cluster: RedisCluster, node: ClusterNode, *, behind_page: int = 0) -> bytes:
    """A key of task_1 that belongs to a node, and that is not among the first keys that the node would show."""
    candidates = [f"task:task_1:{secrets.token_hex(4)}".encode() for _ in range(60)]
    mine = [key for key in candidates if cluster.owner_of(key) is node]
    if not behind_page:
        return mine[0]
    for key in mine:
        node.run("SET", key, "x")
    _, early = node.run("SCAN", 0, "COUNT", behind_page)
    late = [key for key in mine if key not in early]
    for key in mine:
        if key != late[0]:
            node.run("DEL", key)
    return late[0]


def fill_pages(node: ClusterNode, tag: bytes) -> None:
    """Keys of nobody for some pages of this node: the slot of `tag` belongs to it."""
    for page in range(4):
        names = [b"other:{%b}:%d:%d" % (tag, page, number) for number in range(PAGE_SIZE)]
        node.run("MSET", *(word for name in names for word in (name, b"x")))


@dataclass
class Move:
    """A key on the third node, which shows many others first; the first node, which has few, has shown all by then."""

    cluster: RedisCluster
    key: bytes
    source: ClusterNode
    target: ClusterNode

    @property
    def slot(self) -> int:
        return self.cluster.slot_of(self.key)

    def make(self) -> None:
        """Move the slot with all its keys."""
        self.cluster.open_move(self.slot, self.source, self.target)
        found = self.source.run("CLUSTER", "GETKEYSINSLOT", self.slot, 10_000)
        self.cluster.move_keys(found, self.source, self.target)
        self.cluster.close_move(self.slot, self.target)

    def move_back(self) -> None:
        self.source, self.target = self.target, self.source
        self.make()


@pytest.fixture
def move(cluster: RedisCluster) -> Iterator[Move]:
    target, _, source = cluster.primaries
    fill_pages(source, key_on(cluster, source))
    found = Move(cluster, key_on(cluster, source, behind_page=PAGE_SIZE), source, target)
    before = cluster.owner_of(found.key)
    yield found
    cluster.give_up_move(found.slot, *cluster.primaries)
    if cluster.owner_of(found.key) is not before:
        found.source, found.target = cluster.owner_of(found.key), before
        found.make()


def test_a_key_that_moves_to_a_node_already_asked_is_not_taken_for_absent(move: Move, connect: Opener) -> None:
    happens = Once(move.make, at=3)  # the known keys, the first page, the second
    (result,) = sweep(connect(move.cluster.url()), "task_1", halt=halting_never(happens))
    assert summary([result]) == [("Deleted", "", 1)]
    assert move.key not in move.cluster.left()


def test_find_rest_does_not_miss_a_key_that_moves(move: Move, connect: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = connect(move.cluster.url())
    happens = Once(move.make, at=2)
    search = keys._server.scan

    def scan(*arguments: object, **options: object) -> object:
        found = search(*arguments, **options)  # type: ignore[arg-type]  # whatever it takes
        advance = found.advance

        def step(*commands: object) -> list[object]:
            happens()
            return advance(*commands)  # type: ignore[arg-type]  # whatever it takes

        found.advance = step  # type: ignore[method-assign,assignment]  # the moment is what the test is about
        return found

    monkeypatch.setattr(keys._server, "scan", scan)
    assert keys.find_rest(["task_1"]) == {"task_1"}


def test_a_slot_whose_keys_lie_on_both_nodes_is_emptied_but_not_called_empty(move: Move, connect: Opener) -> None:
    tag = f"{{{move.key.decode()}}}"
    both = [f"tagged:t:{tag}:{number}".encode() for number in range(40)]
    move.cluster.fill(both)
    move.cluster.open_move(move.slot, move.source, move.target)
    move.cluster.move_keys(both[:20], move.source, move.target)
    keys = connect(move.cluster.url(), "tagged:{taskId}:*")

    (result,) = sweep(keys, "t")
    assert (result.outcome, result.kind, result.reason, result.count) == ("Failed", "waiting", reasons.UNAVAILABLE, 40)
    assert not result.at_least
    assert not {key for key in move.cluster.left() if key.startswith(b"tagged:")}
    with pytest.raises(Fault, match="settled"):
        keys.find_rest(["t"])

    move.cluster.give_up_move(move.slot, move.source, move.target)
    assert summary(sweep(keys, "t")) == [("Skipped", reasons.ABSENT, 0)]


def test_removals_follow_a_slot_that_moved_behind_our_back(move: Move, connect: Opener) -> None:
    keys = connect(move.cluster.url(), "task:{taskId}:*")
    guard = Guard(act=Once(move.make, at=1))
    assert summary(sweep(keys, "task_1", guard=guard)) == [("Deleted", "", 1)]
    assert move.key not in move.cluster.left()


def test_known_keys_are_found_where_they_are_now(move: Move, connect: Opener) -> None:
    pattern = move.key.decode().replace("task_1", "{taskId}")
    keys = connect(move.cluster.url(), pattern)
    assert keys.find_rest(["task_1"]) == {"task_1"}
    move.make()
    assert keys.find_rest(["task_1"]) == {"task_1"}
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 1)]


def test_keys_written_during_the_sweep_of_a_cluster_go_too(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(["task:task_1:a"])
    late = Once(lambda: cluster.fill(f"task:task_1:{number}" for number in range(20)), at=1)
    assert summary(sweep(connect(cluster.url()), "task_1", guard=Guard(act=late))) == [("Deleted", "", 21)]
    assert cluster.left() == set()


def test_a_task_that_never_stops_writing_to_the_cluster_is_reported(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(["task:task_1:0", "task:task_2:a"])
    guard = Guard(act=lambda question: cluster.fill([f"task:task_1:{question}"]))
    first, second = sweep(connect(cluster.url()), "task_1", "task_2", guard=guard)
    assert summary([first, second]) == [("Failed", reasons.STILL_WRITTEN, MAX_PASSES), ("Deleted", "", 1)]


# --- nodes that go away -------------------------------------------------------------------------------------------


@pytest.fixture
def own_cluster(stack: Stack, tmp_path: Path) -> Iterator[RedisCluster]:
    with start_cluster(stack, tmp_path) as found:
        yield found


def test_a_primary_that_is_killed_mid_way_leaves_what_was_counted_and_no_task_absent(
    own_cluster: RedisCluster, connect: Opener
) -> None:
    own_cluster.fill(f"task:task_1:{number}" for number in range(9 * PAGE_SIZE))
    keys = connect(own_cluster.url())
    victim = own_cluster.primaries[2]
    results = sweep(keys, "task_1", "task_2", guard=Guard(act=Once(victim.kill, at=2)))
    assert [(one.outcome, one.kind, one.reason) for one in results] == [("Failed", "waiting", reasons.UNAVAILABLE)] * 2
    first, second = results
    assert first.at_least
    assert second.count == 0
    assert f"127.0.0.1:{victim.port}" in first.message
    with pytest.raises(Fault) as caught:
        keys.find_rest(["task_2"])
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.UNAVAILABLE)
    problem = keys.probe()
    assert problem is not None
    assert problem.reason == reasons.UNAVAILABLE

    victim.start()
    own_cluster.wait_settled()
    left = len(own_cluster.left())
    assert first.count == 9 * PAGE_SIZE - left  # whatever the node of the failed connection did is not counted twice
    assert summary(sweep(keys, "task_1", "task_2")) == [("Deleted", "", left), ("Skipped", reasons.ABSENT, 0)]


def test_a_primary_that_hangs_is_a_timeout_and_no_task_is_absent(own_cluster: RedisCluster, connect: Opener) -> None:
    keys = connect(own_cluster.url(), timeout_seconds=0.5)
    assert keys.probe() is None
    own_cluster.primaries[1].signal(signal.SIGSTOP)
    (result,) = sweep(keys, "task_1")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "retriable", reasons.TIMEOUT)
    assert f"127.0.0.1:{own_cluster.primaries[1].port}" in result.message


def test_the_other_nodes_lead_to_the_cluster_when_that_of_the_url_is_replaced(
    stack: Stack, tmp_path: Path, connect: Opener
) -> None:
    with start_cluster(stack, tmp_path, with_replicas=True) as cluster:
        cluster.fill(f"task:task_1:{number}" for number in range(300))
        for node, replica in zip(cluster.primaries, cluster.replicas, strict=True):
            wait_until(lambda node=node, replica=replica: replica.left() == node.left(), what="a replica that has all")
        keys = connect(cluster.url())
        assert keys.probe() is None
        cluster.primaries[0].kill()

        (first,) = sweep(keys, "task_1")
        assert (first.outcome, first.kind, first.reason) == ("Failed", "waiting", reasons.UNAVAILABLE)
        wait_until(lambda: keys.probe() is None, what="a replica that takes over")
        assert summary(sweep(keys, "task_1")) == [("Deleted", "", 300 - first.count)]
        survivors = [cluster.replicas[0], *cluster.primaries[1:]]
        assert not any(node.left() for node in survivors)


def test_a_primary_that_hands_over_during_the_pass_costs_one_more_pass(
    stack: Stack, tmp_path: Path, connect: Opener
) -> None:
    with start_cluster(stack, tmp_path, with_replicas=True) as cluster:
        replica = cluster.replicas[2]
        fill_pages(cluster.primaries[2], key_on(cluster, cluster.primaries[2]))

        def fail_over() -> None:
            replica.run("CLUSTER", "FAILOVER")
            wait_until(
                lambda: b"role:master" in replica.run("INFO", "replication"), what="a replica that has taken over"
            )
            cluster.wait_settled()
            replica.run("SET", key, "x")

        key = key_on(cluster, cluster.primaries[2])
        (result,) = sweep(connect(cluster.url()), "task_1", halt=halting_never(Once(fail_over, at=4)))
        assert summary([result]) == [("Deleted", "", 1)]
        assert key not in replica.left()


# --- in the way ---------------------------------------------------------------------------------------------------


def test_a_database_number_is_refused_on_a_cluster(cluster: RedisCluster, connect: Opener) -> None:
    cluster.fill(["task:task_1:a"])
    result = assert_refused(connect(cluster.url(database=3)), "waiting", reasons.SECRET_VALUE_INVALID)
    assert "database 0 only" in result.message
    assert cluster.left() == {b"task:task_1:a"}


def test_a_wrong_password_of_a_cluster_is_an_authentication_failure(cluster: RedisCluster, connect: Opener) -> None:
    url = f"redis://:wrong@127.0.0.1:{cluster.primaries[0].port}"
    assert_refused(connect(url), "waiting", reasons.AUTHENTICATION_FAILED)


def test_a_node_that_cannot_be_reached_where_the_cluster_says_is_named(
    stack: Stack, tmp_path: Path, connect: Opener
) -> None:
    with start_cluster(stack, tmp_path, primaries=1) as cluster:
        (node,) = cluster.primaries
        node.kill()
        node.start("cluster-announce-ip 127.0.0.2", "cluster-announce-port 1")
        result = assert_refused(connect(cluster.url()), "waiting", reasons.UNAVAILABLE)
        assert "the node that the cluster announces as 127.0.0.2:1" in result.message


def test_slots_without_a_primary_are_in_the_way(cluster: RedisCluster, connect: Opener) -> None:
    node = cluster.primaries[0]
    slot = cluster.slot_of(key_on(cluster, node))
    node.run("CLUSTER", "DELSLOTS", slot)
    try:
        result = assert_refused(connect(cluster.url()), "waiting", reasons.UNAVAILABLE)
        assert "1 of its slots" in result.message
    finally:
        node.run("CLUSTER", "ADDSLOTS", slot)
        cluster.wait_settled()


@pytest.fixture
def acl_user(cluster: RedisCluster) -> Iterator[str]:
    """A user of all nodes that may do nothing yet."""
    name = f"user-{secrets.token_hex(4)}"
    permit(cluster, name, "on", ">pw", "-@all", "~*")
    yield name
    for node in cluster.primaries:
        node.run("ACL", "DELUSER", name)


def permit(cluster: RedisCluster, name: str, *rules: str) -> None:
    for node in cluster.primaries:
        node.run("ACL", "SETUSER", name, *rules)


def url_for(cluster: RedisCluster, name: str) -> str:
    return f"redis://{name}:pw@127.0.0.1:{cluster.primaries[0].port}"


def test_the_permissions_that_the_message_names_suffice_on_a_cluster(
    cluster: RedisCluster, connect: Opener, acl_user: str
) -> None:
    commands = ["ping", "select", "scan", "exists", "unlink", "cluster", "asking"]
    permit(cluster, acl_user, *(f"+{command}" for command in commands), "resetkeys", "~task:*")
    cluster.fill(f"task:task_1:{number}" for number in range(100))
    keys = connect(url_for(cluster, acl_user))
    assert keys.probe() is None
    assert summary(sweep(keys, "task_1")) == [("Deleted", "", 100)]


@pytest.mark.parametrize("missing", ["scan", "unlink", "cluster"])
def test_a_permission_that_one_node_does_not_give_is_reported(
    cluster: RedisCluster, connect: Opener, acl_user: str, missing: str
) -> None:
    permit(cluster, acl_user, "+@all")
    key = key_on(cluster, cluster.primaries[2])
    cluster.fill([key])
    cluster.primaries[2].run("ACL", "SETUSER", acl_user, f"-{missing}")
    (result,) = sweep(connect(url_for(cluster, acl_user)), "task_1")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.PERMISSION_DENIED)
    assert "CLUSTER" in result.message
    assert cluster.left() == {key}
