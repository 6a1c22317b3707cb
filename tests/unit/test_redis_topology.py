"""What the nodes of a cluster say of each other, read and compared: no server needed."""

import pytest

from taskdeletion.backends.redis.connection import Node
from taskdeletion.backends.redis.topology import find_agreement, read_topology, read_view
from taskdeletion.domain.faults import Fault

ASKED = Node("asked", 7000)
A, B = Node("10.0.0.1", 6379), Node("10.0.0.2", 6379)
LINE_A = b"aaa 10.0.0.1:6379@16379 %s - 0 0 %s connected 0-8191"
LINE_B = b"bbb 10.0.0.2:6379@16379 %s - 0 0 2 connected 8192-16383"
REPLICA = b"ccc 10.0.0.3:6379@16379 %s aaa 0 0 1 connected"


def nodes(*lines: bytes) -> bytes:
    return b"\n".join(lines) + b"\n"


def says_a(epoch: bytes = b"1", moving: bytes = b"") -> bytes:
    return nodes(LINE_A % (b"myself,master", epoch) + moving, LINE_B % b"master", REPLICA % b"slave")


def says_b(epoch: bytes = b"1") -> bytes:
    return nodes(LINE_A % (b"master", epoch), LINE_B % b"myself,master", REPLICA % b"slave")


def slots(*ranges: tuple[int, int, bytes | None, int]) -> list[object]:
    return [[low, high, [host, port, b"id"], [b"a replica", 1, b"id"]] for low, high, host, port in ranges]


def test_each_slot_has_its_primary_and_no_replica() -> None:
    found = read_topology(slots((0, 8191, b"10.0.0.1", 6379), (8192, 16383, b"10.0.0.2", 6379)), ASKED)
    assert found.is_cluster
    assert found.primaries == (A, B)
    assert (found.owners[0], found.owners[8191], found.owners[8192], found.owners[16383]) == (A, A, B, B)
    assert found.node_of(b"foo") == B  # slot 12182, by the specification
    assert found.node_of(b"x{foo}y") == B
    assert found.node_of(b"bar") == A  # slot 5061
    assert found.node_of(None) == A


@pytest.mark.parametrize("host", [None, b"", b"?"])
def test_a_node_without_a_host_lies_where_we_asked(host: bytes | None) -> None:
    assert read_topology(slots((0, 16383, host, 7001)), ASKED).primaries == (Node("asked", 7001),)


@pytest.mark.parametrize(
    "ranges", [[], [(0, 16382, b"a", 1)], [(1, 16383, b"a", 1)], [(0, 5, b"a", 1), (7, 16383, b"a", 1)]]
)
def test_slots_that_nobody_has_are_a_fault(ranges: list[tuple[int, int, bytes | None, int]]) -> None:
    with pytest.raises(Fault, match="have no primary") as caught:
        read_topology(slots(*ranges), ASKED)
    assert caught.value.kind == "waiting"


def test_nodes_that_say_the_same_agree() -> None:
    agreement = find_agreement({A: read_view(says_a()), B: read_view(says_b())})
    assert agreement == frozenset([(b"aaa", b"1", (b"0-8191",)), (b"bbb", b"2", (b"8192-16383",))])


@pytest.mark.parametrize(
    "views",
    [
        pytest.param({A: says_a(b"1"), B: says_b(b"3")}, id="another epoch"),
        pytest.param({A: says_a(moving=b" [93->-bbb]"), B: says_b()}, id="a slot that leaves"),
        pytest.param({A: says_a(moving=b" [9300-<-bbb]"), B: says_b()}, id="a slot that arrives"),
        pytest.param({A: says_a()}, id="a primary that was not asked"),
        pytest.param({A: says_a(), B: says_b(), Node("c", 1): nodes(REPLICA % b"myself,slave")}, id="a lone node"),
        pytest.param(
            {A: says_a(), B: nodes(LINE_A % (b"master", b"1"), LINE_B % b"myself,slave")}, id="no primary now"
        ),
        pytest.param({A: says_a(), B: says_a()}, id="two addresses of one node"),
    ],
)
def test_a_cluster_that_is_not_settled_has_no_agreement(views: dict[Node, bytes]) -> None:
    assert find_agreement({node: read_view(text) for node, text in views.items()}) is None
