"""The Redis keys of tasks: count them, delete them, look whether any is left. The only file that imports redis.

Called by executors, in threads. It deletes a key only where a pattern of the store gives it, byte by byte, to a task
that was named, and to no other. It never logs, never decides whether a task may go, and never waits to try again.
"""

import ssl
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from socket import socket
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource
from taskdeletion.backends.tls_files import build_ssl_context
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern, build_scan_match
from taskdeletion.domain.results import Guard, Halt, Problem, StepResult, never_halt
from taskdeletion.domain.task_ids import require_task_id

RESOURCE: Resource = "Redis"
PAGE_SIZE = 2000
MAX_PASSES = 5
DEFAULT_PORT = 6379

Command = tuple[bytes | str | int, ...]


@dataclass(frozen=True)
class RedisConnection:
    """What a Secret says: `url` (redis:// or rediss://) and PEM bytes for TLS."""

    url: str = field(repr=False)
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


class RedisKeys:
    """The keys of the tasks of one store. Safe for many threads; they share one pool of connections."""

    def __init__(self, connection: RedisConnection, patterns: Sequence[str], *, timeout_seconds: float = 10.0) -> None:
        """Raises Fault (waiting, SecretValueInvalid) for an unusable Secret, ValueError for an unsafe pattern."""
        self._patterns = [KeyPattern.parse(pattern) for pattern in patterns]
        self._pool = _build_pool(connection, timeout_seconds)
        self._client = redis.Redis(connection_pool=self._pool)

    def sweep(self, task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt) -> dict[str, StepResult]:
        """Delete (or, without `delete`, count) the keys of all tasks in one pass, until a pass finds none.

        One result per id: Deleted, WouldDelete, Skipped (Absent) or Failed; a failure keeps the count of what went
        before. `guard` is asked before every batch: tasks that it returns are left alone from then on.
        """
        sweep = _Sweep(self._patterns, task_ids, delete=delete, guard=guard, halt=halt)
        try:
            self._require_single_node()
            self._repeat(sweep)
        except Fault as fault:
            sweep.fail(sweep.active, fault)
        return {task_id: sweep.result(task_id) for task_id in task_ids}

    def find_rest(self, task_ids: Collection[str]) -> set[str]:
        """The ids that still have keys. Raises Fault."""
        sweep = _Sweep(self._patterns, task_ids, delete=False, guard=lambda _: {}, halt=never_halt)
        self._require_single_node()
        self._pass(sweep)
        return sweep.found

    def probe(self) -> Problem | None:
        """What stands in the way of a sweep: reachable, authorised, may SCAN and UNLINK. Deletes nothing."""
        try:
            self._require_single_node()
            keys = [pattern.nobodys_key(uuid4().hex) for pattern in self._patterns]
            self._exchange([("PING",), ("SCAN", 0, "COUNT", 1)])
            self._exchange([(command, key) for key in keys for command in ("EXISTS", "UNLINK")])
        except Fault as fault:
            return Problem(fault.reason, fault.message)
        return None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self._pool.disconnect()

    def _repeat(self, sweep: "_Sweep") -> None:
        for _ in range(MAX_PASSES):
            self._pass(sweep)
            if not sweep.found or not sweep.delete:
                return
        message = f"keys were still being written after {MAX_PASSES} passes"
        sweep.fail(sweep.found & sweep.active, Fault("retriable", reasons.STILL_WRITTEN, message))

    def _pass(self, sweep: "_Sweep") -> None:
        sweep.found.clear()
        for keys in _chunks(sweep.known_keys(), PAGE_SIZE):
            sweep.check_halt()
            replies = self._exchange([("EXISTS", key) for key in keys])
            self._remove(sweep, [key for key, there in zip(keys, replies, strict=True) if there])
        self._scan(sweep)

    def _scan(self, sweep: "_Sweep") -> None:
        wild = [pattern for pattern in self._patterns if pattern.has_wildcard]
        match = build_scan_match(wild, sweep.only_id) if wild else None
        cursor: int | None = 0 if wild and sweep.active else None
        keys: list[bytes] = []
        while cursor is not None or keys:
            sweep.check_halt()
            follow_up = [] if cursor is None else [_scan_command(cursor, match)]
            replies = self._remove(sweep, keys, follow_up)
            cursor, keys = _read_page(replies[0]) if replies else (None, [])

    def _remove(self, sweep: "_Sweep", keys: Iterable[bytes], follow_up: Sequence[Command] = ()) -> list[Any]:
        """Remove the keys that may go, and send `follow_up` on the same trip; the replies to `follow_up`."""
        batch = sweep.admit(keys)
        if not sweep.active or not (batch or follow_up):
            return []
        sweep.in_flight = set(batch)
        commands: list[Command] = [("UNLINK", *doomed) for doomed in batch.values()]
        replies = self._send([*commands, *follow_up])
        sweep.in_flight = set()
        for task_id, reply in zip(batch, replies, strict=False):
            sweep.count(task_id, reply)
        return [_require_reply(reply) for reply in replies[len(commands) :]]

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands on one trip; their replies. The first error reply is raised as Fault."""
        return [_require_reply(reply) for reply in self._send(commands)]

    def _send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands on one trip; their replies, among which error replies are exceptions."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
        try:
            return list(pipeline.execute(raise_on_error=False))
        except redis.RedisError as error:
            raise _fault_of(error) from error

    def _require_single_node(self) -> None:
        if self._mode != "standalone":
            raise _mode_fault(self._mode)

    @cached_property
    def _mode(self) -> str:
        """What the server is. On a node of a cluster SCAN would see a part of the keys only, and look complete.

        HELLO is there since Redis 6 and needs no permission; before there were no permissions that INFO could need.
        """
        hello, info = self._send([("HELLO",), ("INFO", "cluster")])
        if not isinstance(hello, redis.RedisError):
            return _read_mode(hello)
        return "cluster" if _require_reply(info).get("cluster_enabled") else "standalone"


class _Sweep:
    """The state of one sweep: who may still be touched, what was counted, what went wrong."""

    def __init__(
        self, patterns: Sequence[KeyPattern], task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt
    ) -> None:
        self.delete = delete
        self.active = {require_task_id(task_id) for task_id in task_ids}
        self.found: set[str] = set()  # in this pass
        self.in_flight: set[str] = set()  # sent to be removed, reply not seen
        self._patterns = patterns
        self._guard = guard
        self._halt = halt
        self._counts = dict.fromkeys(task_ids, 0)
        self._unsure: set[str] = set()
        self._faults: dict[str, Fault] = {}
        self._counted: set[bytes] = set()  # SCAN may show a key twice; a dry run counts it once

    @property
    def only_id(self) -> str | None:
        """The id, where there is only one to look for."""
        return next(iter(self.active)) if len(self.active) == 1 else None

    def known_keys(self) -> Iterator[bytes]:
        """The keys that need no search, of the tasks that may still be touched."""
        for task_id in sorted(self.active):
            for pattern in self._patterns:
                key = pattern.exact_key(task_id)
                if key is not None:
                    yield key

    def check_halt(self) -> None:
        """Raise the fault to stop with, if there is one."""
        fault = self._halt()
        if fault is not None:
            raise fault

    def admit(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        """The keys to remove now, by task: those that are ours, without tasks that the guard refuses."""
        batch = self._sort(keys)
        if not self.delete:
            self._count_once(batch)
            return {}
        if batch:
            for task_id, fault in self._guard(list(batch)).items():
                self.fail([task_id], fault)
        return {task_id: keys for task_id, keys in batch.items() if task_id in self.active}

    def count(self, task_id: str, reply: object) -> None:
        """Take the reply to an UNLINK into account."""
        if isinstance(reply, redis.RedisError):
            self.fail([task_id], _fault_of(reply))
        elif isinstance(reply, int):
            self._counts[task_id] += reply

    def fail(self, task_ids: Iterable[str], fault: Fault) -> None:
        """Touch these tasks no more. The first fault of a task stays."""
        for task_id in list(task_ids):
            self.active.discard(task_id)
            self._faults.setdefault(task_id, fault)
        self._unsure |= self.in_flight

    def result(self, task_id: str) -> StepResult:
        """What became of one task."""
        count = self._counts[task_id]
        fault = self._faults.get(task_id)
        if fault is not None:
            result = StepResult.failed(task_id, RESOURCE, fault, count=count)
            return result.with_counts(count=count, bytes=0, at_least=task_id in self._unsure)
        if count == 0:
            return StepResult(task_id, RESOURCE, "Skipped", reasons.ABSENT)
        return StepResult(task_id, RESOURCE, "Deleted" if self.delete else "WouldDelete", count=count)

    def _sort(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        batch: dict[str, list[bytes]] = {}
        for key in dict.fromkeys(keys):
            owners = {owner for pattern in self._patterns if (owner := pattern.match(key)) is not None}
            self.found |= owners & self.active
            if len(owners) > 1:
                self.fail(owners & self.active, _shared_key_fault())
            elif owners and owners <= self.active:
                batch.setdefault(owners.pop(), []).append(key)
        return {task_id: keys for task_id, keys in batch.items() if task_id in self.active}

    def _count_once(self, batch: Mapping[str, Sequence[bytes]]) -> None:
        for task_id, keys in batch.items():
            fresh = set(keys) - self._counted
            self._counted |= fresh
            self._counts[task_id] += len(fresh)


def _scan_command(cursor: int, match: bytes | None) -> Command:
    return ("SCAN", cursor, *(() if match is None else ("MATCH", match)), "COUNT", PAGE_SIZE)


def _read_page(reply: tuple[int, list[bytes]]) -> tuple[int | None, list[bytes]]:
    """The next cursor, None behind the last page, and the keys of this page."""
    cursor, keys = reply
    return int(cursor) or None, keys


def _read_mode(hello: Any) -> str:
    fields = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
    mode = fields.get(b"mode", fields.get("mode", "standalone"))
    return mode.decode() if isinstance(mode, bytes) else str(mode)


def _chunks(keys: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while chunk := list(islice(keys, size)):
        yield chunk


# --- connecting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Address:
    host: str
    port: int
    database: int
    username: str | None
    password: str | None
    tls: bool


def _parse_url(url: str) -> _Address:
    """The parts of redis[s]://[user:password@]host[:port][/database]; Fault, without the URL in it, for others."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError:
        raise _invalid_url("it cannot be parsed; check host and port, and percent-encode the password") from None
    if parts.scheme not in ("redis", "rediss"):
        raise _invalid_url("it begins with neither redis:// nor rediss://")
    if not host:
        raise _invalid_url("it names no host")
    if "?" in url or "#" in url:
        raise _invalid_url("it has parameters; none are allowed: remove all from '?' on (and write # as %23)")
    database = parts.path.removeprefix("/") or "0"
    if not (database.isascii() and database.isdigit() and len(database) <= 9):
        raise _invalid_url("behind the host stands no database number, such as /3")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    tls = parts.scheme == "rediss"
    return _Address(host, port or DEFAULT_PORT, int(database), username or None, password or None, tls)


def _invalid_url(why: str) -> Fault:
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, f"url in the Redis Secret is not usable: {why}")


class _TlsConnection(redis.SSLConnection):
    """redis-py reads certificates from files at every connect; ours were read once, from memory."""

    def __init__(self, *, context: ssl.SSLContext, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context

    def _wrap_socket_with_ssl(self, sock: socket) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self.host)


def _build_pool(connection: RedisConnection, timeout_seconds: float) -> redis.ConnectionPool:
    """Connections that speak RESP 2 (every server does) and send each command once.

    A command that were sent again after a lost reply would count too little: the caller tries again instead.
    """
    address = _parse_url(connection.url)
    options: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "db": address.database,
        "username": address.username,
        "password": address.password,
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if not address.tls:
        return redis.ConnectionPool(**options)
    context = build_ssl_context(ca=connection.ca, cert=connection.cert, key=connection.key)
    return redis.ConnectionPool(connection_class=_TlsConnection, context=context, **options)


# --- errors -------------------------------------------------------------------------------------------------------

_CODES_THAT_PASS = frozenset({"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"})
_CODES_OF_CLUSTERS = frozenset({"MOVED", "ASK", "CROSSSLOT"})


def _require_reply(reply: Any) -> Any:
    if isinstance(reply, redis.RedisError):
        raise _fault_of(reply) from reply
    return reply


def _fault_of(error: redis.RedisError) -> Fault:
    if isinstance(error, redis.ResponseError | redis.exceptions.BusyLoadingError):
        return _fault_of_reply(error)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError):
        return _authentication_fault()
    if isinstance(error, redis.TimeoutError):
        return _fault_of_timeout(error)
    if isinstance(error.__context__, ssl.SSLError):
        return Fault("waiting", reasons.TLS_FAILED, f"the TLS connection to Redis failed{_why(error.__context__)}")
    if isinstance(error, redis.ConnectionError):
        return Fault("waiting", reasons.UNAVAILABLE, "Redis cannot be reached, or closed the connection")
    return Fault("retriable", reasons.SERVER_ERROR, "Redis gave an answer that is no Redis reply")


def _why(error: ssl.SSLError) -> str:
    # A failed check of the certificate says what it met; other errors have a code in `reason`, or nothing.
    why = getattr(error, "verify_message", "") or getattr(error, "reason", "")
    return f": {why}" if why else ""


def _fault_of_timeout(error: redis.TimeoutError) -> Fault:
    if str(error).startswith("Timeout connecting"):
        return Fault("waiting", reasons.UNAVAILABLE, "Redis cannot be reached: connecting timed out")
    return Fault("retriable", reasons.TIMEOUT, "Redis did not answer in time")


def _fault_of_reply(error: redis.RedisError) -> Fault:
    """The fault for an error reply. Only its code is repeated: the rest may hold names of keys and users."""
    text = str(error)
    code = error.status_code or text.partition(" ")[0]
    if code in _CODES_THAT_PASS:
        return Fault("waiting", reasons.UNAVAILABLE, f"Redis is not ready: it answered {code}")
    if code in _CODES_OF_CLUSTERS:
        return _mode_fault("cluster")
    if code == "NOPERM":
        return Fault(
            "permanent",
            reasons.PERMISSION_DENIED,
            "the Redis user lacks a permission: it needs PING, SELECT, SCAN, EXISTS, UNLINK and access to the keys",
        )
    if code == "READONLY":
        return Fault("waiting", reasons.UNAVAILABLE, "this Redis is a read-only replica; name the primary in the url")
    if "DB index" in text or "invalid DB" in text:
        return _invalid_url("Redis has no database of that number")
    code = code if code.isalpha() and code.isupper() else "an error"
    return Fault("retriable", reasons.SERVER_ERROR, f"Redis answered {code}")


def _authentication_fault() -> Fault:
    message = "Redis refused the user name or password of the Secret"
    return Fault("waiting", reasons.AUTHENTICATION_FAILED, message)


def _mode_fault(mode: str) -> Fault:
    message = f"this Redis runs as {mode}, which is not supported yet: name a standalone server or a primary in the url"
    return Fault("waiting", reasons.STORE_INVALID, message)


def _shared_key_fault() -> Fault:
    return Fault(
        "permanent",
        reasons.STORE_INVALID,
        "two key patterns of the store give the same key to different tasks; such keys are left alone",
    )
