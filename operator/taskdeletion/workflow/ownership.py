"""Who works on which task: one live request at a time (docs/safety.md, "Two requests for one task").

Seeded with a full list before any work, then kept by our own status writes and by deletions that the watch reports.
Used by the workflow of requests and by the sweep. Thread-safe; holds nothing of requests that have ended.
"""

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

from taskdeletion.kube.objects import Key

TaskKey = tuple[str, str, str]  # namespace, store, task id


@dataclass(frozen=True, slots=True)
class Standing:
    """What the status of one live request says: the tasks it names, is deleting, and has claimed."""

    key: Key
    uid: str
    store: str
    created_at: datetime
    named: frozenset[str]
    deleting: frozenset[str]
    claimed: frozenset[str]

    def task_key(self, task_id: str) -> TaskKey:
        """The task as all requests of the namespace know it."""
        return (self.key.namespace, self.store, task_id)


@dataclass(slots=True)
class _Books:
    live: dict[str, Standing] = field(default_factory=dict)
    holders: dict[TaskKey, set[str]] = field(default_factory=dict)
    busy: dict[TaskKey, str] = field(default_factory=dict)
    waiters: dict[TaskKey, dict[str, Standing]] = field(default_factory=dict)


class Ownership:
    """The books. `wake` is called with the key of a request that waited for a task which is free now."""

    def __init__(self, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._books = _Books()
        self._lock = threading.Lock()

    def observe(self, standing: Standing) -> None:
        """Note what the status of a live request says now."""
        with self._lock:
            self._drop_holds(standing.uid)
            self._books.live[standing.uid] = standing
            for task_id in standing.deleting:
                self._books.holders.setdefault(standing.task_key(task_id), set()).add(standing.uid)
            woken = self._pop_waiters()
        self._wake_all(woken)

    def forget(self, uid: str) -> None:
        """The request has ended or is gone. Tasks that a worker still finishes for it stay with that worker."""
        with self._lock:
            self._drop_holds(uid)
            self._books.live.pop(uid, None)
            woken = self._pop_waiters()
        self._wake_all(woken)

    def _drop_holds(self, uid: str) -> None:
        before = self._books.live.get(uid)
        if before is None:
            return
        for key in map(before.task_key, before.deleting):
            holders = self._books.holders.get(key, set())
            holders.discard(uid)
            if not holders:
                self._books.holders.pop(key, None)

    def _pop_waiters(self) -> set[Key]:
        """Those whose turn it is now; a waiter may hold the task itself, where two say `Deleting`."""
        woken = set()
        for (_, _, task_id), waiting in self._books.waiters.items():
            for uid, standing in list(waiting.items()):
                if not self._is_others(self._books.live.get(uid, standing), task_id):
                    woken.add(waiting.pop(uid).key)
        self._books.waiters = {key: waiting for key, waiting in self._books.waiters.items() if waiting}
        return woken

    def _wake_all(self, keys: Collection[Key]) -> None:
        for key in keys:
            self._wake(key)

    def acquire(self, standing: Standing, task_ids: Collection[str]) -> frozenset[str]:
        """Take these tasks for a worker of this process; returns those that belong to another request.

        Call before an attempt is written. Taken tasks are given back with `release`.
        """
        with self._lock:
            denied = frozenset(task_id for task_id in task_ids if self._is_others(standing, task_id))
            for task_id in task_ids:
                key = standing.task_key(task_id)
                if task_id in denied:
                    self._books.waiters.setdefault(key, {})[standing.uid] = standing
                else:
                    self._books.busy[key] = standing.uid
        return denied

    def _is_others(self, mine: Standing, task_id: str) -> bool:
        key = mine.task_key(task_id)
        if self._books.busy.get(key, mine.uid) != mine.uid:
            return True
        others = [self._books.live[uid] for uid in self._books.holders.get(key, ()) if uid != mine.uid]
        return any(not _goes_before(mine, other, task_id) for other in others)

    def release(self, standing: Standing, task_ids: Collection[str]) -> None:
        """The worker has finished with these tasks; what status still says `Deleting` for stays with the request."""
        with self._lock:
            for task_id in task_ids:
                key = standing.task_key(task_id)
                if self._books.busy.get(key) == standing.uid:
                    del self._books.busy[key]
            woken = self._pop_waiters()
        self._wake_all(woken)

    def is_live(self, uid: str) -> bool:
        """Whether a request that has not ended, or a worker of this process, stands behind this uid."""
        with self._lock:
            return uid in self._books.live or uid in self._books.busy.values()

    def is_held(self, uid: str, task_id: str) -> bool:
        """Whether a sibling of this uid has to wait for its own request, or for a worker that still finishes for it.

        A claim that is not confirmed has to be compared or undone first; a confirmed one is for whoever has the task.
        """
        with self._lock:
            standing = self._books.live.get(uid)
            if standing is not None and task_id in standing.deleting - standing.claimed:
                return True
            return any(owner == uid and key[2] == task_id for key, owner in self._books.busy.items())

    def is_named(self, namespace: str, task_id: str) -> bool:
        """Whether a live request of this namespace names this task."""
        with self._lock:
            return any(
                standing.key.namespace == namespace and task_id in standing.named
                for standing in self._books.live.values()
            )

    def held_ids(self, namespace: str, store: str) -> frozenset[str]:
        """The tasks of this store that a request is deleting, or that a worker of this process has in its hands."""
        with self._lock:
            keys = {*self._books.holders, *self._books.busy}
        return frozenset(task_id for *place, task_id in keys if place == [namespace, store])

    def uids_at(self, key: Key) -> list[str]:
        """The live requests that were seen under this name."""
        with self._lock:
            return [uid for uid, standing in self._books.live.items() if standing.key == key]

    def live_keys(self) -> list[Key]:
        """Every live request."""
        with self._lock:
            return [standing.key for standing in self._books.live.values()]

    def keys_of(self, namespace: str, store: str) -> list[Key]:
        """The live requests that work on this store."""
        with self._lock:
            known = self._books.live.values()
            return [one.key for one in known if (one.key.namespace, one.store) == (namespace, store)]


def _goes_before(mine: Standing, other: Standing, task_id: str) -> bool:
    """If the status of two requests says `Deleting`: the claimed one goes on, else the older."""
    if task_id not in mine.deleting:
        return False
    if (task_id in mine.claimed) != (task_id in other.claimed):
        return task_id in mine.claimed
    return (mine.created_at, mine.uid) < (other.created_at, other.uid)
