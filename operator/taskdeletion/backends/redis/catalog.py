"""The Redis catalog of one TaskStore, as the workflow and the probe see it. Threads may share it.

For pipelines without a database: the state of a task lives in keys of its own. Each method hands over to the file that
owns the idea. Nothing here decides whether a task may go.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from zoneinfo import ZoneInfo

from taskdeletion.api import reasons
from taskdeletion.backends.redis.connection import RedisConnection
from taskdeletion.backends.redis.server import RedisServer
from taskdeletion.backends.redis.state_probe import probe_states
from taskdeletion.backends.redis.state_records import StateDeletion
from taskdeletion.backends.redis.state_scripts import in_batches, read_states
from taskdeletion.backends.redis.state_search import StateSearch
from taskdeletion.backends.redis.state_survey import RedisSurvey
from taskdeletion.domain.catalog import MAX_CLAIMED, CatalogEntry, HeldTasks, Marks, Version
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern
from taskdeletion.domain.results import Problem, StepResult
from taskdeletion.domain.states import StateKeys, StateReader


class RedisCatalog:
    """Tasks as keys. Every method may raise Fault; messages hold neither the URL nor a password nor a value."""

    def __init__(self, connection: RedisConnection, keys: StateKeys, *, timeout_seconds: float = 10.0) -> None:
        """Check the values; no connection is made yet.

        Raises Fault (waiting) for an unusable Secret or time zone, ValueError for an unsafe pattern.
        """
        self._pattern = KeyPattern.parse(keys.key_pattern)
        self._reader = StateReader(keys, _find_zone(keys.time_zone))
        self._server = RedisServer(connection, timeout_seconds=timeout_seconds)
        self._search = StateSearch(self._server, self._pattern)

    @property
    def holds_entries(self) -> bool:
        """Redis has no lock that outlasts a rename."""
        return False

    @property
    def keeps_entries(self) -> bool:
        """State keys are the index of what is left: they always go, last of all."""
        return False

    def now(self) -> datetime:
        """The clock of the server, in UTC."""
        return self._server.now()

    def read(self, task_ids: Collection[str]) -> dict[str, CatalogEntry]:
        """The entries of these tasks; ids without a key are left out.

        Values are read after the search for keys, last of all: of a key that is known, a change is seen until then.
        Searches of several threads share a pass.
        """
        entries: dict[str, CatalogEntry] = {}
        for batch in in_batches(self._search.find(task_ids)):
            for task_id, states in read_states(self._server, batch).items():
                entries[task_id] = self._reader.build_entry(task_id, states)
        return entries

    def claim(
        self,
        task_ids: Collection[str],
        *,
        with_records: bool,  # noqa: ARG002 - of the port: nothing refers to keys
        lock: bool = True,  # noqa: ARG002 - of the port: nothing can be locked
    ) -> AbstractContextManager[HeldTasks]:
        """The entries of at most 50 tasks. Nothing is held, so both options change nothing, and a dry run is the same.

        Raises Fault before the block; its end confirms nothing.
        """
        return self._claim(task_ids)

    def mark(self, versions: Mapping[str, Version], *, force: bool) -> Marks:  # noqa: ARG002 - see claim
        """Mark nothing: no state key stays."""
        return Marks(frozenset(), frozenset())

    def delete_records(self, versions: Mapping[str, Version], *, force: bool) -> dict[str, StepResult]:
        """Delete all keys of each id that is still of the given version; one result per id, never a Fault.

        Compared and removed in one script per task, on a cluster per slot of a task. `count`: keys removed; a failure
        keeps the count of what went before. `at_least` where a reply was lost.
        """
        return StateDeletion(self._server, self._search, self._reader, versions, force).perform()

    def count_records(self, task_ids: Collection[str]) -> dict[str, int]:
        """How many state keys would go; ids without a key are left out."""
        return {task_id: len(keys) for task_id, keys in self._search.find(task_ids).items()}

    @contextmanager
    def survey(
        self,
        terminal_statuses: Collection[str],
        *,
        with_gone: bool,  # noqa: ARG002 - of the port: of what is gone Redis has no keys
    ) -> Iterator[RedisSurvey]:
        """The tasks of which every key is finished and settled, in one sweep; nothing is held.

        Raises Fault before the block and from `pages`, where the sweep happens.
        """
        yield RedisSurvey(self._server, self._pattern, self._reader, terminal_statuses)

    def probe(self) -> list[Problem]:
        """What keeps the catalog from being worked with: connection, permissions, read-only."""
        return probe_states(self._server, self._pattern)

    def close(self) -> None:
        """Close all connections."""
        self._server.close()

    @contextmanager
    def _claim(self, task_ids: Collection[str]) -> Iterator[HeldTasks]:
        if len(set(task_ids)) > MAX_CLAIMED:
            raise ValueError(f"a claim takes at most {MAX_CLAIMED} tasks, not {len(set(task_ids))}")
        yield HeldTasks(self.read(task_ids))


def _find_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        message = f"spec.catalog.redis.timeZone: {name!r} is not a time zone"
        raise Fault("waiting", reasons.STORE_INVALID, message) from None
