"""Which fault stands for which error of the server or of the connection."""

import psycopg
import pytest
from psycopg import errors

from taskdeletion.backends.postgres.faults import NoReply, connect_fault, fault_of, is_worth_another_try


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (errors.LockNotAvailable, "retriable", "RowLocked"),
        (errors.QueryCanceled, "retriable", "Timeout"),
        (errors.SerializationFailure, "retriable", "DatabaseError"),
        (errors.DeadlockDetected, "retriable", "DatabaseError"),
        (errors.DiskFull, "retriable", "DatabaseError"),
        (errors.InsufficientPrivilege, "permanent", "PermissionDenied"),
        (errors.ReadOnlySqlTransaction, "waiting", "ReadOnly"),
        (errors.UndefinedTable, "waiting", "SchemaMissing"),
        (errors.UndefinedColumn, "waiting", "SchemaMissing"),
        (errors.ForeignKeyViolation, "permanent", "ForeignKeyReferences"),
        (errors.RestrictViolation, "permanent", "ForeignKeyReferences"),
        (errors.AdminShutdown, "waiting", "Unavailable"),
        (errors.CrashShutdown, "waiting", "Unavailable"),
        (errors.CannotConnectNow, "waiting", "Unavailable"),
        (errors.TooManyConnections, "waiting", "Unavailable"),
        (errors.IdleInTransactionSessionTimeout, "waiting", "Unavailable"),
        (errors.ConnectionFailure, "waiting", "Unavailable"),
        (errors.InvalidPassword, "waiting", "AuthenticationFailed"),
        (psycopg.OperationalError, "waiting", "Unavailable"),
        (psycopg.InterfaceError, "waiting", "Unavailable"),
        (psycopg.DataError, "retriable", "DatabaseError"),
    ],
)
def test_an_error_has_its_fault_and_quotes_no_row(error: type[psycopg.Error], kind: str, reason: str) -> None:
    fault = fault_of(error("first line\nDETAIL:  Key (task_id)=(secret) is there"))
    assert (fault.kind, fault.reason) == (kind, reason)
    assert "secret" not in fault.message
    if error.sqlstate:
        assert error.sqlstate in fault.message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('FATAL:  password authentication failed for user "me"', "AuthenticationFailed"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "me", database "x", SSL off', "AuthenticationFailed"),
        ('FATAL:  role "me" does not exist', "AuthenticationFailed"),
        ('FATAL:  role "me" is not permitted to log in', "AuthenticationFailed"),
        ("fe_sendauth: no password supplied", "AuthenticationFailed"),
        ("server does not support SSL, but SSL was required", "TlsFailed"),
        ("SSL error: certificate verify failed", "TlsFailed"),
        ('server certificate for "a" does not match host name "b"', "TlsFailed"),
        ('FATAL:  database "x" does not exist', "Unavailable"),
        ("FATAL:  the database system is starting up", "Unavailable"),
        ("FATAL:  sorry, too many clients already", "Unavailable"),
        ("Connection refused", "Unavailable"),
        ("Connection refused\nconnection failed: session is read-only", "ReadOnly"),
        ("connection timeout expired", "Unavailable"),
        ("x" * 5000, "Unavailable"),
    ],
)
def test_a_refused_connection_has_its_cause(text: str, reason: str) -> None:
    fault = connect_fault(psycopg.OperationalError(f"connection failed: {text}\n"))
    assert (fault.kind, fault.reason) == ("waiting", reason)
    assert len(fault.message) < 500
    assert "\n" not in fault.message


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.DeadlockDetected, True),
        (errors.SerializationFailure, True),
        (errors.AdminShutdown, True),
        (psycopg.OperationalError, True),
        (NoReply, False),
        (errors.LockNotAvailable, False),
        (errors.QueryCanceled, False),
        (errors.UniqueViolation, False),
    ],
)
def test_only_what_can_succeed_at_once_is_tried_again(error: type[psycopg.Error], expected: bool) -> None:
    assert is_worth_another_try(error("x")) is expected
