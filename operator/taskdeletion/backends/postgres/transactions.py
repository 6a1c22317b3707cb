"""One short transaction at a time: begin with limits, work, commit; and what an unanswered COMMIT means.

Called by the claim, marks, records and reads of this package. All settings are local to the transaction, so that a
pooler may give every transaction another server connection.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, LiteralString, TypeVar

import psycopg
from psycopg import pq, sql

from taskdeletion.backends.postgres.connection import CatalogConnection, ConnectionPool, Timeouts
from taskdeletion.backends.postgres.faults import RETRIED, fault_of, is_away, is_worth_another_try
from taskdeletion.domain.catalog import CommitUnknown
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership

T = TypeVar("T")
#: One snapshot for all statements, and a server that refuses every change.
READ: Final[LiteralString] = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
#: Every statement sees what was committed before it, in particular what the holder of a lock committed before us. Not
#: "READ WRITE": that would override a read-only mode that an administrator has set.
WRITE: Final[LiteralString] = "BEGIN ISOLATION LEVEL READ COMMITTED"
_ATTEMPTS: Final = 3
_FORGET: Final = sql.SQL(
    "SET LOCAL search_path TO DEFAULT; SET LOCAL lock_timeout TO DEFAULT; SET LOCAL statement_timeout TO DEFAULT;"
    " SET LOCAL idle_in_transaction_session_timeout TO DEFAULT"
)
# current_setting has a unit ("30s"), and 0 where there is no limit.
_LIMIT: Final = sql.SQL("""
SELECT pg_catalog.set_config(name, least(own, theirs)::text, TRUE)
FROM (VALUES ('lock_timeout', {lock}), ('statement_timeout', {statement}),
             ('idle_in_transaction_session_timeout', {idle})) AS limits(name, own),
     LATERAL (SELECT nullif(extract(epoch FROM pg_catalog.current_setting(name)::interval) * 1000, 0)::integer)
         AS set_before(theirs)
""")


@dataclass(frozen=True)
class Transactions:
    """Transactions on the connections of one pool."""

    pool: ConnectionPool
    timeouts: Timeouts
    #: Asked before a COMMIT.
    leadership: Leadership = ALONE

    def run(self, work: Callable[[CatalogConnection], T], *, mode: LiteralString) -> T:
        """Do `work` in a transaction and commit it. Raises Fault, or CommitUnknown where no reply came to the COMMIT.

        `work` may be called again with a new transaction: it must have no effect outside of it.
        """
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                return self._run_once(work, mode)
            except psycopg.Error as error:  # the COMMIT was refused, and everything rolled back
                if not (attempts_left and error.sqlstate in RETRIED):
                    raise fault_of(error) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _run_once(self, work: Callable[[CatalogConnection], T], mode: LiteralString) -> T:
        connection, result = self.open(work, mode=mode)
        try:
            if mode is READ:
                roll_back(connection)
            else:
                self.leadership.require()
                commit(connection)
        finally:
            self.pool.release(connection)
        return result

    def open(self, work: Callable[[CatalogConnection], T], *, mode: LiteralString) -> tuple[CatalogConnection, T]:
        """Begin a transaction and do `work` in it; the caller ends the transaction and releases the connection.

        A deadlock, and a connection that had died before, are tried again. Raises Fault.
        """
        for attempts_left in reversed(range(_ATTEMPTS)):
            try:
                return self._open_once(work, mode)
            except psycopg.Error as error:
                if not (attempts_left and is_worth_another_try(error)):
                    raise fault_of(error) from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _open_once(self, work: Callable[[CatalogConnection], T], mode: LiteralString) -> tuple[CatalogConnection, T]:
        connection = self.pool.acquire()
        try:
            self.begin(connection, mode)
            return connection, work(connection)
        except BaseException as error:
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                connection.retire()
            roll_back(connection)
            self.pool.release(connection)
            raise

    def begin(self, connection: CatalogConnection, mode: LiteralString) -> None:
        """Begin a transaction in which locks, statements and idleness are limited (one round trip).

        A lower limit that an administrator has set for the role, the database or the server stays; what another
        client of a pooler has left in the session does not.
        """
        limits = {
            "lock": self.timeouts.lock_seconds,
            "statement": self.timeouts.statement_seconds,
            "idle": self.timeouts.idle_seconds,
        }
        milliseconds = {name: sql.Literal(max(1, round(seconds * 1000))) for name, seconds in limits.items()}
        # A policy that would hide rows becomes an error: what cannot be seen must not look finished, or absent.
        parts = [sql.SQL(mode), _FORGET, _LIMIT.format(**milliseconds), sql.SQL("SET LOCAL row_security = off")]
        connection.execute(sql.SQL("; ").join(parts))

    def begin_again(self, connection: CatalogConnection, mode: LiteralString) -> None:
        """Drop the transaction and all its locks, and begin another one."""
        connection.execute("ROLLBACK")
        self.begin(connection, mode)


def commit(connection: CatalogConnection) -> None:
    """Commit. Raises CommitUnknown where no reply came, psycopg.Error where the server refused (and rolled back)."""
    try:
        reply = connection.execute("COMMIT").statusmessage
    except psycopg.Error as error:
        if is_away(error):
            raise commit_unknown(fault_of(error)) from None
        raise
    if reply != "COMMIT":  # an aborted transaction answers ROLLBACK, and no error
        raise psycopg.OperationalError(f"COMMIT was answered with {reply}")


def commit_unknown(fault: Fault) -> CommitUnknown:
    """The error for a COMMIT that failed with `fault`."""
    return CommitUnknown(Fault("retriable", fault.reason, f"the commit was not confirmed: {fault.message}"))


def roll_back(connection: CatalogConnection) -> None:
    """Roll back; a connection that cannot even do that is closed, to the same effect. Never raises psycopg.Error."""
    status = connection.info.transaction_status
    try:
        if status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR):
            connection.execute("ROLLBACK")
        elif status != pq.TransactionStatus.IDLE:
            connection.close()
    except psycopg.Error:
        connection.close()
