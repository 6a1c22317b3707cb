"""Where the directories of a request's tasks are worked on, whoever does it: the port, and threads here as one of it.

Made for one request by the workflow, used by its claim, purge and end. `executors.in_jobs` fills it with Jobs. Decides
nothing about requests: what may be adopted and when to stop it is told.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Final, Protocol

from taskdeletion.backends.directory import DirectoryRoot, Found
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_manifest import Counts
from taskdeletion.domain.results import Halt, StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.directories import DirectoryWork, start_directories

Results = Sequence[StepResult]
_OPERATIONS_OF_A_CHECK: Final = 8
_OPERATIONS_OF_A_CLAIM: Final = 5


@dataclass(frozen=True, slots=True)
class PlaceWork:
    """What is to be purged, or measured. `counted`: files and bytes that status has of tasks already.

    `on_progress` is told what a task has lost so far, from any thread: it is shown, and never added to anything.
    """

    task_ids: Sequence[str]
    is_adoptable: Callable[[Sibling], bool]
    halt: Halt
    dry_run: bool
    counted: Mapping[str, Counts]
    on_progress: Callable[[Mapping[str, Counts]], object]


class Place(Protocol):
    """The directories of one request's tasks. Methods raise Fault for what concerns all of the tasks."""

    @property
    def is_here(self) -> bool:
        """Whether a claim takes moments, so that locks may be held meanwhile. Else versions are compared after it."""

    @property
    def round_size(self) -> int:
        """How many tasks are claimed at once."""

    def check(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """Which directories could not be moved or emptied, as far as that is known without an effect."""

    def claim(self, task_ids: Sequence[str], *, dry_run: bool) -> Mapping[str, Fault]:
        """Move directories aside, durably. Returns the faults of those that were not moved; absent ones are fine."""

    def undo(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """Move own claims back, durably and never replacing anything. Returns the faults of those that could not."""

    def may_have_moved(self, task_id: str) -> bool:
        """Whether a claim of this request may have moved it, which was neither undone nor purged."""

    def look(self, task_ids: Sequence[str], *, afresh: bool) -> Mapping[str, Found]:
        """What is there of each task: `afresh` now, else at the end of the purge or later."""

    def start_purge(self, work: PlaceWork) -> list[Future[Results]]:
        """Begin; the futures hold one result per task, all together. Nothing goes on when they are done."""

    def settle(self) -> None:
        """Before the request ends: see that nothing of it runs any more. Raises Fault (waiting)."""

    def forget(self, *, is_over: bool) -> None:
        """After results were recorded, or the end of the request: what was kept in case that they are not may go."""


@dataclass(frozen=True, slots=True)
class HerePlace:
    """A volume that is mounted here. `owner`: uid of the request. `pool`: the threads of the store."""

    root: DirectoryRoot
    owner: str
    pool: Executor
    round_size: int = 50
    is_here: bool = True

    def check(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """See Place."""
        return self._each(self.root.check_purgeable, task_ids, operations=_OPERATIONS_OF_A_CHECK)

    def claim(self, task_ids: Sequence[str], *, dry_run: bool) -> Mapping[str, Fault]:
        """See Place."""
        if dry_run:
            return {}

        def rename(task_id: str) -> None:
            self.root.claim(task_id, self.owner)

        faults = self._each(rename, task_ids, operations=_OPERATIONS_OF_A_CLAIM)
        if len(faults) < len(task_ids):
            self.root.sync()
        return faults

    def undo(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """See Place."""
        faults: dict[str, Fault] = {}
        is_moved = False
        for task_id in task_ids:
            try:
                is_moved |= self.root.undo(task_id, self.owner)
            except Fault as fault:
                faults[task_id] = fault
        if is_moved:
            self.root.sync()
        return faults

    def may_have_moved(self, task_id: str) -> bool:
        """See Place."""
        return any(sibling.owner == self.owner for sibling in self.root.look([task_id])[task_id].siblings)

    def look(self, task_ids: Sequence[str], *, afresh: bool) -> Mapping[str, Found]:
        """See Place. A look costs little here: it is always a new one."""
        del afresh
        return self.root.look(task_ids)

    def start_purge(self, work: PlaceWork) -> list[Future[Results]]:
        """See Place."""
        directories = DirectoryWork(self.root, work.task_ids, work.is_adoptable, work.halt, work.dry_run)
        return start_directories(directories, self.pool)

    def settle(self) -> None:
        """Nothing runs here but what somebody waits for."""

    def forget(self, *, is_over: bool) -> None:
        """Nothing is kept: the next attempt sees what is there."""
        del is_over

    def _each(
        self, action: Callable[[str], Fault | None], task_ids: Sequence[str], *, operations: int
    ) -> dict[str, Fault]:
        faults: dict[str, Fault] = {}

        def act(task_id: str) -> None:
            try:
                fault = action(task_id)
            except Fault as raised:
                fault = raised
            if fault is not None:
                faults[task_id] = fault

        self.root.side_by_side(act, task_ids, operations=operations)
        return faults
