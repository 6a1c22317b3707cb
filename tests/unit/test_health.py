import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from taskdeletion.observe import health, serving
from taskdeletion.observe.health import HealthServer

Start = Callable[..., HealthServer]
PATIENCE_SECONDS = 10


def fine() -> str | None:
    return None


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as on_exit:

        def start_server(
            liveness: health.Check = fine, readiness: health.Check = fine, host: str = "127.0.0.1"
        ) -> HealthServer:
            server = HealthServer((host, 0), liveness, readiness)
            server.start()
            on_exit.callback(server.stop)
            return server

        yield start_server


def ask(server: HealthServer, path: str, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, server.port, timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_both_checks_answer_for_themselves(start: Start) -> None:
    server = start(readiness=lambda: "the API server cannot be reached: ü")

    assert ask(server, "/healthz") == (200, "ok")
    assert ask(server, "/readyz") == (503, "the API server cannot be reached: ü")


@pytest.mark.parametrize("path", ["/", "/healthz/", "/healthz?x=1", "/readyz/../healthz", "/metrics"])
def test_anything_else_is_not_found(start: Start, path: str) -> None:
    assert ask(start(), path) == (404, "not found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_only_get_is_answered(start: Start, method: str) -> None:
    assert ask(start(), "/healthz", method)[0] == 404


def test_a_check_that_fails_is_a_problem_and_the_server_lives_on(start: Start) -> None:
    def broken() -> str | None:
        raise ValueError("secret detail")

    server = start(liveness=broken)

    assert ask(server, "/healthz") == (503, "the check itself failed: ValueError")
    assert ask(server, "/healthz")[0] == 503
    assert ask(server, "/readyz") == (200, "ok")


def test_a_slow_check_does_not_block_the_other(start: Start) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> str | None:
        begun.set()
        go_on.wait(PATIENCE_SECONDS)
        return None

    server = start(readiness=slow)
    asking = threading.Thread(target=ask, args=(server, "/readyz"))
    asking.start()
    assert begun.wait(PATIENCE_SECONDS)

    assert ask(server, "/healthz") == (200, "ok")
    go_on.set()
    asking.join(PATIENCE_SECONDS)


def test_silent_clients_take_a_bounded_number_of_places_and_lose_them(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "CONNECTION_LIMIT", 2)
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    server = start()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
    for connection in silent:
        connection.settimeout(PATIENCE_SECONDS)

    assert [connection.recv(1) for connection in silent] == [b""] * 3  # all of them are hung up on
    for connection in silent:
        connection.close()
    assert ask(server, "/healthz") == (200, "ok")


def test_it_listens_on_ipv6_too(start: Start) -> None:
    server = start(host="::1")

    assert ask(server, "/healthz", host="::1") == (200, "ok")


def test_it_writes_no_log_line_for_a_probe(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    ask(start(), "/healthz")

    assert capfd.readouterr() == ("", "")


def test_it_stops_listening_and_can_be_stopped_twice(start: Start) -> None:
    server = start()
    port = server.port
    server.stop()
    server.stop()

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with pytest.raises(RuntimeError, match="not started"):
        _ = server.port


def test_an_address_that_is_taken_is_an_error_at_the_start(start: Start) -> None:
    taken = start()

    with pytest.raises(OSError, match="in use"):
        HealthServer(("127.0.0.1", taken.port), fine, fine).start()
