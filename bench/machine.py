"""What a run was measured on: the commit, the machine, the file systems. Read by `bench.__main__`, printed by `report`.

Names no machine and no path; figures of different machines are not to be compared.
"""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**30


@dataclass(frozen=True)
class Circumstances:
    """`file_systems`: a place and the type of what is mounted there. `load`: of the minute before the run."""

    commit: str
    is_dirty: bool
    date: str
    command: str
    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    file_systems: tuple[tuple[str, str], ...]
    load: float

    def describe(self) -> list[tuple[str, str]]:
        """Pairs of a word and a value, for people."""
        commit = f"{self.commit}, with changes that are not committed" if self.is_dirty else self.commit
        places = ", ".join(f"{kind} ({place})" for place, kind in self.file_systems)
        return [
            ("commit", commit),
            ("date", self.date),
            ("command", self.command),
            ("processor", f"{self.processor}, {self.cores} cores"),
            ("memory", f"{self.memory_gib:.0f} GiB"),
            ("kernel", self.kernel),
            ("file systems", places),
            ("Python", self.python),
            ("load at the start", f"{self.load:.2f}"),
        ]


def look_around(command: str) -> Circumstances:
    """The circumstances of a run that begins now."""
    places = (("checkout", ROOT), ("temporary files", Path(tempfile.gettempdir())))
    return Circumstances(
        commit=_git("rev-parse", "--short=12", "HEAD") or "unknown",
        is_dirty=bool(_git("status", "--porcelain")),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        processor=find_processor(Path("/proc/cpuinfo").read_text()),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        kernel=platform.release(),
        python=platform.python_version(),
        file_systems=tuple((name, file_system_of(place)) for name, place in places),
        load=os.getloadavg()[0],
    )


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def find_processor(cpuinfo: str) -> str:
    """The processor's name in /proc/cpuinfo; the architecture where it has none (ARM)."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def file_system_of(place: Path) -> str:
    """The type of the file system that holds `place` on this machine."""
    return find_file_system(Path("/proc/self/mounts").read_text(), place.resolve())


def find_file_system(mounts: str, place: Path) -> str:
    """The type of the file system that holds `place`, from the text of /proc/self/mounts; the last mount counts."""
    best, kind = -1, "unknown"
    for line in mounts.splitlines():
        _, mount_point, found, *_ = line.split(" ")
        point = Path(mount_point.replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), found
    return kind
