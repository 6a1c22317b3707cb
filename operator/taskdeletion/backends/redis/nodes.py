"""Connections to the nodes of one Redis, and the trips to them: commands out to all, then replies in from all.

Called by `server.py`. It never sends a command twice and never follows a redirection: what a node answered, or that it
did not, is what the caller gets.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import redis

from taskdeletion.backends.redis.connection import Address, Node, PoolFactory, RedisConnection
from taskdeletion.backends.redis.faults import fault_of, name_node
from taskdeletion.domain.faults import Fault

Command = tuple[bytes | str | int, ...]


class Nodes:
    """A pool of connections per node, made when the node is first asked. Thread-safe."""

    def __init__(self, connection: RedisConnection, timeout_seconds: float) -> None:
        """Raises Fault (waiting, SecretValueInvalid) for an unusable Secret."""
        self._factory = PoolFactory(connection, timeout_seconds)
        self._pools: dict[Node, redis.ConnectionPool] = {}
        self._lock = threading.Lock()

    @property
    def address(self) -> Address:
        """What the url says."""
        return self._factory.address

    def travel(self, work: Mapping[Node, Sequence[Command]]) -> dict[Node, list[Any]]:
        """The replies to each node's commands, in order, as the server sends them (RESP 2: bytes, int, list, None).

        An error reply is an exception of the driver in its place. Where a connection fails, a Fault is in the place of
        every reply that did not come: whether such a command was carried out is not known. Nothing is sent to further
        nodes once one could not be reached, so that many dead nodes take no longer than one.
        """
        with ExitStack() as stack:
            talks = {node: self._begin(node, commands, stack) for node, commands in work.items()}
            broken: Fault | None = None
            for talk in talks.values():
                broken = talk.send() if broken is None else talk.fail(broken)
            for talk in talks.values():
                talk.read()
        return {node: talk.replies for node, talk in talks.items()}

    def keep_only(self, nodes: Collection[Node]) -> None:
        """Close the idle connections to all other nodes: they have left the cluster."""
        with self._lock:
            gone = [self._pools.pop(node) for node in self._pools.keys() - set(nodes)]
        for pool in gone:
            pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.disconnect()

    def _begin(self, node: Node, commands: Sequence[Command], stack: ExitStack) -> "_Talk":
        talk = _Talk(self._pool(node), commands, None if node == self.address.node else node)
        stack.callback(talk.close)
        return talk

    def _pool(self, node: Node) -> redis.ConnectionPool:
        with self._lock:
            if node not in self._pools:
                self._pools[node] = self._factory.build(node)
            return self._pools[node]


class _Talk:
    """One trip to one node. `replies` holds as many as there are commands once `read` has returned."""

    def __init__(self, pool: redis.ConnectionPool, commands: Sequence[Command], announced: Node | None) -> None:
        self.replies: list[Any] = []
        self._pool = pool
        self._commands = commands
        self._announced = announced
        self._connection: Any = None

    def send(self) -> Fault | None:
        """Connect if need be, and send all commands; what stood in the way."""
        try:
            self._connection = self._pool.get_connection()
            self._connection.send_packed_command(self._connection.pack_commands(self._commands))
        except redis.RedisError as error:
            return self.fail(self._fault_of(error))
        return None

    def read(self) -> None:
        """Read the replies that are due."""
        while self._is_due:
            try:
                self.replies.append(self._connection.read_response())
            except redis.ResponseError as error:
                self.replies.append(error)
            except redis.RedisError as error:
                self.fail(self._fault_of(error))

    def fail(self, fault: Fault) -> Fault:
        """The replies that are due will not come."""
        self._disconnect()
        self.replies += [fault] * (len(self._commands) - len(self.replies))
        return fault

    def close(self) -> None:
        """Give the connection back; one with replies still to come is of no use to anybody."""
        if self._is_due:
            self._disconnect()
        if self._connection is not None:
            self._pool.release(self._connection)

    @property
    def _is_due(self) -> bool:
        return len(self.replies) < len(self._commands)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()

    def _fault_of(self, error: redis.RedisError) -> Fault:
        fault = fault_of(error)
        return fault if self._announced is None else name_node(fault, "{}:{}".format(*self._announced))
