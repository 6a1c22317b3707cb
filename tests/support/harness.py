"""One operator process without kopf, queue and threads of workers: its workflow, called by hand and in order.

What is wired is what `bootstrap` wires. A new harness beside an old one is a restarted process: it knows what the
cluster and the stores say, and nothing else.
"""

import threading
import time
from typing import Any, Self

import pytest

from dev.pipeline import Pipeline, Residue, wait_until
from taskdeletion.api.task_deletion import TaskDeletion, TaskDeletionSpec, TaskDeletionStatus
from taskdeletion.api.task_store import TaskStore
from taskdeletion.domain.conditions import is_terminal
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.kube.objects import Cluster, Key, LiveObject
from taskdeletion.settings import Settings
from taskdeletion.workflow.deletion import DeletionWorkflow
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import build_standing
from taskdeletion.workflow.store_status import StoreWorkflow
from taskdeletion.workflow.stores import Stores
from taskdeletion.workflow.sweep import Sweep
from tests.support.kube import Kube
from tests.support.seams import Crash

#: Delays are spread by 0.8 + 0.4 * jitter: this one leaves nothing of them.
NO_DELAY = -2.0


class Harness:
    """The workflow of one process, for one namespace. `woken`: the keys that it would have put into its queue."""

    def __init__(self, kube: Kube, namespace: str, *, is_seeded: bool = True, leadership: Leadership = ALONE) -> None:
        self.namespace = namespace
        self.woken: list[Key] = []
        self.stopping = threading.Event()
        self.cluster = Cluster(kube.api, (namespace,))
        self.ownership = Ownership(self.woken.append)
        settings = Settings(volumes_root=kube.stack.volumes_root, require_mount=False)
        self.stores = Stores(self.cluster, settings, leadership=leadership)
        self.deletions = DeletionWorkflow(
            self.cluster, self.stores, self.ownership, self.stopping, jitter=lambda: NO_DELAY, leadership=leadership
        )
        self.store_workflow = StoreWorkflow(
            self.cluster,
            self.stores,
            self.ownership,
            Sweep(self.cluster, self.stores, self.ownership),
            self.woken.append,
            settings.probe_interval_seconds,
        )
        if is_seeded:
            self.seed()

    def seed(self) -> None:
        """Get to know every request of the cluster."""
        self.cluster.visit(TaskDeletion.KIND, self._observe)

    def _observe(self, live: LiveObject) -> None:
        spec = TaskDeletionSpec.model_validate(live.spec)
        status = TaskDeletionStatus.model_validate(live.status)
        if not live.deleting and not is_terminal(status.conditions or []):
            self.ownership.observe(build_standing(live, status.tasks or [], spec))
            self.deletions.recall(live, time.monotonic())

    def key(self, name: str) -> Key:
        """A TaskDeletion of the namespace."""
        return Key(TaskDeletion.KIND, self.namespace, name)

    def reconcile(self, name: str) -> float | None:
        """One look at one request, as a worker takes it."""
        return self.deletions.reconcile(self.key(name))

    def crash(self, name: str) -> None:
        """One look, in which the process is to die."""
        with pytest.raises(Crash):
            self.reconcile(name)

    def live(self, name: str) -> LiveObject:
        """A request as it stands in the cluster."""
        live = self.cluster.read(self.key(name))
        assert live is not None
        return live

    def status(self, name: str) -> dict[str, Any]:
        """The status of a request as it stands in the cluster."""
        return dict(self.live(name).status)

    def finish(self, name: str, *, seconds: float = 20.0) -> dict[str, Any]:
        """Look at a request until it has ended; its status."""

        def has_ended() -> bool:
            self.reconcile(name)
            return "completionTime" in self.status(name)

        wait_until(has_ended, seconds=seconds, what=f"the end of {name}")
        return self.status(name)

    def look_at_store(self, name: str = "default") -> dict[str, Any]:
        """Probe and sweep the TaskStore; its status."""
        key = Key(TaskStore.KIND, self.namespace, name)
        self.store_workflow.reconcile(key)
        live = self.cluster.read(key)
        assert live is not None
        return dict(live.status)

    def close(self) -> None:
        """Give everything back."""
        self.stores.close()


class World:
    """One pipeline, its requests, and the processes that work on them one after the other. A context manager."""

    def __init__(self, kube: Kube, pipeline: Pipeline) -> None:
        self.kube = kube
        self.pipeline = pipeline
        self._started: list[Harness] = []

    def start(self, *, is_seeded: bool = True, leadership: Leadership = ALONE) -> Harness:
        """A new process. Not seeded: one that knows of no other request, as a stale leader may."""
        started = Harness(self.kube, self.pipeline.namespace, is_seeded=is_seeded, leadership=leadership)
        self._started.append(started)
        return started

    def request(self, name: str, *task_ids: str, **spec: Any) -> str:
        """Somebody creates a TaskDeletion, of task_1 unless told otherwise; returns its uid."""
        named = list(task_ids or ("task_1",))
        created = self.kube.create_deletion(self.pipeline.namespace, name, taskIds=named, **spec)
        return str(created["metadata"]["uid"])

    def withdraw(self, name: str) -> None:
        """Somebody deletes a TaskDeletion."""
        self.kube.delete(self.pipeline.namespace, name)

    def change(self, name: str, **spec: Any) -> None:
        """Somebody edits a TaskDeletion."""
        self.kube.patch(self.pipeline.namespace, name, {"spec": spec})

    def look(self, task_id: str = "task_1") -> Residue:
        """What is there of a task."""
        return self.pipeline.look(task_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.close()


def states_of(status: dict[str, Any]) -> list[str]:
    """The states of all tasks of a status, in the order of work."""
    return [task["state"] for task in status["tasks"]]


def task_of(status: dict[str, Any], task_id: str = "task_1") -> dict[str, Any]:
    """One task of a status."""
    found: dict[str, Any] = next(task for task in status["tasks"] if task["taskId"] == task_id)
    return found
