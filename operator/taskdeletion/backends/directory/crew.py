"""Threads that help to empty directories: none while operations are quick, many where each waits for a server.

Called by `DirectoryRoot`. Work begins in the caller's own thread; helpers join while the lane's operations are slow, or
while native code gains by a second one. Limits hold for a lane (one store) and for all together, and descriptors have
a budget. Knows nothing of directories or tasks.
"""

import os
import resource
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from time import monotonic_ns
from typing import Any, Final

from taskdeletion.backends.directory.entries import SLOW_NS

Identity = tuple[int, int]

_IDLE_SECONDS: Final = 5.0
_MEMORY: Final = 128
_ENOUGH_TO_JUDGE: Final = 6
_ENOUGH_TO_SHARE: Final = 1024
_CALLS_AT_A_TIME: Final = 4
_STRIPES: Final = 64
_DESCRIPTORS_PER_THREAD: Final = 16
_MOST_DESCRIPTORS: Final = 4096


class Lane:
    """What is known of one store: how quickly it answers, and who works for it. Thread-safe with its crew's lock."""

    def __init__(self, crew: "Crew") -> None:
        self._crew = crew
        self._operations = 0.0
        self._slow = 0.0
        self.forget_threads()

    def forget_threads(self) -> None:
        """Begin anew, in a child that was forked."""
        self.threads = 0
        self.shifts: list[Shift] = []
        self._locks = [threading.Lock() for _ in range(_STRIPES)]

    def lock_inode(self, inode: Identity) -> threading.Lock:
        """The lock under which the links of one inode are counted and removed."""
        return self._locks[hash(inode) % _STRIPES]

    def note(self, operations: int, slow: int) -> None:
        """Say how the latest operations went, and how many of them were slow; helpers come accordingly, or go."""
        with self._crew.lock:
            self._operations += operations
            self._slow += slow
            if self._operations > _MEMORY:
                self._slow *= _MEMORY / self._operations
                self._operations = _MEMORY
            for shift in reversed(self.shifts):
                shift.balance(operations)

    def note_time(self, operations: int, taken_ns: int) -> None:
        """The same for some operations that took so long together."""
        self.note(operations, operations if taken_ns > operations * SLOW_NS else 0)

    @contextmanager
    def noting(self, operations: int) -> Iterator[None]:
        """Notes that what is done meanwhile were about so many operations."""
        begun = monotonic_ns()
        yield
        self.note_time(operations, monotonic_ns() - begun)

    @property
    def is_slow(self) -> bool:
        """Whether most of the latest operations were."""
        return self._operations >= _ENOUGH_TO_JUDGE and self._slow * 2 > self._operations


class Crew:
    """The helpers of one process, their limits and the budget of descriptors. Thread-safe; usable after a fork."""

    def __init__(self, *, limit: int = 64, helpers: int = 128) -> None:
        """`limit`: the most threads that work for one store, their callers included; `helpers`: for all together."""
        self.limit = limit
        self._most_helpers = helpers
        self._lanes: weakref.WeakValueDictionary[Identity, Lane] = weakref.WeakValueDictionary()
        self.forget_threads()
        _CREWS.add(self)

    def forget_threads(self) -> None:
        """Begin anew, in a child that was forked: the threads and who held the locks stayed with its parent."""
        self.lock = threading.Lock()
        self._called = threading.Condition(self.lock)
        self._calls: deque[Shift] = deque()
        self._at_work = 0
        self._idle = 0
        self._descriptors = 0
        self._own = threading.local()
        for lane in list(self._lanes.values()):
            lane.forget_threads()

    def lane(self, identity: Identity) -> Lane:
        """The lane of the store whose root is that inode."""
        with self.lock:
            found = self._lanes.get(identity)
            if found is None:
                found = self._lanes[identity] = Lane(self)
            return found

    # --- descriptors ----------------------------------------------------------------------------------------------

    def take_descriptor(self) -> bool:
        """Whether one more directory may be kept open; if so it is to be given back."""
        most = min(_descriptor_limit() // 4, _MOST_DESCRIPTORS)
        with self.lock:
            if self._descriptors >= most:
                return False
            self._descriptors += 1
            return True

    def give_descriptor(self) -> None:
        """Give one back."""
        with self.lock:
            self._descriptors -= 1

    # --- helpers --------------------------------------------------------------------------------------------------

    def call(self, shift: "Shift", count: int) -> None:
        """Let up to `count` helpers join, within the limits; with the lock. Each is at work from now on."""
        most = min(self._most_helpers, _descriptor_limit() // _DESCRIPTORS_PER_THREAD)
        for _ in range(min(count, most - self._at_work)):
            self._calls.append(shift)
            if self._idle >= len(self._calls):
                self._called.notify()
            elif not self._start_helper():
                self._calls.pop()  # a machine at its limit of threads: the work goes on with those that are there
                return
            self._at_work += 1
            shift.lane.threads += 1
            shift.helpers += 1
            shift.coming += 1

    def leave(self, shift: "Shift") -> None:
        """A helper goes; with the lock."""
        self._at_work -= 1
        shift.lane.threads -= 1
        shift.helpers -= 1

    @contextmanager
    def at_work(self, lane: Lane) -> Iterator[bool]:
        """Whether this thread did not work for the lane before: whoever works on a piece of a piece counts once."""
        lanes: list[Lane] = self._own.__dict__.setdefault("lanes", [])
        is_new = lane not in lanes
        lanes.append(lane)
        try:
            yield is_new
        finally:
            lanes.pop()

    def _start_helper(self) -> bool:
        try:
            threading.Thread(target=self._help, name="directory-helper", daemon=True).start()
        except RuntimeError:
            return False
        return True

    def _help(self) -> None:
        while (shift := self._next_call()) is not None:
            shift.help()

    def _next_call(self) -> "Shift | None":
        with self.lock:
            self._idle += 1
            try:
                while not self._calls:
                    if not self._called.wait(_IDLE_SECONDS) and not self._calls:
                        return None
                return self._calls.popleft()
            finally:
                self._idle -= 1


@dataclass(slots=True)
class _Pile:
    """Items that all wait for the same function, the last first."""

    function: Callable[[Any], object]
    items: list[Any]


@dataclass(slots=True, eq=False)
class Shift:
    """One caller's work: items that wait for a function each, taken by the caller and its helpers, the newest first.

    A function may add items. What it raises is raised to the caller, once nothing runs any more; until then
    `is_broken` tells the functions to come to their end.
    """

    crew: Crew
    lane: Lane
    #: How many threads gain something where operations are quick and there are many.
    quick_threads: int
    _piles: list[_Pile] = field(default_factory=list)
    _waiting: int = 0
    _running: int = 0
    #: Helpers that work on it, and those of them that have not begun yet. The crew counts.
    helpers: int = 0
    coming: int = 0
    _operations: int = 0
    _error: BaseException | None = None
    _changed: threading.Condition = field(init=False)

    def __post_init__(self) -> None:
        self._changed = threading.Condition(self.crew.lock)

    def add(self, function: Callable[[Any], object], items: Sequence[Any]) -> None:
        """Let somebody call `function` with each item, the first item first."""
        if not items:
            return
        with self.crew.lock:
            self._piles.append(_Pile(function, list(reversed(items))))
            self._waiting += len(items)
            self._changed.notify()
            if self in self.lane.shifts:  # its caller is there, and comes first
                self.balance(0)

    @property
    def is_broken(self) -> bool:
        """Whether something was raised."""
        return self._error is not None

    def run(self) -> None:
        """Work until nothing waits and nothing runs. Raises what a function raised."""
        with self.crew.at_work(self.lane) as is_new:
            with self.crew.lock:
                self.lane.threads += is_new
                self.lane.shifts.append(self)
                self.balance(0)
            try:
                self._work(is_helper=False)
            finally:
                with self.crew.lock:
                    self.lane.threads -= is_new
                    self.lane.shifts.remove(self)
        if self._error is not None:
            raise self._error

    def help(self) -> None:
        """Work until nothing waits, or the lane has too many threads."""
        with self.crew.at_work(self.lane):
            with self.crew.lock:
                self.coming -= 1
            try:
                self._work(is_helper=True)
            finally:
                with self.crew.lock:
                    self.crew.leave(self)

    def _work(self, *, is_helper: bool) -> None:
        goes_on = True
        while goes_on:
            try:
                goes_on = self._work_on_one(is_helper=is_helper)
            except BaseException as error:  # noqa: BLE001 - it is raised where the shift began
                self._error = self._error or error

    def balance(self, operations: int) -> None:
        """Call a few helpers, as the lane is now, so many operations later; with the lock."""
        self._operations += operations
        wanted = self._waiting - self.coming
        if wanted <= 0:  # most shifts, most of the time: 50 purges side by side look at each other otherwise
            return
        allowed = self._allowed()
        free = min(allowed - self.lane.threads, self._share(allowed) - self.helpers)
        self.crew.call(self, min(wanted, free, _CALLS_AT_A_TIME))

    def _allowed(self) -> int:
        """The most threads that pay for the whole lane."""
        most = self.crew.limit
        if self.lane.is_slow:
            return most
        return min(self.quick_threads, most) if self._operations > _ENOUGH_TO_SHARE else 1

    def _share(self, allowed: int) -> int:
        """This shift's part of them: one that is huge leaves helpers to the others."""
        others = sum(1 for shift in self.lane.shifts if shift is not self and shift._waiting)
        return max(1, allowed // (1 + others))

    def _work_on_one(self, *, is_helper: bool) -> bool:
        with self.crew.lock:
            pile = self._next_pile(is_helper=is_helper)
            if pile is None:
                return False
            item = pile.items.pop()
            if not pile.items:
                self._piles.pop()
            self._waiting -= 1
            self._running += 1
        try:
            pile.function(item)
        finally:
            with self.crew.lock:
                self._running -= 1
                if not self._running and not self._waiting:
                    self._changed.notify_all()
        return True

    def _next_pile(self, *, is_helper: bool) -> _Pile | None:
        while not self._waiting:
            if is_helper or not self._running:
                return None
            self._changed.wait()
        if is_helper:
            allowed = self._allowed()
            if self.lane.threads > allowed or self.helpers > self._share(allowed):
                return None
        return self._piles[-1]


@cache
def shared_crew() -> Crew:
    """The crew of this process."""
    return Crew()


def _descriptor_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_DESCRIPTORS * 4 if soft == resource.RLIM_INFINITY else soft


def _forget_threads() -> None:
    for crew in list(_CREWS):
        crew.forget_threads()


_CREWS: Final[weakref.WeakSet[Crew]] = weakref.WeakSet()
os.register_at_fork(after_in_child=_forget_threads)
