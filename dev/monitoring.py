"""Prometheus and its promtool: what the tests of alerts, metrics and the dashboard ask.

Both come from the same places as the other programs of `dev`. They watch what the operator says; the operator and its
image never need them.
"""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dev.binaries import Tool
from dev.helm import GoInstall, find
from dev.origins import ARCHITECTURE, SYSTEM, Download
from dev.pipeline import wait_until
from dev.progress import Progress, print_to_stderr
from dev.settings import free_port

PROMETHEUS_VERSION = "3.16.0"
#: The same release, as a Go module.
MODULE_VERSION = "v0.316.0"
#: Without the clients of all clouds, which take most of the time of a build.
BUILD_TAGS = "remove_all_sd,enable_dns_sd"
SCRAPE_SECONDS = 1


def build_tool(program: str, *, minutes: int) -> Tool:
    """One program of a release of Prometheus."""
    folder = f"prometheus-{PROMETHEUS_VERSION}.{SYSTEM}-{ARCHITECTURE}"
    release = f"https://github.com/prometheus/prometheus/releases/download/v{PROMETHEUS_VERSION}"
    download = Download(
        PROMETHEUS_VERSION, program, f"{release}/{folder}.tar.gz", f"{release}/sha256sums.txt", f"{folder}/{program}"
    )
    package = f"github.com/prometheus/prometheus/cmd/{program}"
    return Tool(program, (download, GoInstall(MODULE_VERSION, program, package, minutes, BUILD_TAGS)))


PROMTOOL = build_tool("promtool", minutes=5)
PROMETHEUS = build_tool("prometheus", minutes=5)


def find_promtool(progress: Progress = print_to_stderr) -> Path:
    """The installed promtool, else ours, fetched or built first if need be; StackError when it cannot be had."""
    return find(PROMTOOL, progress)


def run_promtool(*arguments: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; its exit code and what it prints are for the caller."""
    command: list[str | Path] = [find_promtool(), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of its API. Raises urllib.error.HTTPError for a query that it refuses."""
        return json.loads(self._read(f"/api/v1/{path}?{urllib.parse.urlencode(query)}"))["data"]

    def query(self, expression: str) -> Sequence[Mapping[str, Any]]:
        """The series of an expression, now."""
        found: Sequence[Mapping[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def parse(self, expression: str) -> Mapping[str, Any]:
        """The syntax tree of an expression."""
        found: Mapping[str, Any] = self.ask("parse_query", query=expression)
        return found

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            self._read("/-/ready")
        except OSError:
            return False
        return True

    def _read(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as answer:  # noqa: S310 - our own server, by HTTP
            content: bytes = answer.read()
            return content


@contextmanager
def running_prometheus(folder: Path, targets: Sequence[str], rules: Sequence[Path] = ()) -> Iterator[Prometheus]:
    """A server that scrapes `targets` (host:port) as job `operator`, for the length of a `with` block."""
    address = f"127.0.0.1:{free_port()}"
    labels = {"namespace": "pipelines", "pod": "operator"}
    config = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [
            {"job_name": "operator", "static_configs": [{"targets": list(targets), "labels": labels}]},
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command: list[str | Path] = [
        find(PROMETHEUS, print_to_stderr),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(f"http://{address}")
        wait_until(server.is_ready, seconds=60, what="Prometheus")
        yield server
    finally:
        process.terminate()
        process.wait(30)
