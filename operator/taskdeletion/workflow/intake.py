"""What the watch reports, as keys to work on: an event is a reason to look, never the truth.

Called by the handlers for every event, so it is quick and holds almost nothing per object. Our own status writes come
back as events; they change neither generation nor deletion, and are passed over.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.domain.runs import POLICY_LABEL
from taskdeletion.kube.objects import Key

Lane = tuple[str, str, str]
Add = Callable[..., None]
Seen = tuple[str, int, bool]
#: What ends within this time is one reason to look at a policy.
WAKE_SECONDS = 0.5


class Intake:
    """Turns events into keys. `add`, `add_after`: the queue's; the lane of a request is its store."""

    def __init__(self, add: Add, add_after: Callable[[Key, float], None]) -> None:
        self._add = add
        self._add_after = add_after
        self._seen: dict[Key, Seen] = {}
        self._lock = threading.Lock()

    def notice(self, kind: str, event: str | None, body: Mapping[str, Any]) -> None:
        """Note one event: `event` is ADDED, MODIFIED, DELETED, or None for the first listing."""
        metadata = body["metadata"]
        key = Key(kind, metadata["namespace"], metadata["name"])
        self._wake_policy(kind, event, body)
        if event == "DELETED":
            with self._lock:
                self._seen.pop(key, None)
            self._add(key, lane=lane_of(key, body.get("spec") or {}))
        elif self._is_news(key, metadata) and not _is_settled(kind, body):
            self._add(key, lane=lane_of(key, body.get("spec") or {}))

    def retain(self, keys: Collection[Key]) -> None:
        """Forget what is not among `keys`: a watch can lose the news that an object is gone."""
        with self._lock:
            self._seen = {key: seen for key, seen in self._seen.items() if key in keys}

    def _wake_policy(self, kind: str, event: str | None, body: Mapping[str, Any]) -> None:
        """A policy wants to know that a TaskDeletion of its own ended; many that end together are one reason."""
        policy = (body["metadata"].get("labels") or {}).get(POLICY_LABEL)
        is_over = event == "DELETED" or (event == "MODIFIED" and "completionTime" in (body.get("status") or {}))
        if kind == TaskDeletion.KIND and policy and is_over:
            self._add_after(Key(TaskRetentionPolicy.KIND, body["metadata"]["namespace"], policy), WAKE_SECONDS)

    def _is_news(self, key: Key, metadata: Mapping[str, Any]) -> bool:
        seen: Seen = (metadata["uid"], metadata.get("generation", 0), "deletionTimestamp" in metadata)
        with self._lock:
            known, self._seen[key] = self._seen.get(key), seen
        return known != seen


def lane_of(key: Key, spec: Mapping[str, Any]) -> Lane:
    """What may be stuck together: the requests of one store; a store's own probe has a lane to itself."""
    if key.kind == TaskDeletion.KIND:
        return (key.kind, key.namespace, (spec.get("storeRef") or {}).get("name", "default"))
    return (key.kind, key.namespace, key.name)


def _is_settled(kind: str, body: Mapping[str, Any]) -> bool:
    """A request that has ended, of which this generation was seen, and without a time to live, needs no more work."""
    if kind != TaskDeletion.KIND or "ttlSecondsAfterFinished" in (body.get("spec") or {}):
        return False
    status = body.get("status") or {}
    return "completionTime" in status and status.get("observedGeneration") == body["metadata"].get("generation")
