"""All finished tasks of a Redis catalog: one sweep over its keys, folded into one line per task as they come.

Called by the Redis catalog for the selection of a retention policy. A task is finished only where every key of it says
so; what changes behind the sweep is seen at the claim. Keeps no value, and deletes nothing.
"""

from array import array
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.backends.redis.state_scripts import BATCH_KEYS, read_states
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.key_patterns import KeyPattern
from taskdeletion.domain.states import State, StateReader

PAGE_TASKS: Final = 5000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NOT_FINISHED: Final = -1
_NOTHING: Final = frozenset[str]()


class RedisSurvey:
    """One sweep, by one thread. `now`: the clock of the server before it."""

    def __init__(
        self, server: RedisServer, pattern: KeyPattern, reader: StateReader, terminal_statuses: Collection[str]
    ) -> None:
        """Raises Fault where the server cannot be asked for its clock."""
        self.now = server.now()
        self._server = server
        self._pattern = pattern
        self._reader = reader
        self._terminal_statuses = frozenset(terminal_statuses)
        self._with_files: int | None = None

    @property
    def with_files(self) -> int:
        """Tasks that have a key, finished or not; a ValueError before the last page."""
        if self._with_files is None:
            raise ValueError("how many tasks there are is known behind the last page")
        return self._with_files

    def pages(self) -> Iterator[Sequence[FinishedTask]]:
        """The finished tasks, once all keys have been seen. Raises Fault, also (waiting) for a sweep that is not whole.

        Until then each page of keys gives an empty one, so that the caller can stop in the middle.
        """
        tasks = _Tasks(self._reader, self._terminal_statuses)
        for keys in self._server.scan(self._pattern.scan_match(None)):
            self._add(tasks, keys)
            yield ()
        self._with_files = len(tasks)
        finished = tasks.finished()
        while page := list(islice(finished, PAGE_TASKS)):
            yield page

    def _add(self, tasks: "_Tasks", keys: Sequence[bytes]) -> None:
        """Read these keys, some hundred at a time: how each of them was at some moment is what counts."""
        owners = {key: owner for key in keys if (owner := self._pattern.match(key)) is not None}
        ours = list(owners)
        for start in range(0, len(ours), BATCH_KEYS):
            for states in read_states(self._server, {"": ours[start : start + BATCH_KEYS]}).values():
                for state in states:
                    tasks.add(owners[state.key], state)


class _Tasks:
    """What the keys have said so far, in some 100 bytes per task beside its id. A key may be added more than once."""

    def __init__(self, reader: StateReader, terminal_statuses: frozenset[str]) -> None:
        self._reader = reader
        self._terminal_statuses = terminal_statuses
        self._numbers: dict[str, int] = {}
        self._created = array("q")  # microseconds since 1970 of the latest key
        self._statuses: list[frozenset[str]] = []
        self._unions: dict[tuple[frozenset[str], str], frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, task_id: str, state: State) -> None:
        """Take one key into account: whatever is not finished, or has no creation time, rules its task out."""
        number = self._numbers.setdefault(task_id, len(self._numbers))
        if number == len(self._created):
            self._created.append(0)
            self._statuses.append(_NOTHING)
        if self._created[number] == _NOT_FINISHED:
            return
        facts = self._reader.read(state)
        if facts.status not in self._terminal_statuses or facts.created_at is None or not facts.is_settled:
            self._created[number] = _NOT_FINISHED
            return
        self._created[number] = max(self._created[number], (facts.created_at - _EPOCH) // _MICROSECOND)
        self._statuses[number] = self._unite(self._statuses[number], facts.status)

    def finished(self) -> Iterator[FinishedTask]:
        """The tasks of which every key is finished."""
        for task_id, created, statuses in zip(self._numbers, self._created, self._statuses, strict=True):
            if created != _NOT_FINISHED:
                yield FinishedTask(task_id, statuses, _EPOCH + timedelta(microseconds=created))

    def _unite(self, statuses: frozenset[str], status: str) -> frozenset[str]:
        """Both, as an object that all tasks with the same share."""
        found = self._unions.get((statuses, status))
        if found is None:
            union = statuses | {status}
            found = next((known for known in self._unions.values() if known == union), union)
            self._unions[statuses, status] = found
        return found
