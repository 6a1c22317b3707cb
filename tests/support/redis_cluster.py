"""A real Redis cluster beside the dev stack: primaries and replicas from the stack's own redis-server.

Used by contract tests as a fixture of their module. Its processes belong to the stack and end with it; the tests look
at it through redis-py's own cluster client, which knows nothing of ours.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from dev.pipeline import wait_until
from dev.settings import write_private
from dev.stack import Stack

FIRST_PORT: Final = 20_000
PORTS: Final = 2_700
BUS_OFFSET: Final = 10_000  # where the nodes of a cluster talk to each other, above the port of each
NODE_TIMEOUT_MS: Final = 1_000  # a primary that is silent for so long is replaced
PATIENCE_SECONDS: Final = 30.0


@dataclass
class ClusterNode:
    """One server of a cluster."""

    stack: Stack
    directory: Path
    port: int
    password: str
    pid: int = 0
    client: redis.Redis = field(init=False)

    def __post_init__(self) -> None:
        self.client = redis.Redis(port=self.port, password=self.password, socket_timeout=10)
        self.client.response_callbacks.clear()  # replies as the server sends them

    def start(self, *options: str) -> None:
        """Start it, with what it knew of its cluster before; `options` are lines of its configuration."""
        self.directory.mkdir(exist_ok=True)
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f"masterauth {self.password}",
            f'dir "{self.directory}"',
            'save ""',
            "appendonly yes",  # a node that comes back has its keys
            "cluster-enabled yes",
            f"cluster-node-timeout {NODE_TIMEOUT_MS}",
            *options,
        ]
        write_private(self.directory / "redis.conf", "\n".join(lines) + "\n")
        command = [self.stack.settings.binaries["redis-server"], self.directory / "redis.conf"]
        self.pid = self.stack.spawn(self.name, command)
        wait_until(self.answers, seconds=PATIENCE_SECONDS, what=f"an answer of {self.name}")

    @property
    def name(self) -> str:
        return f"redis-cluster-{self.port}"

    @property
    def id(self) -> str:
        return str(self.run("CLUSTER", "MYID"), "ascii")

    def answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    def run(self, *command: str | bytes | int) -> Any:
        """One command, to this node itself."""
        return self.client.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated

    def left(self) -> set[bytes]:
        """The keys on this node."""
        return set(cast("list[bytes]", self.client.keys()))

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.signal(signal.SIGKILL)
        wait_until(
            lambda: not self.stack.processes.is_running(self.name), seconds=PATIENCE_SECONDS, what=f"{self.name}'s end"
        )

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def close(self) -> None:
        self.client.close()
        if self.pid and self.stack.processes.is_running(self.name):
            self.signal(signal.SIGCONT)
            self.kill()


@dataclass
class RedisCluster:
    """A cluster whose slots its primaries share evenly. `replicas`: one of each primary, or none."""

    primaries: list[ClusterNode]
    replicas: list[ClusterNode]

    @property
    def nodes(self) -> list[ClusterNode]:
        return [*self.primaries, *self.replicas]

    def url(self, number: int = 0, *, database: int = 0) -> str:
        """The url of one primary: all that a Secret says of a cluster."""
        node = self.primaries[number]
        return f"redis://:{node.password}@127.0.0.1:{node.port}/{database}"

    @contextmanager
    def client(self) -> Iterator[redis.RedisCluster]:
        """redis-py's client of the whole cluster."""
        node = self.primaries[0]
        client = redis.RedisCluster(host="127.0.0.1", port=node.port, password=node.password)
        try:
            yield client
        finally:
            client.close()

    def fill(self, keys: Iterable[str | bytes]) -> None:
        """Set keys, each where it belongs."""
        with self.client() as client, client.pipeline() as pipeline:  # type: ignore[no-untyped-call]  # as redis-py is
            for key in keys:
                pipeline.set(key, "x")
            pipeline.execute()

    def left(self) -> set[bytes]:
        """All keys of all primaries."""
        return set[bytes]().union(*(node.left() for node in self.primaries))

    def flush(self) -> None:
        for node in self.primaries:
            node.client.flushall()

    def slot_of(self, key: bytes) -> int:
        return int(self.primaries[0].run("CLUSTER", "KEYSLOT", key))

    def owner_of(self, key: bytes) -> ClusterNode:
        """The primary that says that it has the slot of this key."""
        slot = self.slot_of(key)
        (port,) = [
            port for low, high, (_, port, *_), *_ in self.primaries[0].run("CLUSTER", "SLOTS") if low <= slot <= high
        ]
        return next(node for node in self.nodes if node.port == port)

    # --- moving -----------------------------------------------------------------------------------------------------
    def open_move(self, slot: int, source: ClusterNode, target: ClusterNode) -> None:
        """Begin to move a slot; its keys stay where they are until they are moved."""
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, keys: Iterable[bytes], source: ClusterNode, target: ClusterNode) -> None:
        """Move keys of a slot that is open."""
        for key in keys:
            source.run("MIGRATE", "127.0.0.1", target.port, key, 0, 5000, "AUTH", target.password)

    def close_move(self, slot: int, target: ClusterNode) -> None:
        """The slot belongs to `target`, as everybody gets to know."""
        for node in [target, *(node for node in self.primaries if node is not target)]:
            node.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        self.wait_settled()

    def give_up_move(self, slot: int, *nodes: ClusterNode) -> None:
        """The slot stays where it was."""
        for node in nodes:
            node.run("CLUSTER", "SETSLOT", slot, "STABLE")

    def wait_settled(self) -> None:
        """Until all nodes are well and say the same of all slots."""
        wait_until(self.is_settled, seconds=PATIENCE_SECONDS, what="a settled cluster")

    def is_settled(self) -> bool:
        """Whether every node that answers is well, and they agree on who has which slots."""
        said = {_describe_assignment(node) for node in self.nodes if node.answers()}
        return len(said) == 1 and None not in said


def _describe_assignment(node: ClusterNode) -> frozenset[tuple[bytes, ...]] | None:
    """Each primary with its slots, as this node says; None where it is not well."""
    if b"cluster_state:ok" not in node.run("CLUSTER", "INFO"):
        return None
    lines = [line.split() for line in node.run("CLUSTER", "NODES").splitlines()]
    return frozenset((line[0], *line[8:]) for line in lines if b"master" in line[2] and line[8:])


@contextmanager
def start_cluster(
    stack: Stack, directory: Path, *, primaries: int = 3, with_replicas: bool = False
) -> Iterator[RedisCluster]:
    """A cluster for the length of a `with` block."""
    with ExitStack() as on_exit:
        password = secrets.token_hex(8)

        def start(number: int) -> ClusterNode:
            node = ClusterNode(stack, directory / f"node-{number}", _free_port(), password)
            on_exit.callback(node.close)
            node.start()
            return node

        cluster = RedisCluster([start(number) for number in range(primaries)], [])
        _join(cluster.primaries)
        if with_replicas:
            cluster.replicas = [start(primaries + number) for number in range(primaries)]
            _replicate(cluster)
        cluster.wait_settled()
        yield cluster


def _join(primaries: list[ClusterNode]) -> None:
    share = -(-REDIS_CLUSTER_HASH_SLOTS // len(primaries))
    for number, node in enumerate(primaries):
        slots = range(number * share, min((number + 1) * share, REDIS_CLUSTER_HASH_SLOTS))
        node.run("CLUSTER", "ADDSLOTS", *slots)
        node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
    for node in primaries[1:]:
        primaries[0].run("CLUSTER", "MEET", "127.0.0.1", node.port)


def _replicate(cluster: RedisCluster) -> None:
    for node, primary in zip(cluster.replicas, cluster.primaries, strict=True):
        node.run("CLUSTER", "MEET", "127.0.0.1", cluster.primaries[0].port)
        name = primary.id.encode()
        wait_until(partial(_knows, node, name), seconds=PATIENCE_SECONDS, what="a replica that knows its primary")
        node.run("CLUSTER", "REPLICATE", name)


def _knows(node: ClusterNode, name: bytes) -> bool:
    return name in node.run("CLUSTER", "NODES")


def _free_port() -> int:
    """A port whose companion for the bus is free, too; both below those that the system hands out by itself."""
    while True:
        port = random.randrange(FIRST_PORT, FIRST_PORT + PORTS)
        if _is_free(port) and _is_free(port + BUS_OFFSET):
            return port


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False
