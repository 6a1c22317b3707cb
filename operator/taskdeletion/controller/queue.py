"""The work queue: keys that wait for a worker, with the rules of client-go's workqueue and a limit per lane.

Handlers and the scheduler add keys; `controller.workers` takes them. A key is worked on by one worker at a time, and
once more when it was added meanwhile. It holds keys only, never objects, and does no work itself.
https://pkg.go.dev/k8s.io/client-go/util/workqueue
"""

import heapq
import itertools
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# The heap of delays keeps superseded entries until they are due; beyond this share it is rebuilt.
STALE_ENTRIES_ALLOWED = 64


@dataclass(frozen=True, slots=True)
class Depth:
    """How many keys the queue knows: due and waiting for a worker, due later, being worked on."""

    ready: int
    delayed: int
    processing: int


class WorkQueue(Generic[K]):
    """Keys to work on, each at most once at a time, oldest first, at most `lane_limit` of one lane at a time.

    A lane is what keys share that may be slow or stuck (a store). It is remembered as long as the queue knows the key;
    a key without a lane is not limited. Keys are never None. `clock` returns seconds and never goes back. Safe for many
    threads.
    """

    def __init__(self, *, lane_limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lane_limit = lane_limit
        self._clock = clock
        self._changed = threading.Condition()
        self._order = itertools.count()
        self._lanes: dict[K, Hashable] = {}
        self._ready: dict[Hashable, OrderedDict[K, int]] = {}  # lane -> keys in order of arrival, with their number
        self._entered: dict[K, float] = {}  # of keys that wait: since when, however often they were added
        self._since: dict[K, float] = {}  # of keys that wait: when they were last added
        self._taken: dict[K, float] = {}  # of keys that are being worked on: the same
        self._dirty: set[K] = set()
        self._processing: dict[K, Hashable] = {}  # key -> the lane it was taken from
        self._busy: Counter[Hashable] = Counter()
        self._due: dict[K, float] = {}
        self._delays: list[tuple[float, int, K]] = []
        self._stopping = False

    def add(self, key: K, *, lane: Hashable = None) -> None:
        """Have `key` worked on as soon as possible: once, however often it is added before; supersedes a delay.

        While it is being worked on it is kept for one more run afterwards. `lane` None keeps the last known lane.
        """
        with self._changed:
            if self._stopping:
                return
            self._due.pop(key, None)
            self._remember_lane(key, lane)
            self._enqueue(key)

    def add_after(self, key: K, delay_seconds: float) -> None:
        """Have `key` worked on in `delay_seconds`. Of several delays the earliest counts; zero or less is `add`."""
        if delay_seconds <= 0:
            self.add(key)
            return
        with self._changed:
            due = self._clock() + delay_seconds
            if self._stopping or due >= self._due.get(key, due + 1):
                return
            self._due[key] = due
            self._lanes.setdefault(key, None)
            heapq.heappush(self._delays, (due, next(self._order), key))
            self._drop_stale_delays()
            self._changed.notify()

    def get(self) -> K | None:
        """Take the oldest due key whose lane has room; blocks until there is one. None after `shut_down`.

        Whoever took a key must call `done` with it.
        """
        with self._changed:
            while not self._stopping:
                wait_seconds = self._admit_due()
                key = self._take_oldest()
                if key is not None:
                    return key
                self._changed.wait(wait_seconds)
            return None

    def done(self, key: K) -> None:
        """Say that the work on `key`, taken with `get`, has ended. KeyError when it was not being worked on."""
        with self._changed:
            lane = self._processing.pop(key)
            del self._taken[key]
            self._busy[lane] -= 1
            if not self._busy[lane]:
                del self._busy[lane]
            if key in self._dirty:
                self._dirty.remove(key)
                self._enqueue(key)
            elif key not in self._due:
                self._lanes.pop(key, None)
            self._changed.notify()  # the lane has room again

    def due_at(self, key: K) -> float:
        """When the work on `key`, taken with `get`, became due for the last time, by the clock. KeyError otherwise."""
        with self._changed:
            return self._taken[key]

    def shut_down(self) -> None:
        """Hand out no more keys and forget those that wait; every blocked `get` returns None. Cannot be undone."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def depth(self) -> Depth:
        """How many keys wait, are delayed, and are being worked on, now."""
        with self._changed:
            self._admit_due()
            ready = sum(map(len, self._ready.values())) + len(self._dirty)
            return Depth(ready, len(self._due), len(self._processing))

    def oldest_seconds(self) -> float:
        """For how long the key that waits longest has been waiting for a worker; 0 where none waits."""
        with self._changed:
            self._admit_due()
            return max(0.0, self._clock() - min(self._entered.values())) if self._entered else 0.0

    def __len__(self) -> int:
        """Keys that are due and wait, those to be worked on once more among them."""
        return self.depth().ready

    # Everything below is called with the lock held.

    def _remember_lane(self, key: K, lane: Hashable) -> None:
        known = self._lanes.setdefault(key, lane)
        if lane is None or lane == known:
            return
        self._lanes[key] = lane
        if self._remove_ready(key, known):
            self._enqueue(key)

    def _remove_ready(self, key: K, lane: Hashable) -> bool:
        waiting = self._ready.get(lane, OrderedDict())
        found = waiting.pop(key, None) is not None
        if found and not waiting:
            del self._ready[lane]
        return found

    def _enqueue(self, key: K) -> None:
        if key in self._processing:
            self._dirty.add(key)
            return
        waiting = self._ready.setdefault(self._lanes.setdefault(key, None), OrderedDict())
        self._since[key] = self._clock()
        self._entered.setdefault(key, self._since[key])
        if key not in waiting:
            waiting[key] = next(self._order)
            self._changed.notify()

    def _admit_due(self) -> float | None:
        """Queue what is due by now; returns the seconds until the next key is due, or None."""
        while self._delays:
            due, _, key = self._delays[0]
            is_current = self._due.get(key) == due
            if is_current and due > self._clock():
                return due - self._clock()
            heapq.heappop(self._delays)
            if is_current:
                del self._due[key]
                self._enqueue(key)
        return None

    def _drop_stale_delays(self) -> None:
        if len(self._delays) > 2 * len(self._due) + STALE_ENTRIES_ALLOWED:
            self._delays = [entry for entry in self._delays if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._delays)

    def _take_oldest(self) -> K | None:
        """Take the oldest waiting key of the lanes with room."""
        heads = [
            (next(iter(waiting.values())), lane)
            for lane, waiting in self._ready.items()
            if lane is None or self._busy[lane] < self._lane_limit
        ]
        if not heads:
            return None
        _, lane = min(heads, key=lambda head: head[0])
        key, _ = self._ready[lane].popitem(last=False)
        if not self._ready[lane]:
            del self._ready[lane]
        self._processing[key] = lane
        self._taken[key] = self._since.pop(key)
        del self._entered[key]
        self._busy[lane] += 1
        return key
