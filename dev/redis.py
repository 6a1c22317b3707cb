"""One Redis server with a password, for `dev.stack`; its data survive a clean stop in the state directory."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from dev.processes import TIER_STORAGE, Processes
from dev.settings import Settings, write_private

NAME = "redis"
BINARIES = ("redis-server",)
PORTS = ("redis",)
PING_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class Redis:
    """Where the server listens, and its life."""

    settings: Settings

    @property
    def port(self) -> int:
        return self.settings.port("redis")

    @property
    def password(self) -> str:
        return self.settings.secret("redis-password")

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def data_dir(self) -> Path:
        return self.settings.state_dir / "redis"

    def endpoint_document(self) -> dict[str, str]:
        return {"url": self.url}

    def start(self, processes: Processes) -> None:
        self.data_dir.mkdir(exist_ok=True)
        write_private(self.data_dir / "redis.conf", self.configuration())
        processes.spawn(NAME, self.command(), tier=TIER_STORAGE)
        processes.wait_ready(NAME, self.answers_ping)

    def stop(self, processes: Processes) -> None:
        processes.stop(NAME)

    def command(self) -> list[str | Path]:
        return [self.settings.binaries["redis-server"], self.data_dir / "redis.conf"]

    def configuration(self) -> str:
        """In a file, since arguments are for everybody on the machine to see."""
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.data_dir}"',
            "save 3600 1",  # also makes a clean stop write a snapshot
            "appendonly no",
        ]
        return "\n".join(lines) + "\n"

    def answers_ping(self) -> bool:
        """Whether our own server answers: another one would refuse the password."""
        request = f"AUTH {self.password}\r\nPING\r\n".encode()
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=PING_TIMEOUT_SECONDS) as connection:
                connection.sendall(request)
                with connection.makefile("rb") as replies:
                    return [replies.readline(), replies.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False
