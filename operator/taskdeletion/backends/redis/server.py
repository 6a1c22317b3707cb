"""One Redis, standalone or a cluster: commands by key, scripts by slot, all keys in pages.

Called by the sweep of keys and by the catalog, in threads. A command is carried out at most once: it is sent again only
where a node answered that it has not touched it; where a reply is lost the caller hears of it.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, MovedError, NoScriptError

from taskdeletion.api import reasons
from taskdeletion.backends.redis.connection import Node, RedisConnection
from taskdeletion.backends.redis.faults import (
    database_of_cluster,
    read_only_replica,
    require_reply,
    unsupported_mode,
)
from taskdeletion.backends.redis.nodes import Command, Nodes
from taskdeletion.backends.redis.scan import PAGE_SIZE, Scan
from taskdeletion.backends.redis.topology import (
    Assignment,
    Greeting,
    Topology,
    find_agreement,
    read_greeting,
    read_info,
    read_topology,
    read_view,
)
from taskdeletion.domain.faults import Fault

#: A slot that moves is found after one redirection, or two.
MAX_REDIRECTIONS = 5
_KEYLESS = frozenset({"PING", "TIME"})
_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_AWAY = frozenset({reasons.UNAVAILABLE, reasons.TIMEOUT})
ScriptCall = tuple[Sequence[bytes], Sequence[bytes | int]]


class RedisServer:
    """Safe for many threads; they share its connections."""

    def __init__(self, connection: RedisConnection, *, timeout_seconds: float = 10.0) -> None:
        """Raises Fault (waiting, SecretValueInvalid) for an unusable Secret. Connects when it is first used."""
        self._nodes = Nodes(connection, timeout_seconds)
        self._known: Topology | None = None
        self._seeds: tuple[Node, ...] = ()

    @property
    def is_cluster(self) -> bool:
        """Whether keys have slots. Raises Fault where the server cannot be asked."""
        return self._topology().is_cluster

    def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to commands, in order: one trip per node. Raises Fault where a connection fails.

        The second element of a command is its first key and decides which node gets it; PING and TIME have none.
        Replies are as the server sends them (RESP 2: bytes, int, list, None); an error reply is an exception of the
        driver in its place.
        """
        replies = self.send(commands)
        for reply in replies:
            if isinstance(reply, Fault):
                raise reply
        return replies

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """As `exchange`, but with a Fault in the place of every reply that a failed connection has kept.

        Raises Fault where nothing was sent, since nobody could say what the Redis is. ValueError for SCAN.
        """
        if any(command[0] == "SCAN" for command in commands):
            raise ValueError("SCAN sees the keys of one node only; use scan()")
        return self._deliver([(None, command) for command in commands])

    def scan(self, match: bytes | None, *, count: int = PAGE_SIZE) -> Scan:
        """All keys that `match` (None: any) matches, of every primary, in pages. Raises Fault.

        What the Redis is, and who its primaries are, is asked anew: on a node of a cluster SCAN shows a part of the
        keys only, and looks complete.
        """
        topology = self._discover()
        before = self._assignment(topology)

        def is_settled() -> bool:
            self.require_primary()
            return not topology.is_cluster or (before is not None and self._assignment(topology) == before)

        return Scan(self._deliver, topology.primaries, is_settled, match=match, count=count)

    def require_primary(self) -> None:
        """Ask behind a look: what a replica shows may be old. Raises Fault (waiting) where the server is one.

        In a cluster there is nothing to ask: a node that is no longer the primary of a slot sends elsewhere.
        """
        topology = self._topology()
        if not topology.is_cluster:
            self._greet(topology.primaries[0])

    def evaluate(self, script: bytes, calls: Sequence[ScriptCall]) -> list[Any]:
        """The reply to one run of a Lua script per (keys, args), in order; pipelined. Raises Fault.

        All keys of a call must share a slot (`group_by_slot`). Each run is atomic, and is sent once, but to a server
        that does not have the script yet and so has done nothing. An error reply is an exception in its place.
        """
        digest = hashlib.sha1(script, usedforsecurity=False).hexdigest()
        replies = self.exchange([_script_command("EVALSHA", digest, call) for call in calls])
        missing = [number for number, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missing:
            again = self.exchange([_script_command("EVAL", script, calls[number]) for number in missing])
            for number, reply in zip(missing, again, strict=True):
                replies[number] = reply
        return replies

    def group_by_slot(self, keys: Iterable[bytes]) -> list[list[bytes]]:
        """`keys` in groups that one call of a script may take: one, or on a cluster one per slot. Raises Fault."""
        groups: dict[int, list[bytes]] = {}
        is_cluster = self.is_cluster
        for key in keys:
            groups.setdefault(key_slot(key) if is_cluster else 0, []).append(key)
        return list(groups.values())

    def now(self) -> datetime:
        """The clock of the server (of a cluster: of one of its nodes), in UTC. Raises Fault."""
        seconds, microseconds = require_reply(self.exchange([("TIME",)])[0])
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(microseconds))

    def close(self) -> None:
        """Close all connections."""
        self._nodes.close()

    # --- sending ------------------------------------------------------------------------------------------------------
    def _deliver(self, commands: Sequence[tuple[Node | None, Command]]) -> list[Any]:
        """The replies to commands, each to the node beside it (None: the one that has its key); see `send`."""
        topology = self._topology()
        if topology.is_cluster:
            replies = self._route(topology, commands)
        else:
            (node,) = topology.primaries
            replies = self._nodes.travel({node: [command for _, command in commands]})[node]
        if any(isinstance(reply, Fault | MovedError) for reply in replies):
            self._known = None
        return replies

    def _route(self, topology: Topology, commands: Sequence[tuple[Node | None, Command]]) -> list[Any]:
        targets = {
            number: [(node or topology.node_of(_first_key(command)), command)]
            for number, (node, command) in enumerate(commands)
        }
        replies: list[Any] = [None] * len(commands)
        for _ in range(1 + MAX_REDIRECTIONS):
            self._travel(targets, replies)
            targets = self._redirections(targets, replies)
            if not targets:
                break
        return replies

    def _travel(self, targets: Mapping[int, Sequence[tuple[Node, Command]]], replies: list[Any]) -> None:
        """One trip. Of a command that comes behind another one (ASKING), the last reply counts."""
        work: dict[Node, list[Command]] = {}
        numbers: dict[Node, list[int]] = {}
        for number, steps in targets.items():
            for node, command in steps:
                work.setdefault(node, []).append(command)
                numbers.setdefault(node, []).append(number)
        for node, found in self._nodes.travel(work).items():
            for number, reply in zip(numbers[node], found, strict=True):
                replies[number] = reply

    def _redirections(
        self, targets: Mapping[int, Sequence[tuple[Node, Command]]], replies: Sequence[Any]
    ) -> dict[int, list[tuple[Node, Command]]]:
        """Where to send again what a node did not do because the slot has moved, or the key has moved ahead of it."""
        again: dict[int, list[tuple[Node, Command]]] = {}
        for number, steps in targets.items():
            asked, command = steps[-1]
            reply = replies[number]
            if isinstance(reply, AskError):  # MOVED is one, too
                node = Node(reply.host or asked.host, reply.port)
                again[number] = [(node, command)]
                if isinstance(reply, MovedError):
                    self._known = None
                else:
                    again[number].insert(0, (node, ("ASKING",)))
        return again

    # --- who is there -------------------------------------------------------------------------------------------------
    def _topology(self) -> Topology:
        return self._known or self._discover()

    def _discover(self) -> Topology:
        """What the Redis is now, from the node of the url, or where that is away from a node it was known to have."""
        home = self._nodes.address.node
        first: Fault | None = None
        for node in dict.fromkeys((home, *self._seeds)):
            try:
                found = self._ask(node)
            except Fault as fault:
                first = first or fault
                if fault.reason not in _AWAY:
                    break
            else:
                self._nodes.keep_only({home, *found.primaries})
                self._known = found
                self._seeds = found.primaries
                return found
        assert first is not None
        raise first

    def _ask(self, node: Node) -> Topology:
        greeting = self._greet(node)
        if greeting.mode == "standalone":
            return Topology((node,))
        if greeting.mode != "cluster":
            raise unsupported_mode(greeting.mode)
        if self._nodes.address.database:
            raise database_of_cluster()
        return read_topology(require_reply(self._nodes.travel({node: [("CLUSTER", "SLOTS")]})[node][0]), node)

    def _greet(self, node: Node) -> Greeting:
        """HELLO is there since Redis 6 and needs no permission; before there were none that INFO could need."""
        hello = self._nodes.travel({node: [("HELLO",)]})[node][0]
        if not isinstance(hello, redis.ResponseError):
            greeting = read_greeting(require_reply(hello))
        else:
            greeting = read_info(require_reply(self._nodes.travel({node: [("INFO",)]})[node][0]))
        if greeting.is_replica and greeting.mode == "standalone":
            self._known = None
            raise read_only_replica()
        return greeting

    def _assignment(self, topology: Topology) -> Assignment | None:
        """Who has which slots, where all primaries agree and no keys are moving; else None. Raises Fault."""
        if not topology.is_cluster:
            return None
        found = self._nodes.travel({node: [("CLUSTER", "NODES")] for node in topology.primaries})
        return find_agreement({node: read_view(require_reply(reply)) for node, (reply,) in found.items()})


def _first_key(command: Command) -> bytes | None:
    """The key that decides where a command goes."""
    name = command[0]
    if name in _KEYLESS or (name in _SCRIPTS and not command[2]):
        return None
    key = command[3] if name in _SCRIPTS else command[1]
    return key if isinstance(key, bytes) else str(key).encode()


def _script_command(name: str, script: str | bytes, call: ScriptCall) -> Command:
    keys, arguments = call
    return (name, script, len(keys), *keys, *arguments)
