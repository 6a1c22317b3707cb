"""The state of one sweep: who may still be touched, what was counted, what went wrong.

Made and driven by `keys.py`. It talks to no server; the guard and the halt are asked from here.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import redis

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource
from taskdeletion.backends.redis.faults import fault_of
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyOwners, KeyPattern
from taskdeletion.domain.results import Guard, Halt, StepResult
from taskdeletion.domain.task_ids import require_task_id

RESOURCE: Resource = "Redis"


class Sweep:
    """The state of one sweep: who may still be touched, what was counted, what went wrong."""

    def __init__(
        self, patterns: Sequence[KeyPattern], task_ids: Collection[str], *, delete: bool, guard: Guard, halt: Halt
    ) -> None:
        self.delete = delete
        self.active = {require_task_id(task_id) for task_id in task_ids}
        self.found: set[str] = set()  # in this pass
        self._patterns = patterns
        self._owners = KeyOwners(patterns, self.active)
        self._guard = guard
        self._halt = halt
        self._counts = dict.fromkeys(task_ids, 0)
        self._unsure: set[str] = set()
        self._faults: dict[str, Fault] = {}
        self._counted: set[bytes] = set()  # SCAN may show a key twice; a dry run counts it once

    def known_keys(self) -> Iterator[bytes]:
        """The keys that need no search, of the tasks that may still be touched."""
        for task_id in sorted(self.active):
            for pattern in self._patterns:
                key = pattern.exact_key(task_id)
                if key is not None:
                    yield key

    def check_halt(self) -> None:
        """Raise the fault to stop with, if there is one."""
        fault = self._halt()
        if fault is not None:
            raise fault

    def admit(self, keys: Sequence[bytes]) -> dict[str, list[bytes]]:
        """The keys to remove now, by task: those that are ours, without tasks that the guard refuses."""
        batch = self._sort(keys)
        if not self.delete:
            self._count_once(batch)
            return {}
        if batch:
            for task_id, fault in self._guard(list(batch)).items():
                self.fail([task_id], fault)
        return {task_id: keys for task_id, keys in batch.items() if task_id in self.active}

    def count(self, task_id: str, reply: object) -> None:
        """Take the reply to an UNLINK into account; a Fault in its place leaves open whether keys went."""
        if isinstance(reply, redis.RedisError):
            self.fail([task_id], fault_of(reply))
        elif isinstance(reply, Fault):
            self._unsure.add(task_id)
            self.fail([task_id], reply)
        elif isinstance(reply, int):
            self._counts[task_id] += reply

    def fail(self, task_ids: Iterable[str], fault: Fault) -> None:
        """Touch these tasks no more. The first fault of a task stays."""
        for task_id in list(task_ids):
            self.active.discard(task_id)
            self._faults.setdefault(task_id, fault)

    def results(self) -> dict[str, StepResult]:
        """What became of each task so far."""
        return {task_id: self._result(task_id) for task_id in self._counts}

    def _result(self, task_id: str) -> StepResult:
        count = self._counts[task_id]
        fault = self._faults.get(task_id)
        if fault is not None:
            result = StepResult.failed(task_id, RESOURCE, fault, count=count)
            return result.with_counts(count=count, bytes=0, at_least=task_id in self._unsure)
        if count == 0:
            return StepResult(task_id, RESOURCE, "Skipped", reasons.ABSENT)
        return StepResult(task_id, RESOURCE, "Deleted" if self.delete else "WouldDelete", count=count)

    def _sort(self, keys: Sequence[bytes]) -> dict[str, list[bytes]]:
        batch: dict[str, list[bytes]] = {}
        for key, owners in self._owners.find(keys):
            self.found |= owners & self.active
            if len(owners) > 1:
                self.fail(owners & self.active, _shared_key_fault())
            elif owners <= self.active:
                (owner,) = owners
                batch.setdefault(owner, []).append(key)
        return {task_id: keys for task_id, keys in batch.items() if task_id in self.active}

    def _count_once(self, batch: Mapping[str, Sequence[bytes]]) -> None:
        for task_id, keys in batch.items():
            fresh = set(keys) - self._counted
            self._counted |= fresh
            self._counts[task_id] += len(fresh)


def _shared_key_fault() -> Fault:
    return Fault(
        "permanent",
        reasons.STORE_INVALID,
        "two key patterns of the store give the same key to different tasks; such keys are left alone",
    )
