"""TLS of both backends, with a private CA and client certificates, in front of the real servers."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.objects import ObjectConnection, Objects
from taskdeletion.backends.redis import RedisConnection, RedisKeys
from tests.support.certificates import make_pair

KEY_PATTERNS = ["tls-test:{taskId}"]
PREFIXES = ["tasks/{taskId}/"]


@dataclass(frozen=True)
class Authority:
    """A CA and what it signed: a certificate for 127.0.0.1 and one for a client."""

    directory: Path

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("tls")

    pairs = {name: make_pair(name) for name in ("ca", "other-ca")}
    pairs |= {name: make_pair(name, issuer=pairs["ca"]) for name in ("server", "client")}
    for name, pair in pairs.items():
        (directory / f"{name}.crt").write_bytes(pair.cert)
        (directory / f"{name}.key").write_bytes(pair.key)
    (directory / "encrypted.key").write_bytes(pairs["client"].encrypted_key(b"x"))
    return Authority(directory)


@contextmanager
def tls_in_front_of(port: int, authority: Authority) -> Iterator[int]:
    """A port that speaks TLS, asks for a client certificate, and forwards to the plain port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.directory / "server.crt", authority.directory / "server.key")
    context.load_verify_locations(authority.directory / "ca.crt")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_all, args=(listener, context, port), daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def accept_all(listener: socket.socket, context: ssl.SSLContext, port: int) -> None:
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(plain, context, port), daemon=True).start()


def serve(plain: socket.socket, context: ssl.SSLContext, port: int) -> None:
    try:
        with (
            context.wrap_socket(plain, server_side=True) as front,
            socket.create_connection(("127.0.0.1", port)) as back,
        ):
            answers = threading.Thread(target=forward, args=(back, front), daemon=True)
            answers.start()
            forward(front, back)
            answers.join()
    except OSError:
        plain.close()


def forward(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def redis_port(stack: Stack, authority: Authority) -> Iterator[int]:
    with tls_in_front_of(stack.redis.port, authority) as port:
        yield port


@pytest.fixture
def minio_port(stack: Stack, authority: Authority) -> Iterator[int]:
    with tls_in_front_of(stack.minio.port, authority) as port:
        yield port


def probe_redis(stack: Stack, port: int, **tls: bytes) -> str:
    url = f"rediss://:{stack.redis.password}@127.0.0.1:{port}/0"
    keys = RedisKeys(RedisConnection(url, **tls), KEY_PATTERNS)
    problem = keys.probe()
    keys.close()
    return problem.reason if problem else ""


def probe_objects(stack: Stack, port: int, ca: bytes | None, cert: bytes | None, key: bytes | None) -> str:
    endpoint = f"https://127.0.0.1:{port}"
    keys = (stack.minio.access_key, stack.minio.secret_key)
    store = Objects(ObjectConnection(endpoint, *keys, ca=ca, cert=cert, key=key), "no-such-bucket", PREFIXES)
    problem = store.probe()
    store.close()
    return problem.reason if problem else ""


def test_redis_is_reached_with_a_private_ca_and_a_client_certificate(
    stack: Stack, redis_port: int, authority: Authority
) -> None:
    ca, cert, key = (authority.read(name) for name in ("ca.crt", "client.crt", "client.key"))
    assert probe_redis(stack, redis_port, ca=ca, cert=cert, key=key) == ""


def test_objects_are_reached_with_a_private_ca_and_a_client_certificate(
    stack: Stack, minio_port: int, authority: Authority
) -> None:
    ca, cert, key = (authority.read(name) for name in ("ca.crt", "client.crt", "client.key"))
    assert probe_objects(stack, minio_port, ca, cert, key) == reasons.BUCKET_MISSING  # so the server answered


def test_redis_with_a_certificate_of_another_ca_is_not_trusted(
    stack: Stack, redis_port: int, authority: Authority
) -> None:
    cert, key = authority.read("client.crt"), authority.read("client.key")
    for ca in (authority.read("other-ca.crt"), None):
        trust = {} if ca is None else {"ca": ca}
        assert probe_redis(stack, redis_port, cert=cert, key=key, **trust) == reasons.TLS_FAILED


def test_an_object_store_with_a_certificate_of_another_ca_is_not_trusted(
    stack: Stack, minio_port: int, authority: Authority
) -> None:
    cert, key = authority.read("client.crt"), authority.read("client.key")
    for ca in (authority.read("other-ca.crt"), None):
        assert probe_objects(stack, minio_port, ca, cert, key) == reasons.TLS_FAILED


def test_a_missing_client_certificate_fails(
    stack: Stack, redis_port: int, minio_port: int, authority: Authority
) -> None:
    passing = {reasons.TLS_FAILED, reasons.UNAVAILABLE}
    assert probe_redis(stack, redis_port, ca=authority.read("ca.crt")) in passing
    assert probe_objects(stack, minio_port, authority.read("ca.crt"), None, None) in passing


def test_an_encrypted_key_is_refused_without_asking_for_its_password(authority: Authority) -> None:
    connection = RedisConnection(
        "rediss://127.0.0.1", cert=authority.read("client.crt"), key=authority.read("encrypted.key")
    )
    with pytest.raises(Exception, match="unencrypted") as caught:
        RedisKeys(connection, KEY_PATTERNS)
    assert getattr(caught.value, "reason", "") == reasons.SECRET_VALUE_INVALID


def test_tls_material_leaves_no_file_behind(stack: Stack, authority: Authority, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path))
        connection = RedisConnection(
            "rediss://127.0.0.1", cert=authority.read("client.crt"), key=authority.read("client.key")
        )
        RedisKeys(connection, KEY_PATTERNS).close()
        patch.delattr("os.memfd_create")
        RedisKeys(connection, KEY_PATTERNS).close()
    assert list(tmp_path.iterdir()) == []
