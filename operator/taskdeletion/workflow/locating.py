"""Finds a TaskStore in the cluster with its Secrets, and lets requests that were due before share what was found.

Called by `workflow.stores`; docs/adr/0014. What is wrong is a `waiting` Fault. Nothing that failed is shared, and
nothing for longer than a moment: a Secret may be rotated, and a store pulled, at any time.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from taskdeletion.api import reasons
from taskdeletion.api.task_store import TaskStore, TaskStoreSpec
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.overlaps import find_ambiguity, find_overlap
from taskdeletion.kube.objects import Cluster, LiveObject
from taskdeletion.kube.secrets import SecretData
from taskdeletion.workflow.connecting import list_secrets
from taskdeletion.workflow.rejection import describe_invalid

#: What was read this long ago is not shared any more.
SHARED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Located:
    """A TaskStore as it stands in the cluster, valid and alone in its places."""

    live: LiveObject
    spec: TaskStoreSpec


@dataclass(frozen=True, slots=True)
class Reading:
    """A TaskStore and its Secrets by name. `begun_at`: by the clock of this process, before anything was asked."""

    located: Located
    secrets: Mapping[str, SecretData] = field(repr=False)
    begun_at: float


class Readings:
    """The last reading of each store. Thread-safe."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._last: dict[tuple[str, str], Reading] = {}
        self._lock = threading.Lock()

    def read(self, namespace: str, name: str, *, due_at: float | None = None) -> Reading:
        """The store and its Secrets. Raises Fault (waiting).

        `due_at`: when the work became due, by the same clock. What was read since then, a moment ago, shows everything
        that somebody did before asking for the work. None: read now.
        """
        key, now = (namespace, name), self._clock()
        with self._lock:
            last = self._last.get(key)
        if last is not None and due_at is not None and due_at < last.begun_at and now - last.begun_at < SHARED_SECONDS:
            return last
        located = self.locate(namespace, name)
        reading = Reading(located, self.read_secrets(located), now)
        with self._lock:
            self._last[key] = reading
        return reading

    def forget(self, namespace: str, name: str) -> None:
        """Share what is known of this store no more."""
        with self._lock:
            self._last.pop((namespace, name), None)

    def locate(self, namespace: str, name: str) -> Located:
        """Find and validate the TaskStore, now; refuse it where another one reaches for the same data."""
        found = {live.key.name: live for live in self._cluster.list_objects(TaskStore.KIND, namespace)}
        if name not in found or found[name].deleting:
            raise Fault(
                "waiting", reasons.STORE_NOT_FOUND, f"there is no TaskStore {name} in this namespace; create it"
            )
        specs, problem = _validate_all(found, name)
        if problem is not None:
            raise Fault("waiting", reasons.STORE_INVALID, problem)
        if ambiguity := find_ambiguity(specs[name]):
            raise Fault("waiting", reasons.STORE_INVALID, ambiguity)
        if overlap := find_overlap(name, specs):
            raise Fault("waiting", reasons.OVERLAPPING_STORE, overlap)
        return Located(found[name], specs[name])

    def read_secrets(self, located: Located) -> dict[str, SecretData]:
        """The Secrets of a store, now. Raises Fault (waiting)."""
        names = list_secrets(located.spec)
        return {name: self._cluster.read_secret(located.live.key.namespace, name) for name in names}


def _validate_all(found: Mapping[str, LiveObject], name: str) -> tuple[dict[str, TaskStoreSpec], str | None]:
    specs: dict[str, TaskStoreSpec] = {}
    for each, live in found.items():
        try:
            specs[each] = TaskStoreSpec.model_validate(live.spec)
        except ValidationError as error:
            if each == name:
                return {}, f"the spec of TaskStore {name} is not valid: {describe_invalid(error)}"
    return specs, None
