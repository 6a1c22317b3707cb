"""From the values of a Secret to a client of an S3 server, or a fault that says what to correct.

Nothing is sent here. The Secret names one host: redirects are not followed.
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.helpers import check_bucket_name
from urllib3.util import Retry, Timeout

from taskdeletion.api import reasons
from taskdeletion.backends.objects.faults import invalid_secret
from taskdeletion.backends.tls_files import build_ssl_context
from taskdeletion.domain.faults import Fault

CONNECT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class ObjectConnection:
    """What a Secret says: `endpoint` (http(s)://host:port), keys, and PEM bytes for TLS."""

    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


def require_bucket_name(bucket: str) -> str:
    try:
        check_bucket_name(bucket)
    except ValueError:
        raise Fault("waiting", reasons.STORE_INVALID, "spec.objectStore.bucket is not a bucket name") from None
    return bucket


def parse_endpoint(endpoint: str) -> tuple[str, bool]:
    """`host[:port]` and whether it speaks TLS; Fault, without the endpoint in it, for anything but an origin."""
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise invalid_secret("endpoint cannot be parsed; it is http(s)://host:port") from None
    if parts.scheme not in ("http", "https") or not host:
        raise invalid_secret("endpoint is not http(s)://host:port")
    if "@" in endpoint or "?" in endpoint or "#" in endpoint or parts.path not in ("", "/"):
        raise invalid_secret("endpoint holds more than http(s)://host:port; remove user, path and parameters")
    host = f"[{host}]" if ":" in host else host
    return (f"{host}:{port}" if port else host), parts.scheme == "https"


def build_pool(connection: ObjectConnection, *, timeout_seconds: float, size: int) -> urllib3.PoolManager:
    """Connections with real timeouts and few retries, of POST too: every request here may be repeated.

    Redirects are not followed (the Secret names one host), and Retry-After is not obeyed: MinIO asks for minutes.
    """
    retries = Retry(
        total=2,
        read=1,
        redirect=0,
        backoff_factor=0.2,
        status_forcelist=[500, 502, 503, 504],
        allowed_methods=None,
        raise_on_status=False,
        raise_on_redirect=False,
        respect_retry_after_header=False,
    )
    timeout = Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), read=timeout_seconds)
    _, secure = parse_endpoint(connection.endpoint)
    if not secure:
        return urllib3.PoolManager(maxsize=size, retries=retries, timeout=timeout)
    context = build_ssl_context(ca=connection.ca, cert=connection.cert, key=connection.key)
    return urllib3.PoolManager(maxsize=size, retries=retries, timeout=timeout, ssl_context=context)


def build_client(connection: ObjectConnection, pool: urllib3.PoolManager) -> Minio:
    host, secure = parse_endpoint(connection.endpoint)
    secrets = (connection.access_key, connection.secret_key, connection.session_token or "-")
    if any(not value or not value.isprintable() or value != value.strip() for value in secrets):
        raise invalid_secret("accessKey, secretKey or sessionToken is empty or holds a line break or outer white space")
    try:
        return Minio(
            host,
            connection.access_key,
            connection.secret_key,
            connection.session_token or None,
            secure=secure,
            region=connection.region or None,
            http_client=pool,
        )
    except ValueError:
        raise invalid_secret("endpoint or region is not one of an S3 server") from None
