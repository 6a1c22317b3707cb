"""The health server: GET /healthz (is the process alive?) and GET /readyz (can it work?) for the kubelet.

`bootstrap` starts it and hands in what is to be asked. It answers 200 "ok" or 503 with the problem, knows nothing else,
and a slow or hostile client can take a few threads for a few seconds only.
"""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Returns what is wrong, or None.
Check = Callable[[], str | None]

CLIENT_TIMEOUT_SECONDS = 5.0
CONNECTION_LIMIT = 16
STOP_POLL_SECONDS = 0.1

log = logging.getLogger(__name__)


class HealthServer:
    """Serves the two checks on `address` (host, port; port 0: any free one) from threads of its own."""

    def __init__(self, address: tuple[str, int], liveness: Check, readiness: Check) -> None:
        self._address = address
        self._checks = {"/healthz": liveness, "/readyz": readiness}
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        if self._server is None:
            raise RuntimeError("the health server is not started")
        return int(self._server.server_address[1])

    @property
    def is_started(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def start(self) -> None:
        """Listen and answer. Raises OSError when the address cannot be had."""
        self._server = _Server(self._address, self._checks)
        run = self._server.serve_forever
        threading.Thread(target=run, args=(STOP_POLL_SECONDS,), name="health", daemon=True).start()

    def stop(self) -> None:
        """Stop listening; without effect when it is not started."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], checks: dict[str, Check]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.checks = checks
        self._places = threading.BoundedSemaphore(CONNECTION_LIMIT)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without HTTPServer's reverse look-up, which can hang for long

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - the base class's signature
        log.debug("a client of the health server went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_SECONDS

    def do_GET(self) -> None:
        check = self.server.checks.get(self.path)
        if check is None:
            self._answer(404, "not found")
            return
        problem = _ask(check)
        self._answer(200 if problem is None else 503, problem or "ok")

    def do_other(self) -> None:
        self._answer(404, "not found")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other  # noqa: N815 - http.server looks for these names

    def version_string(self) -> str:
        return "taskdeletion"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        log.debug(format, *args)

    def _answer(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _ask(check: Check) -> str | None:
    try:
        return check()
    # A check that cannot tell means "not well", and the kubelet must hear that: without an answer it would only guess.
    except Exception as error:
        log.warning("a health check failed", exc_info=True)
        return f"the check itself failed: {type(error).__name__}"
