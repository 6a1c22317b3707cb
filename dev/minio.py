"""One MinIO server on a directory of the state directory, for `dev.stack`.

MinIO is AGPL: a service for tests and the demo, never a part of the operator or its image.
"""

from __future__ import annotations

import http.client
import os
from dataclasses import dataclass
from pathlib import Path

from dev.processes import TIER_STORAGE, Processes
from dev.settings import Settings

NAME = "minio"
BINARIES = ("minio",)
PORTS = ("minio",)
HEALTH_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class Minio:
    """Where the server listens, and its life."""

    settings: Settings

    @property
    def port(self) -> int:
        return self.settings.port("minio")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def access_key(self) -> str:
        return "minioadmin"

    @property
    def secret_key(self) -> str:
        return self.settings.secret("minio-secret-key")

    @property
    def data_dir(self) -> Path:
        return self.settings.state_dir / "minio"

    def endpoint_document(self) -> dict[str, str]:
        return {"endpoint": self.endpoint, "access_key": self.access_key, "secret_key": self.secret_key}

    def start(self, processes: Processes) -> None:
        self.data_dir.mkdir(exist_ok=True)
        processes.spawn(NAME, self.command(), env=self.environment(), tier=TIER_STORAGE)
        processes.wait_ready(NAME, lambda: self.has_started(processes) and self.is_healthy())

    def stop(self, processes: Processes) -> None:
        processes.stop(NAME)

    def command(self) -> list[str | Path]:
        address = f"127.0.0.1:{self.port}"
        config: list[str | Path] = ["--config-dir", self.settings.state_dir / "minio-config"]
        return [self.settings.binaries["minio"], "server", "--address", address, *config, self.data_dir]

    def environment(self) -> dict[str, str]:
        """Ours, without settings of a MinIO meant for something else."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("MINIO_")}
        return ours | {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "TZ": "UTC",
        }

    def has_started(self, processes: Processes) -> bool:
        """Its own log says so; the health check alone could be answered by another server on that port."""
        return f"API: {self.endpoint}" in processes.read_log(NAME)

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HEALTH_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/minio/health/live")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
