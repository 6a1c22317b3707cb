"""A proxy in front of a real S3 server that can refuse, answer for it, or lose its answer.

Used by the tests of the objects backend. It forwards every request as it came, so that signatures hold.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LOSE = "lose the answer"


@dataclass(frozen=True)
class Request:
    """What arrived: `path` with its query."""

    method: str
    path: str

    @property
    def is_batch(self) -> bool:
        return self.method == "POST" and self.path.endswith("?delete=")


@dataclass(frozen=True)
class Reply:
    """An answer of the proxy's own."""

    status: int
    body: bytes


Rule = Callable[[Request], Reply | str | None]


def error_reply(status: int, code: str) -> Reply:
    """An error as S3 servers write it."""
    return Reply(status, f"<Error><Code>{code}</Code><Message>for a test</Message></Error>".encode())


@contextmanager
def faults_in_front_of(endpoint: str, rule: Rule) -> Iterator[str]:
    """An endpoint that forwards to `endpoint` what `rule` answers with None."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(endpoint.removeprefix("http://"), rule)) as server:
        server.daemon_threads = True
        server.block_on_close = False  # clients keep idle connections open
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _handler(host: str, rule: Rule) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            verdict = rule(Request(self.command, self.path))
            if isinstance(verdict, Reply):
                self.answer(verdict, {"Content-Type": "application/xml"})
                return
            reply, headers = self.forward(body)
            if verdict == LOSE:
                self.close_connection = True
            else:
                self.answer(reply, headers)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the base class names them

        def forward(self, body: bytes) -> tuple[Reply, dict[str, str]]:
            connection = http.client.HTTPConnection(host)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                response = connection.getresponse()
                kept = {name: value for name, value in response.getheaders() if name in ("Content-Type", "Server")}
                return Reply(response.status, response.read()), kept
            finally:
                connection.close()

        def answer(self, reply: Reply, headers: dict[str, str]) -> None:
            self.send_response_only(reply.status)
            for name, value in headers.items():
                self.send_header(name, value)
            if reply.status != http.HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it
            """Say nothing: tests read results, not logs."""

    return Handler
