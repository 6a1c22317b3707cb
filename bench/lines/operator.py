"""The whole operator as a process: throughput of a burst, time from creation to the end, memory beside old requests.

The stack is that of the tests: a real API server with etcd, PostgreSQL, Redis, MinIO, and a folder as the volume.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from bench.finished import fill
from bench.line import OURS, Contest, Line
from bench.machine import file_system_of
from bench.measuring import CannotRunError
from bench.operators import CANARY, OURS_MODULE, running
from bench.requests import Requests, WorkNotDoneError, time_burst, time_each
from bench.residues import FILES, KEYS, OBJECTS, add_large_task, add_rows, add_small_tasks, require_gone
from dev.demo import install_crds, kubectl
from dev.pipeline import Pipeline, wait_until
from dev.stack import Stack, start_stack

NAMESPACE: Final = "bench"
BURST: Final = 1_000
SERIES: Final = 50
STATUS_PATCHES: Final = 3
GIGABYTE_FILES: Final = 1_000
GIGABYTES: Final = 3
SMALL: Final = 10_000
LARGEST: Final = 50
PATIENCE_SECONDS: Final = 600.0
MEGABYTE: Final = 1_000_000
BARE: Final = "bare kopf, as many writes"
BARE_PATCHES: Final = "bare kopf, status patches only"
MODULES: Final[Mapping[str, Sequence[str]]] = {
    OURS: OURS_MODULE,
    BARE: ("bench.peers.bare_kopf", "--events"),
    BARE_PATCHES: ("bench.peers.bare_kopf",),
}
EXACT: Final = {
    "requested": 1,
    "deleted": 1,
    "filesDeleted": FILES,
    "redisKeysDeleted": KEYS,
    "objectsDeleted": OBJECTS,
}
Specs = Mapping[str, Mapping[str, Any]]
Measure = Callable[[Requests, Specs], float]


# --- the contests -----------------------------------------------------------------------------------------------------
@dataclass
class Deletions:
    """Requests of one task each, in a stack with every kind of store. `measure` makes the figure of them.

    `add` puts the tasks into the stores; `exact`: what the summary of each request must say.
    """

    stack: Stack
    pipeline: Pipeline
    requests: Requests
    task_ids: Sequence[str]
    contestants: Sequence[str]
    add: Callable[[Pipeline, Sequence[str]], None]
    measure: Measure
    exact: Mapping[str, int]

    def prepare(self, contestant: str) -> None:
        """No old requests, and the tasks where somebody touches them."""
        self.requests.remove_all()
        if contestant == OURS:
            self.add(self.pipeline, self.task_ids)

    def run(self, contestant: str) -> float:
        """Measure one contestant, whose process is at work before the first request is created."""
        specs = {f"request-{task_id}": {"taskIds": [task_id], "confirm": True} for task_id in self.task_ids}
        specs = {name.replace("_", "-"): spec for name, spec in specs.items()}
        with running(self.stack, self.requests, MODULES[contestant]):
            before = count_patches(self.stack)
            figure = self.measure(self.requests, specs)
            self.require_patches(before + STATUS_PATCHES * len(specs))
        if contestant == OURS:
            self.require_done()
        return figure

    def require_patches(self, wanted: int) -> None:
        """TimeoutError where fewer status patches were made. The audit log may come after the watch.

        More are progress: ours, where a purge takes seconds.
        """
        wait_until(lambda: count_patches(self.stack) >= wanted, seconds=10, what=f"{wanted} status patches")

    def require_done(self) -> None:
        """WorkNotDoneError unless every request says exactly what was there, and nothing is left."""
        for found in self.requests.list_all():
            summary, name = found["status"].get("summary", {}), found["metadata"]["name"]
            if name != CANARY and any(summary.get(field) != value for field, value in self.exact.items()):
                raise WorkNotDoneError(f"{name} says {summary}")
        require_gone(self.pipeline, self.task_ids)


@dataclass
class Memory:
    """Old requests, and an operator that starts beside them."""

    stack: Stack
    requests: Requests
    contestants: Sequence[str] = (OURS, BARE_PATCHES)

    def prepare(self, contestant: str) -> None:
        """Each start sees the same requests."""
        assert contestant in self.contestants
        self.requests.remove(CANARY)

    def run(self, contestant: str) -> float:
        """The most physical memory, in MB, until it has listed all of them and is idle."""
        with running(self.stack, self.requests, MODULES[contestant]) as process:
            process.wait_idle(seconds=PATIENCE_SECONDS)
            return process.peak_bytes / 1e6


def count_patches(stack: Stack) -> int:
    """Status patches of TaskDeletions that the API server has accepted so far, by its audit log."""
    assert stack.kubernetes.audit_log is not None
    with stack.kubernetes.audit_log.open() as log:
        events = [json.loads(line) for line in log if '"verb":"patch"' in line]
    return sum(
        event["objectRef"]["resource"] == "taskdeletions" and event["responseStatus"]["code"] == 200 for event in events
    )


# --- their measures ---------------------------------------------------------------------------------------------------
def measure_burst(requests: Requests, specs: Specs) -> float:
    """Seconds from the first creation to the last end."""
    return time_burst(requests, specs, seconds=PATIENCE_SECONDS)


def measure_median(requests: Requests, specs: Specs) -> float:
    """The median of the seconds from creation to end, one request after another."""
    return statistics.median(time_each(requests, specs, seconds=PATIENCE_SECONDS))


def measure_p95(requests: Requests, specs: Specs) -> float:
    """The 95th percentile of the same."""
    return statistics.quantiles(time_each(requests, specs, seconds=PATIENCE_SECONDS), n=20, method="inclusive")[-1]


def measure_slowest(requests: Requests, specs: Specs) -> float:
    """The slowest of the same."""
    return max(time_each(requests, specs, seconds=PATIENCE_SECONDS))


# --- set up -----------------------------------------------------------------------------------------------------------
@contextmanager
def open_pipeline() -> Iterator[tuple[Stack, Pipeline, Requests]]:
    """A stack with every kind of store, the CRDs and a TaskStore; no operator runs."""
    with start_stack() as stack:
        pipeline, requests = Pipeline(stack, NAMESPACE), Requests(stack, NAMESPACE)
        kubectl(stack, "create", "namespace", NAMESPACE)
        install_crds(stack)
        pipeline.create()
        for manifest in pipeline.manifests():
            requests.create_object(manifest)
        yield stack, pipeline, requests


@contextmanager
def open_small(measure: Measure, count: int, *peers: str) -> Iterator[Contest]:
    """Many small tasks."""
    with open_pipeline() as (stack, pipeline, requests):
        task_ids = [f"task_{number:04}" for number in range(count)]
        yield Deletions(stack, pipeline, requests, task_ids, (OURS, *peers), add_small_tasks, measure, EXACT)


@contextmanager
def open_gigabyte() -> Iterator[Contest]:
    """Few large tasks, on ext4."""
    with open_pipeline() as (stack, pipeline, requests):
        if (kind := file_system_of(pipeline.root)) != "ext4":
            raise CannotRunError(f"temporary files are on {kind}, not on ext4; set TMPDIR")
        task_ids = [f"task_{number}" for number in range(GIGABYTES)]
        exact = {"deleted": 1, "filesDeleted": GIGABYTE_FILES, "bytesFreed": GIGABYTE_FILES * MEGABYTE}
        yield Deletions(stack, pipeline, requests, task_ids, (OURS,), add_gigabytes, measure_slowest, exact)


def add_gigabytes(pipeline: Pipeline, task_ids: Sequence[str]) -> None:
    """Tasks of 1 GB in 1,000 files."""
    add_rows(pipeline, task_ids)
    for task_id in task_ids:
        add_large_task(pipeline, task_id, files=GIGABYTE_FILES, file_bytes=MEGABYTE)


@contextmanager
def open_memory() -> Iterator[Contest]:
    """10,000 requests that have ended, and 50 of the largest."""
    with open_pipeline() as (stack, _, requests):
        fill(requests, small=SMALL, largest=LARGEST)
        yield Memory(stack, requests)


LINES: Final = [
    Line(
        name="operator-throughput",
        work=f"{BURST:,} requests of one small task each, all four stores, created in a burst, until all are Complete",
        peer=BARE,
        target=1.5,
        aim=1.3,
        open=partial(open_small, measure_burst, BURST, BARE, BARE_PATCHES),
        rounds=6,
        note="created by 4 threads while the operator runs; every write goes through one API server on the same cores",
    ),
    Line(
        name="operator-latency-p50",
        work=f"{SERIES} requests of one small task, one after another: median from creation to Complete",
        peer=None,
        target=0.5,
        aim=None,
        open=partial(open_small, measure_median, SERIES),
    ),
    Line(
        name="operator-latency-p95",
        work=f"{SERIES} requests of one small task, one after another: 95th percentile from creation to Complete",
        peer=None,
        target=1.5,
        aim=None,
        open=partial(open_small, measure_p95, SERIES),
    ),
    Line(
        name="operator-gigabyte",
        work=f"one request, 1 GB in {GIGABYTE_FILES:,} files on ext4, from creation to Complete",
        peer=None,
        target=5.0,
        aim=None,
        open=open_gigabyte,
        note=f"each round counts the slowest of {GIGABYTES}, so that the upper end is the slowest of all: beyond P95",
    ),
    Line(
        name="operator-memory",
        work=f"start beside {SMALL:,} finished requests and {LARGEST} of the largest possible: most physical memory",
        peer=None,
        target=200,
        aim=150,
        open=open_memory,
        rounds=6,
        unit="MB",
        note="500 ids of 128 characters that all failed are the largest; MB are millions of bytes",
    ),
]
