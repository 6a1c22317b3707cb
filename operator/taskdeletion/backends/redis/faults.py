"""What each error of the driver and each error reply of a Redis means: a Fault that holds no secret and no key.

Called by all of this room. Pure.
"""

import ssl
from typing import Any

import redis

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault

_CODES_THAT_PASS = frozenset({"LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "MASTERDOWN"})
_CODES_OF_MOVES = frozenset({"MOVED", "ASK"})
_REASONS_OF_CONNECTIONS = frozenset({reasons.UNAVAILABLE, reasons.TIMEOUT, reasons.TLS_FAILED})


def require_reply(reply: Any) -> Any:
    """`reply`, or the Fault that it is or means."""
    if isinstance(reply, Fault):
        raise reply
    if isinstance(reply, redis.RedisError):
        raise fault_of(reply) from reply
    return reply


def fault_of(error: redis.RedisError) -> Fault:
    """The fault for an exception of the driver, or an error reply."""
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


def invalid_url(why: str) -> Fault:
    """The fault for a url that cannot be used."""
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, f"url in the Redis Secret is not usable: {why}")


def database_of_cluster() -> Fault:
    """The fault for a url with a database number, where the Redis is a cluster."""
    return invalid_url("this Redis is a cluster, which has database 0 only; remove the number behind the host")


def unsupported_mode(mode: str) -> Fault:
    """The fault for a server that holds no keys."""
    message = f"this Redis runs as {mode}: name a server that holds the keys, or any node of their cluster, in the url"
    return Fault("waiting", reasons.STORE_INVALID, message)


def read_only_replica() -> Fault:
    """The fault for a server that follows another one, and may be behind it."""
    return Fault("waiting", reasons.UNAVAILABLE, "this Redis is a read-only replica; name the primary in the url")


def unsettled_cluster(why: str = "it moves slots, or has changed its primaries") -> Fault:
    """The fault for a cluster of which not all keys can be seen for certain now."""
    advice = "work goes on once it is settled; where no move runs, redis-cli --cluster check says what is wrong"
    return Fault("waiting", reasons.UNAVAILABLE, f"the Redis cluster is not settled: {why}; {advice}")


def name_node(fault: Fault, address: str) -> Fault:
    """The same fault, of the connection to a node of a cluster at the address that the cluster itself announces."""
    if fault.reason not in _REASONS_OF_CONNECTIONS:
        return fault
    return Fault(fault.kind, fault.reason, f"{fault.message} (the node that the cluster announces as {address})")


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
    if code in _CODES_OF_MOVES:
        return unsettled_cluster()
    if code == "NOPERM":
        return Fault(
            "permanent",
            reasons.PERMISSION_DENIED,
            "the Redis user lacks a permission: it needs PING, SELECT, SCAN, EXISTS, UNLINK (on a cluster also CLUSTER "
            "and ASKING) and access to the keys",
        )
    if code == "READONLY":
        return read_only_replica()
    if "SELECT is not allowed in cluster mode" in text:
        return database_of_cluster()
    if "DB index" in text or "invalid DB" in text:
        return invalid_url("Redis has no database of that number")
    code = code if code.isalpha() and code.isupper() else "an error"
    return Fault("retriable", reasons.SERVER_ERROR, f"Redis answered {code}")


def _authentication_fault() -> Fault:
    message = "Redis refused the user name or password of the Secret"
    return Fault("waiting", reasons.AUTHENTICATION_FAILED, message)
