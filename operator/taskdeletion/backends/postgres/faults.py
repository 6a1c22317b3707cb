"""What an error of psycopg means for a request: waiting, retriable or permanent, with a reason and a safe message.

Called by everything in this package that talks to the server. Pure. Messages hold no data of a row and no password:
of an error that the server reports, only texts that name schema objects are passed on.
"""

import re
from typing import Final

import psycopg

from taskdeletion.api import reasons
from taskdeletion.backends.postgres.migration import MIGRATION_FILE
from taskdeletion.domain.faults import Fault, FaultKind

MAX_TEXT: Final = 300
RETRIED: Final = frozenset({"40001", "40P01"})  # serialization failure, deadlock
FOREIGN_KEY: Final = frozenset({"23503", "23001"})  # 23001: RESTRICT, since PostgreSQL 18
# The server is going away or overloaded, the session was ended, the connection broke.
AWAY: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300", "25P03", "25P04", "3D000"})
_KINDS: Final[dict[str, tuple[FaultKind, str]]] = {
    "55P03": ("retriable", reasons.ROW_LOCKED),
    "57014": ("retriable", reasons.TIMEOUT),
    "42501": ("permanent", reasons.PERMISSION_DENIED),
    "25006": ("waiting", reasons.READ_ONLY),
    "42P01": ("waiting", reasons.SCHEMA_MISSING),
    "42703": ("waiting", reasons.SCHEMA_MISSING),
    "42883": ("waiting", reasons.SCHEMA_MISSING),  # no operator: a column of a type that cannot be compared
    "3F000": ("waiting", reasons.SCHEMA_MISSING),
    **dict.fromkeys(FOREIGN_KEY, ("permanent", reasons.FOREIGN_KEY_REFERENCES)),
    **dict.fromkeys(AWAY, ("waiting", reasons.UNAVAILABLE)),
}
# libpq gives no SQLSTATE for a refused connection, only the text (in English unless lc_messages says otherwise).
_REFUSED = re.compile(
    r"authentication failed|no password supplied|pg_hba\.conf|role .* does not exist|not permitted to log in"
    r"|authentication method|no such user|SASL"
)
_NOT_WRITABLE = re.compile(r"session is read-only|server is in hot standby mode")
_TLS = re.compile(r"\bSSL\b|\bTLS\b|certificate|private key")


class NoReply(psycopg.OperationalError):
    """The server took longer than it may; the connection was given up."""


def is_away(error: psycopg.Error) -> bool:
    """Whether the connection is gone, so that nobody can say what became of the last statement."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state in AWAY or state.startswith("08")


def is_worth_another_try(error: psycopg.Error) -> bool:
    """Whether the same transaction can succeed at once: the loser of a deadlock, a connection that had died before."""
    return error.sqlstate in RETRIED or (is_away(error) and not isinstance(error, NoReply))


def fault_of(error: psycopg.Error) -> Fault:
    """The fault for an error on a connection that was established."""
    state = error.sqlstate
    if state is None and is_away(error):
        return Fault("waiting", reasons.UNAVAILABLE, f"lost the connection to PostgreSQL: {_first_line(error)}")
    if state is not None and state.startswith("28"):
        return Fault("waiting", reasons.AUTHENTICATION_FAILED, _describe(error))
    kind, reason = _KINDS.get(state or "", ("retriable", reasons.DATABASE_ERROR))
    if is_away(error):
        kind, reason = "waiting", reasons.UNAVAILABLE
    return Fault(kind, reason, _describe(error) + _advice(reason))


def connect_fault(error: psycopg.Error) -> Fault:
    """The fault for a connection that could not be made."""
    whole = " ".join(str(error).split())
    text = whole[:MAX_TEXT]
    needs_password = error.pgconn is not None and error.pgconn.needs_password
    if needs_password or _REFUSED.search(whole):
        return Fault("waiting", reasons.AUTHENTICATION_FAILED, f"PostgreSQL refused the user or password: {text}")
    if _TLS.search(whole):
        return Fault("waiting", reasons.TLS_FAILED, f"no TLS connection to PostgreSQL: {text}")
    if _NOT_WRITABLE.search(whole):
        return Fault("waiting", reasons.READ_ONLY, f"of the servers in the url none can be written to: {text}")
    return Fault("waiting", reasons.UNAVAILABLE, f"PostgreSQL cannot be reached: {text}")


def _describe(error: psycopg.Error) -> str:
    """The error by its name and what of the schema it concerns; the server's own words only where they quote no row."""
    state, name, found = error.sqlstate, type(error).__name__, error.diag
    if _KINDS.get(state or "", ("", ""))[1] in (reasons.SCHEMA_MISSING, reasons.PERMISSION_DENIED):
        return f"PostgreSQL: {found.message_primary} (SQLSTATE {state})"
    concerned = "".join(
        f", {word} {value}"
        for word, value in (("table", found.table_name), ("constraint", found.constraint_name))
        if value
    )
    return f"PostgreSQL: {name}{concerned} (SQLSTATE {state})"


def _advice(reason: str) -> str:
    return {
        reasons.SCHEMA_MISSING: f"; check the table names, or apply the migration {MIGRATION_FILE}",
        reasons.ROW_LOCKED: "; another transaction holds the row or table",
        reasons.READ_ONLY: "; the server or the role is read-only",
    }.get(reason, "")


def _first_line(error: psycopg.Error) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:MAX_TEXT]
