"""The directories of a plan, removed the way a request does it: round by round, claimed, then purged by the executor.

Used by `bench.lines.directories`. Without catalog, API server and status: the engine alone.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from bench.trees import OWNER, Tree, WorkNotDoneError
from taskdeletion.api.task_store import TaskStoreSpec
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.plan import build_rounds
from taskdeletion.domain.results import StepResult, never_halt
from taskdeletion.executors.here import PurgeWork, purge
from taskdeletion.executors.store import Connections, OpenStore, StorePools
from taskdeletion.settings import Settings

SPEC: Final = {"directory": {"persistentVolumeClaim": {"claimName": "bench"}, "subPath": "tasks"}}
TICK_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Taken:
    """Seconds that the claims and the purges of a plan took."""

    claims: float
    purges: float


@dataclass(frozen=True)
class Plan:
    """A store with nothing but a directory, whose tasks are all of the same tree."""

    store: OpenStore
    root: DirectoryRoot
    tree: Tree

    @classmethod
    @contextmanager
    def open(cls, root: DirectoryRoot, tree: Tree) -> Iterator[Self]:
        """The store, with as many threads as an operator gives it by default. The root stays the caller's."""
        connections = Connections(StorePools("bench", Settings().store_threads))
        spec = TaskStoreSpec.model_validate(SPEC)
        try:
            yield cls(OpenStore("bench", "bench", OWNER, spec, connections, root, lambda: None), root, tree)
        finally:
            connections.close()

    def remove(self, task_ids: Sequence[str]) -> Taken:
        """Remove all of them. WorkNotDoneError for a result that is not whole and exact."""
        claims = purges = 0.0
        for round_ids in build_rounds(task_ids, continue_on_error=True):
            begun = time.perf_counter()
            self._claim(round_ids)
            claimed = time.perf_counter()
            results = self._purge(round_ids)
            purges += time.perf_counter() - claimed
            claims += claimed - begun
            self._check(round_ids, results)
        return Taken(claims, purges)

    def _claim(self, task_ids: Sequence[str]) -> None:
        for task_id in task_ids:
            if (obstacle := self.root.check_purgeable(task_id)) is not None:
                raise WorkNotDoneError(f"ours: {obstacle}")
            self.root.claim(task_id, OWNER)
        self.root.sync()

    def _purge(self, task_ids: Sequence[str]) -> list[StepResult]:
        work = PurgeWork(self.store, task_ids, lambda sibling: sibling.owner == OWNER, let_pass, never_halt, False)
        return [result for some in purge(work, tick_seconds=TICK_SECONDS, on_tick=lambda: None) for result in some]

    def _check(self, task_ids: Sequence[str], results: Sequence[StepResult]) -> None:
        expected = [
            StepResult(i, "Directory", "Deleted", count=self.tree.file_count, bytes=self.tree.byte_count)
            for i in sorted(task_ids)
        ]
        found = sorted(results, key=lambda result: result.task_id)
        if found != expected:
            raise WorkNotDoneError(f"ours: {next(one for one in found if one not in expected)}")


def let_pass(_: Collection[str]) -> Mapping[str, Fault]:
    """A guard whose answer costs nothing: directories ask none."""
    return {}
