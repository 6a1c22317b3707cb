"""Which node of a Redis has which key, and what the nodes of a cluster say of each other. Pure; `server.py` asks them.

A standalone Redis is a topology of one node that has all keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from taskdeletion.backends.redis.connection import Node
from taskdeletion.backends.redis.faults import unsettled_cluster

#: Answers that name no host: the node lies at the host that was asked.
_SAME_HOST = (None, b"", b"?")
_REPLICAS = frozenset({"replica", "slave"})
#: Of every primary with slots: its id, its configuration epoch, and its slots.
Assignment = frozenset[tuple[bytes, bytes, tuple[bytes, ...]]]


@dataclass(frozen=True)
class Topology:
    """`primaries`: every node that has keys. `owners`: the node of each slot; empty where the Redis is no cluster."""

    primaries: tuple[Node, ...]
    owners: Sequence[Node] = field(default=(), repr=False)

    @property
    def is_cluster(self) -> bool:
        """Whether keys have slots."""
        return bool(self.owners)

    def node_of(self, key: bytes | None) -> Node:
        """The node to send a command with this first key to; any node for a command without keys."""
        return self.owners[key_slot(key)] if key is not None and self.owners else self.primaries[0]


@dataclass(frozen=True)
class View:
    """What one node says: who it is, whether keys are moving into or out of it, and who has which slots."""

    myself: bytes
    is_moving: bool
    assignment: Assignment


def read_topology(slots: Sequence[Any], asked: Node) -> Topology:
    """The topology of a cluster, from the reply to CLUSTER SLOTS. Raises Fault where slots have no node."""
    owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in slots:
        node = Node(asked.host if host in _SAME_HOST else host.decode(), int(port) or asked.port)
        owners[first : last + 1] = [node] * (last + 1 - first)
    known = [owner for owner in owners if owner is not None]
    if len(known) < REDIS_CLUSTER_HASH_SLOTS:
        raise unsettled_cluster(f"{REDIS_CLUSTER_HASH_SLOTS - len(known)} of its slots have no primary")
    return Topology(tuple(dict.fromkeys(known)), known)


def read_view(nodes: bytes) -> View:
    """One node's view, from its reply to CLUSTER NODES: `id address flags master ping pong epoch link slot...`."""
    myself, is_moving, assignment = b"", False, []
    for fields in (line.split() for line in nodes.splitlines()):
        name, flags, epoch, slots = fields[0], fields[2].split(b","), fields[6], fields[8:]
        if b"myself" in flags:
            myself = name
            is_moving = any(slot.startswith(b"[") for slot in slots)  # [slot->-target] or [slot-<-source]
        settled = tuple(slot for slot in slots if not slot.startswith(b"["))
        if b"master" in flags and settled:
            assignment.append((name, epoch, settled))
    return View(myself, is_moving, frozenset(assignment))


def find_agreement(views: Mapping[Node, View]) -> Assignment | None:
    """What all primaries of a cluster say; None where they differ, keys are moving, or one that was asked is none."""
    said = {view.assignment for view in views.values()}
    if len(said) != 1 or any(view.is_moving for view in views.values()):
        return None
    (assignment,) = said
    asked = {view.myself for view in views.values()}
    return assignment if asked == {name for name, _, _ in assignment} else None


@dataclass(frozen=True)
class Greeting:
    """What a server says of itself. `mode`: standalone, cluster or sentinel."""

    mode: str
    is_replica: bool


def read_greeting(hello: Any) -> Greeting:
    """What a server is, from its reply to HELLO."""
    fields = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
    return Greeting(_read_word(fields, "mode", "standalone"), _read_word(fields, "role", "master") in _REPLICAS)


def read_info(info: bytes) -> Greeting:
    """What a server is, from its reply to INFO."""
    return Greeting("cluster" if b"cluster_enabled:1" in info else "standalone", b"role:slave" in info)


def _read_word(fields: Mapping[Any, Any], name: str, otherwise: str) -> str:
    word = fields.get(name.encode(), fields.get(name, otherwise))
    return word.decode() if isinstance(word, bytes) else str(word)
