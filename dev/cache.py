"""The cache of programs, keyed by name and version, shared by all stacks of a user.

`dev.binaries`, `dev.origins` and `dev.build` put things into it. A directory in it is whole or absent: it is filled
under another name, then renamed. Only one process at a time may fill it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.processes import Processes
from dev.progress import Progress

CACHE_NAME = "task-deletion-operator"


@dataclass(frozen=True)
class Cache:
    """Directories `NAME-VERSION` under one root."""

    root: Path

    def directory(self, name: str, version: str) -> Path:
        return self.root / f"{name}-{version}"

    def filled(self, name: str, version: str, fill: Callable[[Path], None]) -> Path:
        """The directory for a name and version; when it is absent, `fill` is given an empty one to fill."""
        directory = self.directory(name, version)
        if not directory.exists():
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".partial-") as parent:
                partial = Path(parent) / directory.name
                partial.mkdir()
                fill(partial)
                partial.rename(directory)
        return directory

    @contextmanager
    def locked(self, progress: Progress) -> Iterator[None]:
        """Be the only process that fills the cache; says so when it has to wait for another one."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("wb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"waiting for another process that fills {self.root} ...")
                fcntl.flock(lock, fcntl.LOCK_EX)
            self.remove_leftovers()
            yield

    def remove_leftovers(self) -> None:
        """What a killed process had not finished; nobody else is at work while we hold the lock."""
        for leftover in self.root.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


@dataclass(frozen=True)
class Workbench:
    """What getting a program takes: the cache, supervised processes, and somebody to tell."""

    cache: Cache
    processes: Processes
    progress: Progress


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_CACHE_HOME/task-deletion-operator`, by default under `~/.cache`."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / CACHE_NAME
