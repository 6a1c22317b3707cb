"""Connections to the server of one store: what libpq is told, and a small pool of them.

Used by `transactions`. Connecting happens in the caller's thread, so that a wrong password is reported as one and at
once (psycopg_pool connects in the background, where its PoolTimeout hides the cause). Nothing of the operator's own
environment, home directory or sockets may take part in a connection.
"""

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import Loader
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.faults import NoReply, connect_fault
from taskdeletion.backends.postgres.url import invalid_url, parse_url
from taskdeletion.backends.tls_files import build_ssl_context, private_file
from taskdeletion.domain.faults import Fault

RV = TypeVar("RV")
NOWHERE: Final = "/dev/null/none"  # a path where no file can be: libpq takes it for "no such file"
REPLY_GRACE_SECONDS: Final = 5.0
POOL_WAIT_SECONDS: Final = 30.0
MAX_AGE_SECONDS: Final = 600.0
TRUSTED_SECONDS: Final = 1.0
# What libpq is told unless the URL says otherwise. Together with _hide_environment nothing is left to a default.
_DEFAULTS: Final = {
    "port": "5432",
    "application_name": "task-deletion-operator",
    "client_encoding": "UTF8",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
# What the operator's machine could lend: a password file, certificates, Kerberos tickets, a socket's owner.
_NOT_OURS: Final = {
    "passfile": NOWHERE,
    "sslcrl": NOWHERE,
    "gssencmode": "disable",
    "require_auth": "!gss,!sspi",
}


@dataclass(frozen=True)
class PostgresConnection:
    """What the catalog's Secret holds: `url`, and `ca.crt`, `tls.crt`, `tls.key` as bytes."""

    url: str = field(repr=False)
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Timeouts:
    """How long the server may take: to accept a connection, per lock, per statement, between two statements."""

    connect_seconds: float = 5
    lock_seconds: float = 2
    statement_seconds: float = 30
    idle_seconds: float = 60


class CatalogConnection(psycopg.Connection[TupleRow]):
    """A connection that gives up on a server (or a proxy before it) that does not answer at all.

    It is used for `MAX_AGE_SECONDS` at most: a session keeps the settings of its role, and the server of several that
    it was made to, as they were when it began.
    """

    reply_seconds: float = 60.0
    retires_at: float = math.inf
    #: When it was given back, by the monotonic clock.
    used_at: float = -math.inf

    def retire(self) -> None:
        """Let this be its last transaction."""
        self.retires_at = 0

    @property
    def is_retired(self) -> bool:
        """Whether it is to be closed instead of used again."""
        return time.monotonic() > self.retires_at

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        try:
            return super().wait(_limit(gen, min(timeout or self.reply_seconds, self.reply_seconds)), interval=interval)
        except NoReply:
            self.pgconn.finish()
            raise


def _limit(gen: PQGen[RV], seconds: float) -> PQGen[RV]:
    """The same exchange with the server, ended by NoReply; psycopg looks in every 0.1 s while nothing arrives."""
    deadline = time.monotonic() + seconds
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise NoReply(f"no reply within {seconds:g} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: RV = end.value
        return result


class _TimestampLoader(Loader):
    """Binary timestamps: the session's DateStyle has no say, and infinity is no error but no time either (None)."""

    format = pq.Format.BINARY
    epoch = datetime(2000, 1, 1)  # noqa: DTZ001 - a timestamp without time zone has none

    def load(self, data: Buffer) -> datetime | None:
        try:
            return self.epoch + timedelta(0, 0, int.from_bytes(data, "big", signed=True))
        except OverflowError:
            return None


class _TimestampTzLoader(_TimestampLoader):
    epoch = datetime(2000, 1, 1, tzinfo=UTC)


def build_parameters(connection: PostgresConnection, timeouts: Timeouts) -> dict[str, str]:
    """All that libpq is told, except the TLS files. Raises Fault (waiting, SecretValueInvalid)."""
    given = parse_url(connection.url)
    parameters = {
        **_DEFAULTS,
        "password": "",
        "connect_timeout": str(max(1, round(timeouts.connect_seconds))),
        "sslmode": _choose_sslmode(connection),
        # Of several servers only the one that can be written to is of use.
        "target_session_attrs": "read-write" if "," in given["host"] else "any",
        **given,
    }
    if parameters["sslmode"] == "verify-ca" and connection.ca is None:
        raise invalid_url("sslmode=verify-ca needs ca.crt in the Secret")
    return _hide_environment({**parameters, **_NOT_OURS})


def _choose_sslmode(connection: PostgresConnection) -> str:
    if connection.ca is not None:
        return "verify-full"
    return "require" if connection.cert is not None else "prefer"


def _hide_environment(parameters: dict[str, str]) -> dict[str, str]:
    """Give a value to everything that libpq would take from the environment (an empty one counts as given)."""
    known = {option.keyword.decode(): option for option in pq.Conninfo.get_defaults()}
    hidden = {
        name: option.compiled.decode() if option.compiled else ""
        for name, option in known.items()
        if option.envvar and name != "service"
    }
    return {name: value for name, value in {**hidden, **parameters}.items() if name in known}


class ConnectionPool:
    """At most `size` connections, made when needed. `close` removes the TLS files.

    A connection is checked before use, unless it was in use a moment ago and none has failed since.
    """

    def __init__(self, connection: PostgresConnection, timeouts: Timeouts, *, size: int) -> None:
        """Open no connection yet. Raises Fault (waiting, SecretValueInvalid)."""
        parameters = build_parameters(connection, timeouts)
        self._reply_seconds = timeouts.statement_seconds + REPLY_GRACE_SECONDS
        self._size = size
        self._slots = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[CatalogConnection] = []
        self._closed = False
        self._failed_at = -math.inf
        self._files = ExitStack()
        parameters |= _write_tls_files(connection, self._files, parameters["sslmode"])
        self._conninfo = make_conninfo(**parameters)
        self._remove_files = weakref.finalize(self, self._files.close)

    @contextmanager
    def connection(self) -> Iterator[CatalogConnection]:
        """A connection for the length of a `with` block."""
        connection = self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    def acquire(self) -> CatalogConnection:
        """A connection that answers. Raises Fault (waiting) with the cause where there is none."""
        if not self._slots.acquire(timeout=POOL_WAIT_SECONDS):
            raise Fault("waiting", reasons.UNAVAILABLE, f"all {self._size} connections to PostgreSQL are busy")
        try:
            return self._take_idle() or self._connect()
        except BaseException:
            self._slots.release()
            raise

    def release(self, connection: CatalogConnection) -> None:
        """Give a connection back; one with an open transaction, a retired one, or of a closed pool, is closed."""
        with self._lock:
            connection.used_at = time.monotonic()
            if connection.closed:
                self._failed_at = connection.used_at
            is_kept = not self._closed and _is_usable(connection)
            if is_kept:
                self._idle.append(connection)
        if not is_kept:
            connection.close()
        self._slots.release()

    def close(self) -> None:
        """Close what is idle now, and the rest when it is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
        self._remove_files()

    def _take_idle(self) -> CatalogConnection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if not connection.is_retired and (self._is_trusted(connection) or _answers(connection)):
                return connection
            connection.close()
            with self._lock:
                self._failed_at = time.monotonic()

    def _is_trusted(self, connection: CatalogConnection) -> bool:
        is_recent = time.monotonic() - connection.used_at < TRUSTED_SECONDS
        return is_recent and connection.used_at > self._failed_at

    def _connect(self) -> CatalogConnection:
        if self._closed:
            raise Fault("waiting", reasons.UNAVAILABLE, "the connection settings have just been replaced")
        # The one variable that no parameter overrides: libpq would fail on, or read, a service file.
        os.environ.pop("PGSERVICE", None)
        try:
            # No prepared statements: PgBouncer may run two transactions of ours on two servers.
            connection = CatalogConnection.connect(self._conninfo, autocommit=True, prepare_threshold=None)
        except psycopg.Error as error:
            raise connect_fault(error) from None
        connection.reply_seconds = self._reply_seconds
        connection.retires_at = time.monotonic() + MAX_AGE_SECONDS
        connection.adapters.register_loader("timestamp", _TimestampLoader)
        connection.adapters.register_loader("timestamptz", _TimestampTzLoader)
        return connection


def _write_tls_files(connection: PostgresConnection, files: ExitStack, sslmode: str) -> dict[str, str]:
    """Make the files that libpq insists on and say where they are; nothing is taken from the home directory."""
    if (connection.ca, connection.cert, connection.key) != (None, None, None):
        build_ssl_context(ca=connection.ca, cert=connection.cert, key=connection.key)  # raises for bad material
    paths = {"sslrootcert": "system" if sslmode == "verify-full" else NOWHERE, "sslcertmode": "disable"}
    if connection.ca is not None:
        paths["sslrootcert"] = files.enter_context(private_file(connection.ca))
    if connection.cert is not None and connection.key is not None:
        paths["sslcert"] = files.enter_context(private_file(connection.cert))
        paths["sslkey"] = files.enter_context(private_file(connection.key))
        paths["sslcertmode"] = "allow"
    return paths


def _is_usable(connection: CatalogConnection) -> bool:
    return connection.info.transaction_status == pq.TransactionStatus.IDLE and not connection.is_retired


def _answers(connection: CatalogConnection) -> bool:
    """One round trip: the server may have restarted since the connection was last used."""
    try:
        connection.execute("")
    except psycopg.Error:
        return False
    return True
