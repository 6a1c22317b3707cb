"""What an object store's Secret may say, and what each error of the driver means: no server needed."""

import ssl
from socket import gaierror
from typing import Any

import pytest
import urllib3
from minio.error import InvalidResponseError, ServerError
from urllib3 import exceptions
from urllib3.connection import HTTPConnection

from taskdeletion.api import reasons
from taskdeletion.backends.objects import ObjectConnection, Objects
from taskdeletion.backends.objects.connection import parse_endpoint
from taskdeletion.backends.objects.faults import fault_of, fault_of_code
from taskdeletion.domain.faults import Fault

KEYS = ("hunter2key", "hunter2secret")


def open_objects(
    endpoint: str = "http://localhost:9000",
    access_key: str = KEYS[0],
    secret_key: str = KEYS[1],
    *,
    bucket: str = "pipeline",
    **options: Any,
) -> Objects:
    connection = ObjectConnection(endpoint, access_key, secret_key, **options)
    return Objects(connection, bucket, ["tasks/{taskId}/"])


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:9000",
        "ftp://localhost",
        "file:///hunter2",
        "http://",
        "http:///hunter2",
        "http://localhost:port",
        "http://localhost:99999",
        "http://localhost:9000/hunter2",
        "http://localhost:9000?hunter2",
        "http://localhost:9000#hunter2",
        "http://user:hunter2@localhost:9000",
        "http://@localhost:9000",
        "http://[::1",
        "http://a..b",
        "https://hunter2.s3.bad-region.amazonaws.com",
    ],
)
def test_an_endpoint_that_is_not_an_origin_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(Fault) as caught:
        open_objects(endpoint)
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.SECRET_VALUE_INVALID)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "host", "secure"),
    [
        ("http://localhost:9000", "localhost:9000", False),
        ("http://localhost:9000/", "localhost:9000", False),
        ("https://minio.example.com\n", "minio.example.com", True),
        ("https://[::1]:9000", "[::1]:9000", True),
    ],
)
def test_an_origin_is_an_endpoint(endpoint: str, host: str, secure: bool) -> None:
    assert parse_endpoint(endpoint) == (host, secure)
    open_objects(endpoint).close()


@pytest.mark.parametrize(
    "secret",
    [
        pytest.param({"access_key": ""}, id="empty access key would be anonymous"),
        pytest.param({"secret_key": ""}, id="empty secret key"),
        pytest.param({"access_key": "hunter2\n"}, id="line break behind the access key"),
        pytest.param({"secret_key": " hunter2"}, id="white space before the secret key"),
        pytest.param({"session_token": "hunter2\r\nX: y"}, id="line break in the session token"),
        pytest.param({"region": "hunter2/../x"}, id="malformed region"),
        pytest.param({"endpoint": "https://localhost", "ca": b"no certificate"}, id="ca is no certificate"),
        pytest.param({"endpoint": "https://localhost", "cert": b"x"}, id="certificate without key"),
    ],
)
def test_an_unusable_secret_is_refused_without_repeating_it(secret: dict[str, Any]) -> None:
    with pytest.raises(Fault) as caught:
        open_objects(**secret)
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.SECRET_VALUE_INVALID)
    assert "hunter2" not in str(caught.value)


def test_a_connection_shows_no_secret() -> None:
    connection = ObjectConnection("http://localhost", *KEYS, session_token="hunter2token")
    assert "hunter2" not in repr(connection)


@pytest.mark.parametrize("bucket", ["a..b", "192.168.0.1", "-a", "A" * 70])
def test_a_malformed_bucket_name_is_refused(bucket: str) -> None:
    with pytest.raises(Fault) as caught:
        open_objects(bucket=bucket)
    assert (caught.value.kind, caught.value.reason) == ("waiting", reasons.STORE_INVALID)


def test_an_unsafe_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        Objects(ObjectConnection("http://localhost", *KEYS), "pipeline", ["tasks/"])


def test_a_prefix_inside_another_is_left_to_the_other() -> None:
    store = Objects(
        ObjectConnection("http://localhost", *KEYS), "pipeline", ["{taskId}/a/", "{taskId}/", "x/{taskId}/"]
    )
    assert store._prefixes("t") == ["t/", "x/t/"]
    store.close()


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("NoSuchBucket", "waiting", reasons.BUCKET_MISSING),
        ("InvalidAccessKeyId", "waiting", reasons.AUTHENTICATION_FAILED),
        ("SignatureDoesNotMatch", "waiting", reasons.AUTHENTICATION_FAILED),
        ("ExpiredToken", "waiting", reasons.AUTHENTICATION_FAILED),
        ("AccessDenied", "permanent", reasons.PERMISSION_DENIED),
        ("RequestTimeTooSkewed", "waiting", reasons.CLOCK_SKEW),
        ("AuthorizationHeaderMalformed", "waiting", reasons.SECRET_VALUE_INVALID),
        ("PermanentRedirect", "waiting", reasons.SECRET_VALUE_INVALID),
        ("SlowDown", "retriable", reasons.SERVER_ERROR),
        ("InternalError", "retriable", reasons.SERVER_ERROR),
        ("ServiceUnavailable", "retriable", reasons.SERVER_ERROR),
        ("something with hunter2 in it", "retriable", reasons.SERVER_ERROR),
        (None, "retriable", reasons.SERVER_ERROR),
    ],
)
def test_each_code_of_s3_has_its_fault(code: str | None, kind: str, reason: str) -> None:
    fault = fault_of_code(code)
    assert (fault.kind, fault.reason) == (kind, reason)
    assert "hunter2" not in fault.message


POOL = urllib3.HTTPConnectionPool("hunter2")
PEER = HTTPConnection("hunter2")


def after_retries(reason: Exception) -> exceptions.MaxRetryError:
    return exceptions.MaxRetryError(POOL, "/hunter2", reason)


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (after_retries(exceptions.NewConnectionError(PEER, "hunter2")), "waiting", reasons.UNAVAILABLE),
        (after_retries(exceptions.NameResolutionError("hunter2", PEER, gaierror())), "waiting", reasons.UNAVAILABLE),
        (after_retries(exceptions.ConnectTimeoutError()), "waiting", reasons.UNAVAILABLE),
        (after_retries(exceptions.ReadTimeoutError(POOL, "/hunter2", "")), "retriable", reasons.TIMEOUT),
        (after_retries(exceptions.SSLError(ssl.SSLError(1, "hunter2"))), "waiting", reasons.TLS_FAILED),
        (after_retries(exceptions.ProtocolError("hunter2")), "waiting", reasons.UNAVAILABLE),
        (exceptions.ReadTimeoutError(POOL, "/hunter2", ""), "retriable", reasons.TIMEOUT),
        (InvalidResponseError(502, "text/html", "hunter2"), "retriable", reasons.SERVER_ERROR),
        (InvalidResponseError(400, "text/plain", "hunter2"), "waiting", reasons.UNAVAILABLE),
        (ServerError("hunter2", 500), "retriable", reasons.SERVER_ERROR),
        (ValueError("hunter2"), "retriable", reasons.SERVER_ERROR),
    ],
)
def test_each_error_of_the_driver_has_its_fault(error: Exception, kind: str, reason: str) -> None:
    fault = fault_of(error)
    assert (fault.kind, fault.reason) == (kind, reason)
    assert "hunter2" not in fault.message
