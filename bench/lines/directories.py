"""Directories, on a slow file system and on quick ones, against `rm -rf`; `rmz`, which has threads, is shown beside.

Called by `bench`. Ours claims the task and purges the sibling, in this process; the others are processes whose start,
1 to 2 ms, counts. All of them find the tree unseen by the slow file system's caches: it is made behind it.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from bench.latencyfs import mounted
from bench.line import OURS, Line
from bench.plans import Plan
from bench.tools import RMZ, provide_rmz
from bench.trees import Tree, chain, disk_folder, flat, memory_folder, remove_ours, require_empty, wide
from dev.cache import cache_root
from dev.origins import UnavailableError
from dev.progress import print_to_stderr
from taskdeletion.backends.directory import DirectoryRoot

RM: Final = "rm -rf"
WITH_CLAIMS: Final = "ours with the claims"
LATENCY_SECONDS: Final = 0.0005
PLAN_TASKS: Final = 200
#: The fewest that give an interval of 95 %, where a round takes long.
FEW_ROUNDS: Final = 6
SLOW: Final = "0.5 ms per metadata operation"
IN_PROCESS: Final = "ours runs in this process; the start of the others counts, 1 to 2 ms"

Place = Callable[[], AbstractContextManager[Path]]
Command = Sequence[str | Path]


@dataclass(kw_only=True)
class Removal:
    """One tree after the other. `filled`: where they are made; `seen`: where the contestants find them."""

    filled: Path
    seen: Path
    tree: Tree
    peers: Mapping[str, Command]
    settle: Callable[[], object]
    contestants: Sequence[str] = field(init=False)
    number: int = 0

    def __post_init__(self) -> None:
        self.contestants = (OURS, *self.peers)

    @property
    def task_id(self) -> str:
        """Never the same twice: nobody has cached anything of it."""
        return f"task_{self.number:04}"

    def prepare(self, contestant: str) -> None:  # noqa: ARG002 - everybody gets the same
        """A new tree."""
        self.number += 1
        self.tree.make(self.filled / self.task_id)
        self.settle()

    def run(self, contestant: str) -> float:
        """Seconds until it is gone."""
        seconds = (
            self.run_ours() if contestant == OURS else run_peer(self.peers[contestant], [self.seen / self.task_id])
        )
        require_empty(self.filled, contestant)
        return seconds

    def run_ours(self) -> float:
        with DirectoryRoot.open(self.seen, "", require_mount=False) as root:
            return remove_ours(root, self.task_id, self.tree)


@dataclass(kw_only=True)
class PlanRemoval:
    """PLAN_TASKS small trees, as one request purges them: a plan in rounds, each claimed and then purged."""

    filled: Path
    seen: Path
    tree: Tree
    peers: Mapping[str, Command]
    contestants: Sequence[str] = field(init=False)
    number: int = 0

    def __post_init__(self) -> None:
        self.contestants = (OURS, *self.peers, WITH_CLAIMS)

    @property
    def task_ids(self) -> list[str]:
        return [f"task_{self.number:04}_{index:03}" for index in range(PLAN_TASKS)]

    def prepare(self, contestant: str) -> None:  # noqa: ARG002 - everybody gets the same
        """New trees."""
        self.number += 1
        for task_id in self.task_ids:
            self.tree.make(self.filled / task_id)

    def run(self, contestant: str) -> float:
        """Seconds until all are gone; ours without the time of the claims."""
        if contestant in self.peers:
            seconds = run_peer(self.peers[contestant], [self.seen / task_id for task_id in self.task_ids])
        else:
            seconds = self.run_ours(are_claims_counted=contestant == WITH_CLAIMS)
        require_empty(self.filled, contestant)
        return seconds

    def run_ours(self, *, are_claims_counted: bool) -> float:
        with DirectoryRoot.open(self.seen, "", require_mount=False) as root, Plan.open(root, self.tree) as plan:
            taken = plan.remove(self.task_ids)
        return taken.purges + taken.claims * are_claims_counted


@dataclass
class Growth:
    """The memory that the purge of one huge directory takes, on top of what the process had."""

    folder: Path
    tree: Tree
    contestants: Sequence[str] = (OURS,)
    task_id: str = "task_1"

    def prepare(self, contestant: str) -> None:  # noqa: ARG002 - there is one
        """A new tree."""
        self.tree.make(self.folder / self.task_id)

    def run(self, contestant: str) -> float:
        """MB (10^6 bytes), in a new process."""
        spawning = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawning) as process:
            grown = process.submit(measure_growth, self.folder, self.task_id, self.tree).result()
        require_empty(self.folder, contestant)
        return grown / 1e6


def measure_growth(folder: Path, task_id: str, tree: Tree) -> int:
    """Bytes from the resident size before the claim to the peak (VmHWM, set back before) at the end."""
    with DirectoryRoot.open(folder, "", require_mount=False) as root:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
        before = read_status("VmRSS")
        remove_ours(root, task_id, tree)
    return read_status("VmHWM") - before


def read_status(word: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{word}:"))


def run_peer(command: Command, directories: Sequence[Path]) -> float:
    """Seconds of one process that removes these directories."""
    begun = time.perf_counter()
    subprocess.run([*command, "--", *directories], check=True)
    return time.perf_counter() - begun


def find_peers() -> dict[str, Command]:
    """The named peer, and the other one where it can be had."""
    peers: dict[str, Command] = {RM: ["rm", "-rf"]}
    try:
        peers[RMZ] = [provide_rmz()]
    except UnavailableError as why:
        print_to_stderr(f"{RMZ} is not shown: {why}")
    return peers


@contextmanager
def open_slow(tree: Tree) -> Iterator[Removal]:
    """A tree on a file system with latency, which shows a tmpfs."""
    peers = find_peers()
    with memory_folder(tree) as filled, mounted(filled, LATENCY_SECONDS) as seen:
        yield Removal(filled=filled, seen=seen, tree=tree, peers=peers, settle=nothing)


@contextmanager
def open_plan(tree: Tree) -> Iterator[PlanRemoval]:
    """The trees of a plan on a file system with latency."""
    peers = find_peers()
    with memory_folder(tree) as filled, mounted(filled, LATENCY_SECONDS) as seen:
        yield PlanRemoval(filled=filled, seen=seen, tree=tree, peers=peers)


@contextmanager
def open_memory(tree: Tree) -> Iterator[Removal]:
    """A tree on a tmpfs."""
    peers = find_peers()
    with memory_folder(tree) as folder:
        yield Removal(filled=folder, seen=folder, tree=tree, peers=peers, settle=nothing)


@contextmanager
def open_disk(tree: Tree) -> Iterator[Removal]:
    """A tree on a disk, written back and still in the caches."""
    peers = find_peers()
    places = [Path(tempfile.gettempdir()), cache_root().parent, Path.cwd()]
    with disk_folder(places, ("ext4", "overlay")) as folder:
        yield Removal(filled=folder, seen=folder, tree=tree, peers=peers, settle=os.sync)


@contextmanager
def open_growth(tree: Tree) -> Iterator[Growth]:
    """One huge directory on a tmpfs."""
    with memory_folder(tree) as folder:
        yield Growth(folder, tree)


def nothing() -> None:
    """Memory needs no settling."""


LINES = [
    Line(
        name="directories-wide",
        work=f"100 directories of 40 files, {SLOW}",
        peer=RM,
        target=0.06,
        aim=0.04,
        open=partial(open_slow, wide(100, 40)),
        rounds=FEW_ROUNDS,
        note=f"a file costs a lookup and an unlink; {IN_PROCESS}",
    ),
    Line(
        name="directories-chain",
        work=f"60 directories of 40 files, each in the one before, {SLOW}",
        peer=RM,
        target=0.08,
        aim=0.07,
        open=partial(open_slow, chain(60, 40)),
        rounds=FEW_ROUNDS,
        note=f"going down and coming up is one after the other, whoever does it; {IN_PROCESS}",
    ),
    Line(
        name="directories-flat",
        work=f"10,000 files in one directory, {SLOW}",
        peer=RM,
        target=1.05,
        aim=None,
        open=partial(open_slow, flat(10_000)),
        rounds=FEW_ROUNDS,
        note=f"the kernel lets one unlink at a time into a directory; {IN_PROCESS}",
    ),
    Line(
        name="directories-plan",
        work=f"a plan of {PLAN_TASKS} tasks of 50 files, in rounds of 50, {SLOW}",
        peer=RM,
        target=0.06,
        aim=0.04,
        open=partial(open_plan, flat(50)),
        rounds=FEW_ROUNDS,
        note=f"the executor's purge of claimed tasks; with the claims it is shown beside; {IN_PROCESS}",
    ),
    Line(
        name="directories-ext4",
        work="200 directories of 200 files on ext4 or overlay, warm",
        peer=RM,
        target=1.0,
        aim=None,
        open=partial(open_disk, wide(200, 200)),
        note=f"aim: not slower than {RMZ}; {IN_PROCESS}",
    ),
    Line(
        name="directories-tmpfs",
        work="200 directories of 200 files on tmpfs, warm",
        peer=RM,
        target=1.1,
        aim=None,
        open=partial(open_memory, wide(200, 200)),
        note=f"aim: not slower than {RMZ}; {IN_PROCESS}",
    ),
    Line(
        name="directories-memory",
        work="memory that 500,000 files in one directory on tmpfs take",
        peer=None,
        target=20.0,
        aim=5.0,
        open=partial(open_growth, flat(500_000, content=b"")),
        rounds=FEW_ROUNDS,
        unit="MB",
        note="in a new process: its peak (VmHWM) less its resident size before the claim",
    ),
]
