"""Finds the keys that hold the state of tasks: one pass over a Redis for all reads that wait at that moment.

Called by the Redis catalog, in threads. A search costs a SCAN of the whole keyspace whatever the number of tasks, and
there is one before every batch of a purge. It reads no values and deletes nothing.
"""

import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import commonprefix
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.backends.redis.faults import require_reply
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern, escape
from taskdeletion.domain.task_ids import require_task_id

_ID_RUN: Final = re.compile(rb"[A-Za-z0-9_.-]+")
#: The keys of each task that has any, sorted.
Found = Mapping[str, list[bytes]]


@dataclass(eq=False, slots=True)
class _Read:
    task_ids: frozenset[str]
    outcome: Found | Fault | None = None


class StateSearch:
    """The keys of one pattern, by task. Thread-safe."""

    def __init__(self, server: RedisServer, pattern: KeyPattern) -> None:
        self._server = server
        self._pattern = pattern
        self._waiting: list[_Read] = []
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def find(self, task_ids: Collection[str]) -> dict[str, list[bytes]]:
        """The keys that are there now, of each task that has any. Raises Fault, ValueError for what is no task id.

        Where another search runs, this one waits, and then runs for all that wait by then: a pass counts only for
        those who asked before it began.
        """
        wanted = frozenset(require_task_id(task_id) for task_id in task_ids)
        if not wanted:
            return {}
        if not self._pattern.has_wildcard:
            return self._look_up(wanted)
        found = self._share(wanted)
        return {task_id: found[task_id] for task_id in sorted(wanted & found.keys())}

    def _look_up(self, task_ids: frozenset[str]) -> dict[str, list[bytes]]:
        """Where each task has one key, with a name that is known."""
        keys = {task_id: key for task_id in sorted(task_ids) if (key := self._pattern.exact_key(task_id)) is not None}
        replies = self._server.exchange([("EXISTS", key) for key in keys.values()])
        self._server.require_primary()
        return {task_id: [keys[task_id]] for task_id, reply in zip(keys, replies, strict=True) if require_reply(reply)}

    def _share(self, task_ids: frozenset[str]) -> Found:
        read = _Read(task_ids)
        with self._lock:
            self._waiting.append(read)
        with self._one_at_a_time:
            if read.outcome is None:
                self._run(self._take())
        assert read.outcome is not None
        if isinstance(read.outcome, Fault):
            raise Fault(read.outcome.kind, read.outcome.reason, read.outcome.message)  # each thread its own
        return read.outcome

    def _take(self) -> list[_Read]:
        with self._lock:
            reads, self._waiting = self._waiting, []
        return reads

    def _run(self, reads: list[_Read]) -> None:
        outcome: Found | Fault = Fault("retriable", reasons.INTERNAL_ERROR, "the shared scan ended unexpectedly")
        try:
            outcome = self._scan(frozenset[str]().union(*(read.task_ids for read in reads)))
        except Fault as fault:
            outcome = fault
        finally:  # also where something unexpected is raised here: those who share the pass must not wait forever
            for read in reads:
                read.outcome = outcome

    def _scan(self, task_ids: frozenset[str]) -> Found:
        found: dict[str, set[bytes]] = {}
        for page in self._server.scan(build_match(self._pattern, task_ids)):
            for key in self._narrow(page, task_ids):
                owner = self._pattern.match(key)
                if owner in task_ids:
                    found.setdefault(owner, set()).add(key)
        return {task_id: sorted(keys) for task_id, keys in found.items()}

    def _narrow(self, page: Iterable[bytes], task_ids: frozenset[str]) -> Iterator[bytes]:
        """The keys with one of these ids at its place: most are of other tasks, and to match each takes long."""
        wanted, start = {task_id.encode() for task_id in task_ids}, len(self._pattern.head)
        for key in page:
            named = _ID_RUN.match(key, start)
            if named is not None and named[0] in wanted:
                yield key


def build_match(pattern: KeyPattern, task_ids: Collection[str]) -> bytes:
    """One MATCH for the keys of all these tasks: what their ids begin with narrows what travels."""
    if len(task_ids) == 1:
        return pattern.scan_match(*task_ids)
    shared = commonprefix(list(task_ids))  # noqa: RUF071 - an id is no path: characters are what is meant
    return escape(pattern.head + shared.encode()) + b"*" + pattern.tail
