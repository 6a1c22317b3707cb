"""A small HTTP server for pages that machines ask for: probes, metrics. GET and nothing else.

Used by `health`, and by `bootstrap` for metrics. A page is a function that gives status, type and text; it knows
nothing else, and a slow or hostile client can take a few threads for a few seconds only.
"""

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

CLIENT_TIMEOUT_SECONDS = 5.0
CONNECTION_LIMIT = 16
STOP_POLL_SECONDS = 0.1
PLAIN = "text/plain; charset=utf-8"

log = logging.getLogger(__name__)


class Page(NamedTuple):
    """What is answered."""

    status: int
    content: bytes
    content_type: str = PLAIN


Pages = Mapping[str, Callable[[], Page]]
NOT_FOUND = Page(404, b"not found")


class PageServer:
    """Serves `pages`, by path, on `address` (host, port; port 0: any free one) from threads of its own."""

    def __init__(self, address: tuple[str, int], pages: Pages, *, name: str) -> None:
        self._address = address
        self._pages = pages
        self._name = name
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        if self._server is None:
            raise RuntimeError(f"the {self._name} server is not started")
        return int(self._server.server_address[1])

    @property
    def is_started(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def start(self) -> None:
        """Listen and answer. Raises OSError when the address cannot be had."""
        self._server = _Server(self._address, self._pages)
        run = self._server.serve_forever
        threading.Thread(target=run, args=(STOP_POLL_SECONDS,), name=self._name, daemon=True).start()

    def stop(self) -> None:
        """Stop listening; without effect when it is not started."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.pages = pages
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
        log.debug("a client of the server went away", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = CLIENT_TIMEOUT_SECONDS

    def do_GET(self) -> None:
        ask = self.server.pages.get(self.path)
        self._answer(ask() if ask is not None else NOT_FOUND)

    def do_other(self) -> None:
        self._answer(NOT_FOUND)

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_other  # noqa: N815 - http.server looks for these names

    def version_string(self) -> str:
        return "taskdeletion"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's signature
        log.debug(format, *args)

    def _answer(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.content)
