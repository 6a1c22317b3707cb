"""From the values of a Secret to connections to a Redis, or a fault that says what to correct.

Called by `nodes.py`, once per node. Nothing is sent here.
"""

import ssl
from dataclasses import dataclass, field
from socket import socket
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskdeletion.backends.redis.faults import invalid_url
from taskdeletion.backends.tls_files import build_ssl_context

DEFAULT_PORT = 6379


class Node(NamedTuple):
    """Where one server listens."""

    host: str
    port: int


@dataclass(frozen=True)
class RedisConnection:
    """What a Secret says: `url` (redis:// or rediss://) and PEM bytes for TLS. Of a cluster, `url` names any node."""

    url: str = field(repr=False)
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Address:
    """What a url says."""

    node: Node
    database: int
    username: str | None
    password: str | None = field(repr=False)
    tls: bool


def parse_url(url: str) -> Address:
    """The parts of redis[s]://[user:password@]host[:port][/database]; Fault, without the URL in it, for others."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        raise invalid_url("it cannot be parsed; check host and port, and percent-encode the password") from None
    if parts.scheme not in ("redis", "rediss"):
        raise invalid_url("it begins with neither redis:// nor rediss://")
    if not host:
        raise invalid_url("it names no host")
    if "?" in url or "#" in url:
        raise invalid_url("it has parameters; none are allowed: remove all from '?' on (and write # as %23)")
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdigit() and len(database) <= 9):
        raise invalid_url("behind the host stands no database number, such as /3")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    node = Node(host, port or DEFAULT_PORT)
    return Address(node, int(database), username or None, password or None, parts.scheme == "rediss")


class _TlsConnection(redis.SSLConnection):
    """redis-py reads certificates from files at every connect; ours were read once, from memory."""

    def __init__(self, *, context: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context

    def _wrap_socket_with_ssl(self, sock: socket) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self.host)


class PoolFactory:
    """Makes the pool of each node; credentials and certificates are read once. Raises Fault for an unusable Secret."""

    def __init__(self, connection: RedisConnection, timeout_seconds: float) -> None:
        self.address = parse_url(connection.url)
        self._timeout_seconds = timeout_seconds
        self._context: ssl.SSLContext | None = None
        if self.address.tls:
            self._context = build_ssl_context(ca=connection.ca, cert=connection.cert, key=connection.key)

    def build(self, node: Node) -> redis.ConnectionPool:
        """Connections that speak RESP 2 (every server does) and send each command once.

        A command that were sent again after a lost reply would count too little: the caller tries again instead.
        """
        options: dict[str, Any] = {
            "host": node.host,
            "port": node.port,
            "db": self.address.database,
            "username": self.address.username,
            "password": self.address.password,
            "socket_timeout": self._timeout_seconds,
            "socket_connect_timeout": self._timeout_seconds,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        if self._context is None:
            return redis.ConnectionPool(**options)
        return redis.ConnectionPool(connection_class=_TlsConnection, context=self._context, **options)
