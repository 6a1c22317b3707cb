"""What a Redis Secret may say, and what each error of the driver means: no server needed."""

import ssl

import pytest
import redis
from redis._parsers.base import BaseParser

from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisConnection, RedisKeys, connection, faults, topology
from taskdeletion.domain.faults import Fault


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "http://:hunter2@localhost:6379",
        "unix:///tmp/hunter2.sock",
        "unix://:hunter2@/tmp/redis.sock",
        "redis://",
        "redis:///3",
        "redis://:hunter2@:6379/0",
        "redis://:hunter2@localhost:port/0",
        "redis://:hunter2@localhost:99999/0",
        "redis://:hunter2@localhost/name",
        "redis://:hunter2@localhost/-1",
        "redis://:hunter2@localhost/0/1",
        "redis://:hunter2@localhost/\u0663",
        "redis://:hunter2@localhost/99999999999999999999",
        "redis://:hunter2@localhost/0?db=3",
        "redis://:hunter2@localhost/0?protocol=3",
        "rediss://:hunter2@localhost/0?ssl_ca_certs=/etc/passwd",
        "rediss://:hunter2@localhost/0?ssl_cert_reqs=none",
        "rediss://:hunter2@localhost/0?ssl_keyfile=/var/run/secrets/token",
        "redis://localhost?unix_socket_path=/hunter2",
        "redis://localhost/0?",
        "redis://:hunter2#x@localhost/0",
        "redis://:hunter2/x@localhost/0",
        "redis://:hunter2@[::1/0",
        "redis://:hunter2@a..b/0",
    ],
)
def test_a_url_that_is_not_a_plain_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(Fault) as caught:
        RedisKeys(RedisConnection(url), ["task:{taskId}"])
    fault = caught.value
    assert (fault.kind, fault.reason) == ("waiting", reasons.SECRET_VALUE_INVALID)
    assert "hunter2" not in str(fault)
    assert "/tmp" not in str(fault)
    assert "hunter2" not in repr(RedisConnection(url))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", ("localhost", 6379, 0, None, None)),
        ("redis://localhost/", ("localhost", 6379, 0, None, None)),
        ("redis://localhost:7000/3", ("localhost", 7000, 3, None, None)),
        ("redis://:p%40ss@localhost/3\n", ("localhost", 6379, 3, None, "p@ss")),
        ("redis://user:p@[::1]:7000/15", ("::1", 7000, 15, "user", "p")),
    ],
)
def test_a_plain_url_says_where_to_connect(url: str, expected: tuple[object, ...]) -> None:
    address = connection.parse_url(url)
    assert (*address.node, address.database, address.username, address.password) == expected
    factory = connection.PoolFactory(RedisConnection(url), 1)
    options = factory.build(address.node).connection_kwargs
    assert tuple(options[name] for name in ("host", "port", "db", "username", "password")) == expected


def test_an_unsafe_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="not a key pattern"):
        RedisKeys(RedisConnection("redis://localhost"), ["task:*"])


@pytest.mark.parametrize(
    "tls",
    [
        pytest.param({"ca": b""}, id="empty ca"),
        pytest.param({"ca": b"no certificate"}, id="ca is no certificate"),
        pytest.param({"cert": b"x"}, id="certificate without key"),
        pytest.param({"key": b"x"}, id="key without certificate"),
        pytest.param({"cert": b"x", "key": b"y"}, id="neither is PEM"),
    ],
)
def test_unreadable_tls_material_is_refused(tls: dict[str, bytes]) -> None:
    with pytest.raises(Fault) as caught:
        RedisKeys(RedisConnection("rediss://localhost", **tls), ["task:{taskId}"])
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.SECRET_VALUE_INVALID)


def reply(text: str) -> redis.RedisError:
    """The exception that the driver makes of an error reply."""
    error = BaseParser.parse_error(text)  # type: ignore[no-untyped-call]  # redis-py leaves it unannotated
    assert isinstance(error, redis.RedisError)
    return error


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (redis.ConnectionError("Error 111 connecting to hunter2"), "waiting", reasons.UNAVAILABLE),
        (redis.TimeoutError("Timeout connecting to server"), "waiting", reasons.UNAVAILABLE),
        (redis.TimeoutError("Timeout reading from socket"), "retriable", reasons.TIMEOUT),
        (redis.exceptions.InvalidResponse("hunter2"), "retriable", reasons.SERVER_ERROR),
        (
            reply("WRONGPASS invalid username-password pair or user is disabled."),
            "waiting",
            reasons.AUTHENTICATION_FAILED,
        ),
        (reply("NOAUTH Authentication required."), "waiting", reasons.AUTHENTICATION_FAILED),
        (reply("ERR invalid password"), "waiting", reasons.AUTHENTICATION_FAILED),
        (reply("NOPERM User hunter2 has no permissions to run 'unlink'"), "permanent", reasons.PERMISSION_DENIED),
        (reply("READONLY You can't write against a read only replica."), "waiting", reasons.UNAVAILABLE),
        (reply("LOADING Redis is loading the dataset in memory"), "waiting", reasons.UNAVAILABLE),
        (reply("BUSY Redis is busy running a script."), "waiting", reasons.UNAVAILABLE),
        (reply("TRYAGAIN Multiple keys request during rehashing of slot"), "waiting", reasons.UNAVAILABLE),
        (reply("CLUSTERDOWN The cluster is down"), "waiting", reasons.UNAVAILABLE),
        (reply("MASTERDOWN Link with MASTER is down"), "waiting", reasons.UNAVAILABLE),
        (reply("ERR max number of clients reached"), "waiting", reasons.UNAVAILABLE),
        (reply("MOVED 3999 127.0.0.1:6381"), "waiting", reasons.UNAVAILABLE),
        (reply("ASK 3999 127.0.0.1:6381"), "waiting", reasons.UNAVAILABLE),
        (reply("CROSSSLOT Keys in request don't hash to the same slot"), "retriable", reasons.SERVER_ERROR),
        (reply("ERR SELECT is not allowed in cluster mode"), "waiting", reasons.SECRET_VALUE_INVALID),
        (reply("ERR DB index is out of range"), "waiting", reasons.SECRET_VALUE_INVALID),
        (reply("ERR unknown command 'UNLINK', with args beginning with: hunter2"), "retriable", reasons.SERVER_ERROR),
        (reply("MISCONF Redis is configured to save RDB snapshots"), "retriable", reasons.SERVER_ERROR),
        (reply("OOM command not allowed when used memory > 'maxmemory'."), "retriable", reasons.SERVER_ERROR),
        (reply("hunter2 is no code"), "retriable", reasons.SERVER_ERROR),
    ],
)
def test_each_error_of_the_driver_has_its_fault(error: redis.RedisError, kind: str, reason: str) -> None:
    fault = faults.fault_of(error)
    assert (fault.kind, fault.reason) == (kind, reason)
    assert "hunter2" not in fault.message


def test_a_failed_handshake_is_a_tls_fault() -> None:
    try:
        try:
            raise ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
        except OSError:
            raise redis.ConnectionError("Error 1 connecting to hunter2")  # noqa: B904  # as the driver does it
    except redis.ConnectionError as error:
        fault = faults.fault_of(error)
    assert (fault.kind, fault.reason) == ("waiting", reasons.TLS_FAILED)
    assert "hunter2" not in fault.message


@pytest.mark.parametrize(
    ("hello", "mode", "is_replica"),
    [
        ([b"server", b"redis", b"mode", b"standalone", b"role", b"master"], "standalone", False),
        ([b"mode", b"standalone", b"role", b"replica"], "standalone", True),
        ({"mode": "standalone", "role": "slave"}, "standalone", True),
        ([b"server", b"redis", b"mode", b"cluster"], "cluster", False),
        ({b"mode": b"sentinel"}, "sentinel", False),
        ({"mode": "cluster"}, "cluster", False),
        ([b"server", b"something else"], "standalone", False),
    ],
)
def test_mode_and_role_are_read_from_the_greeting(hello: object, mode: str, is_replica: bool) -> None:
    assert topology.read_greeting(hello) == topology.Greeting(mode, is_replica)


@pytest.mark.parametrize(
    ("info", "mode", "is_replica"),
    [
        (b"# Replication\r\nrole:master\r\n# Cluster\r\ncluster_enabled:0\r\n", "standalone", False),
        (b"# Replication\r\nrole:slave\r\n# Cluster\r\ncluster_enabled:0\r\n", "standalone", True),
        (b"# Replication\r\nrole:master\r\n# Cluster\r\ncluster_enabled:1\r\n", "cluster", False),
    ],
)
def test_mode_and_role_of_a_server_that_knows_no_greeting_are_read_from_its_info(
    info: bytes, mode: str, is_replica: bool
) -> None:
    assert topology.read_info(info) == topology.Greeting(mode, is_replica)
