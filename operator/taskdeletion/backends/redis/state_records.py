"""Deletes the state keys of tasks, last of all, where they are still of the claimed version.

Called by the Redis catalog when everything else of a task is gone. It never removes a key that changed after it was
compared, nor one that appeared since, and it looks once more at the end.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.backends.redis.state_scripts import Removal, in_batches, read_states, remove_states
from taskdeletion.backends.redis.state_search import StateSearch
from taskdeletion.domain.catalog import Version
from taskdeletion.domain.claims import decide_still_claimed
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.states import State, StateReader

RESOURCE: Resource = "DatabaseRecords"
_DONE = "state keys of the Redis catalog: they always go, last of all"
_CHANGED = "the state changed after the task was claimed; its state keys stay"
_RESTARTED = "the task was restarted while its state went; the state keys that it has now stay"

Results = dict[str, StepResult]


@dataclass
class StateDeletion:
    """The deletion of the state keys of some tasks, once."""

    server: RedisServer
    search: StateSearch
    reader: StateReader
    versions: Mapping[str, Version]
    force: bool
    _results: Results = field(default_factory=dict)
    _removals: dict[str, Removal] = field(default_factory=dict)

    def perform(self) -> Results:
        """One result per task; see RedisCatalog.delete_records."""
        try:
            self._remove_all()
        except Fault as fault:
            self._fail(self.versions.keys() - self._results.keys() - self._removals.keys(), fault)
        self._conclude()
        return {task_id: self._results[task_id] for task_id in self.versions}

    def _remove_all(self) -> None:
        found = self.search.find(self.versions)
        self._skip(self.versions.keys() - found.keys())
        for batch in in_batches(found):
            states = read_states(self.server, batch)
            self._skip(batch.keys() - states.keys())
            self._remove({task_id: mine for task_id, mine in states.items() if self._is_claimed(task_id, mine)})

    def _is_claimed(self, task_id: str, states: Sequence[State]) -> bool:
        """Whether these are the states of the claimed run; where not, the result says so."""
        entry = self.reader.build_entry(task_id, states)
        fault = decide_still_claimed(entry, self.versions[task_id], force=self.force)
        if fault is not None:
            self._fail([task_id], fault)
        return fault is None

    def _remove(self, states: Mapping[str, Sequence[State]]) -> None:
        removals = remove_states(self.server, states)
        self._removals |= removals
        for removal in removals.values():
            if removal.fault is not None and removal.is_unsure:
                raise removal.fault  # what comes next would only wait for the same

    def _skip(self, task_ids: Iterable[str]) -> None:
        self._results |= {i: StepResult(i, RESOURCE, "Skipped", reasons.ABSENT) for i in task_ids}

    def _fail(self, task_ids: Iterable[str], fault: Fault) -> None:
        self._results |= {task_id: StepResult.failed(task_id, RESOURCE, fault) for task_id in task_ids}

    def _conclude(self) -> None:
        """Look again at what went: keys that are there now are of a new run, or were never removed."""
        try:
            left = self.search.find(self._removals)
        except Fault as fault:
            self._results |= {i: _not_seen(i, removal, fault) for i, removal in self._removals.items()}
        else:
            self._results |= {i: _result_of(i, removal, left.get(i, ())) for i, removal in self._removals.items()}


def _not_seen(task_id: str, removal: Removal, fault: Fault) -> StepResult:
    """What went is known, but not whether anything is there now: the next attempt sees that."""
    result = StepResult.failed(task_id, RESOURCE, removal.fault or fault)
    return result.with_counts(count=removal.count, bytes=0, at_least=removal.is_unsure)


def _result_of(task_id: str, removal: Removal, left: Collection[bytes]) -> StepResult:
    if removal.fault is not None:
        return _settle(task_id, removal, removal.fault, left)
    if left:
        message = _RESTARTED if removal.count else _CHANGED
        fault = Fault("permanent", reasons.TASK_RESTARTED, message)
        return StepResult.failed(task_id, RESOURCE, fault, count=removal.count)
    if removal.is_refused and not removal.count:
        return StepResult(task_id, RESOURCE, "Skipped", reasons.ABSENT)
    return StepResult(task_id, RESOURCE, "Deleted", message=_DONE, count=removal.count)


def _settle(task_id: str, removal: Removal, fault: Fault, left: Collection[bytes]) -> StepResult:
    """After a failure: keys that were there before it and are gone now went with it, or by themselves."""
    if not left:
        return StepResult(task_id, RESOURCE, "Deleted", message=_DONE, count=len(removal.keys), at_least=True)
    gone = len(set(removal.keys) - set(left)) if removal.is_unsure else removal.count
    failed = StepResult.failed(task_id, RESOURCE, fault)
    return failed.with_counts(count=gone, bytes=0, at_least=removal.is_unsure)
