"""What `taskdeletion claim`, `purge` and `undo` do in the pod of a Job: exactly their arguments, on one mounted volume.

Called by the command line. Needs no API server, no catalog and no credentials, and starts quickly: it imports none of
their clients. Says on stdout what it did (`domain.job_lines`), and decides nothing that its arguments do not say.
"""

import signal
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from taskdeletion.api import reasons
from taskdeletion.backends.directory import Crew, Found, Purged
from taskdeletion.backends.directory.pod_root import PodRoot
from taskdeletion.backends.directory.share import Share
from taskdeletion.backends.directory.walk import Walk
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import TaskLine, close_log, format_line
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.pod_progress import ProgressWriter

#: Exit codes: everything is reported (faults of tasks included); another pod would find the same; told to stop.
DONE, BROKEN, STOPPED = 0, 65, 75
#: Entries that each pod of a split should get at the least.
ENTRIES_PER_POD: Final = 16
_OPERATIONS_OF_A_CLAIM: Final = 13
_STOPPED = Fault("waiting", reasons.INTERRUPTED, "the pod was told to stop; another one goes on")
_NO_SIBLING = Fault("retriable", reasons.JOB_FAILED, "a pod of the split found none of the siblings: another volume?")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod works and how. `index`: which share of a split is its own."""

    volume: Path
    require_mount: bool
    index: int
    threads: int
    progress_seconds: float


def run_in_pod(work: JobWork, place: Place, output: BinaryIO) -> int:
    """Do the work, say what came of it, and return the exit code. SIGTERM and Ctrl-C stop it between two batches."""
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    crew = Crew(limit=place.threads, helpers=place.threads)
    try:
        root = PodRoot.open(place.volume, work.sub_path, require_mount=place.require_mount, crew=crew)
    except Fault as fault:
        output.write(format_line(close_log((), fault=fault)).encode())
        output.flush()
        return DONE
    with root, ProgressWriter(output, place.progress_seconds) as progress:
        run = _Run(root, work, place, stopping, progress)
        lines = _ACTIONS[work.verb](run)
        problem = run.find_problem()
        closing = close_log(lines, level=run.level, fault=problem)
        progress.finish([*lines, closing])
    if problem is None:
        return DONE
    return STOPPED if problem == _STOPPED else BROKEN


class _Run:
    """One run of a command."""

    def __init__(
        self, root: PodRoot, work: JobWork, place: Place, stopping: threading.Event, progress: ProgressWriter
    ) -> None:
        self.root = root
        self.work = work
        self.place = place
        self.level = 0
        self.faults: dict[str, Fault] = {}
        self.removed: dict[str, Purged] = dict.fromkeys(work.tasks, Purged(0, 0))
        self._progress = progress
        self._stopping = stopping
        self._has_seen_sibling = not work.is_shared

    def halt(self) -> Fault | None:
        """What to stop with: see `Halt`."""
        return _STOPPED if self._stopping.is_set() else None

    def find_problem(self) -> Fault | None:
        """Why the pod as a whole did not do its work, or None."""
        return self.halt() if self._has_seen_sibling else _NO_SIBLING

    # --- claim and undo ---------------------------------------------------------------------------------------------
    def claim(self) -> list[TaskLine]:
        """Move the tasks aside, where nothing speaks against it, and see what is there of all tasks then."""
        moved = self._find_moved()
        self._each(lambda task_id: self._claim_one(task_id, moved), self.work.task_ids)
        if not self.work.dry_run:
            self._sync(self.work.task_ids)
        lines = self._look()
        if self.work.split > 1:
            siblings = [sibling for line in lines for sibling in line.siblings]
            self.level = self.root.find_level(siblings, self.work.split * ENTRIES_PER_POD)
        return lines

    def undo(self) -> list[TaskLine]:
        """Move the tasks back, never replacing anything."""
        self._each(lambda task_id: self.root.undo(task_id, self.work.owner), self.work.task_ids)
        self._sync(self.work.task_ids)
        return self._look()

    def _claim_one(self, task_id: str, moved: Collection[str]) -> None:
        """What this request has moved already is never moved again, so what is there now does not matter."""
        obstacle = self.root.check_purgeable(task_id) if task_id not in moved else None
        if obstacle is not None:
            raise obstacle
        if not self.work.dry_run:
            self.root.claim(task_id, self.work.owner)

    def _find_moved(self) -> frozenset[str]:
        try:
            siblings = self.root.list_siblings()
        except Fault as fault:
            self.faults = dict.fromkeys(self.work.task_ids, fault)
            return frozenset()
        return frozenset(sibling.task_id for sibling in siblings if sibling.owner == self.work.owner)

    def _each(self, action: Callable[[str], object], task_ids: Sequence[str]) -> None:
        def act(task_id: str) -> None:
            try:
                if fault := self.faults.get(task_id) or self.halt():
                    raise fault
                action(task_id)
            except Fault as fault:
                self.faults[task_id] = fault

        self.root.side_by_side(act, task_ids, operations=_OPERATIONS_OF_A_CLAIM)

    def _sync(self, task_ids: Sequence[str]) -> None:
        try:
            self.root.sync()
        except Fault as fault:
            self.faults = {**dict.fromkeys(task_ids, fault), **self.faults}

    # --- purge ------------------------------------------------------------------------------------------------------
    def purge(self) -> list[TaskLine]:
        """Empty the named siblings, or a share of each; in a dry run measure everything that is named."""
        names: dict[str, list[str | Sibling]] = {task_id: [] for task_id in self.work.tasks}
        for sibling in self.work.siblings:
            names[sibling.task_id].append(sibling)
        for task_id in self.work.task_ids:
            names[task_id].append(task_id)
        self.root.side_by_side(lambda task_id: self._purge_task(task_id, names[task_id]), list(names))
        return self._look()

    def _purge_task(self, task_id: str, names: Sequence[str | Sibling]) -> None:
        files, freed, faults = 0, 0, []
        for name in names:
            purged, fault = self._purge_one(task_id, name)
            files, freed = files + purged.files, freed + purged.bytes
            faults += [fault] if fault else []
        self.removed[task_id] = Purged(files, freed)
        if faults:
            self.faults[task_id] = min(faults, key=lambda fault: fault.retriable)

    def _purge_one(self, task_id: str, name: str | Sibling) -> tuple[Purged, Fault | None]:
        if fault := self.halt():
            return Purged(0, 0), fault
        if self.work.dry_run:
            return self.root.measure(name, self.halt)
        assert isinstance(name, Sibling), "only what was moved aside is ever purged"

        def watch(walk: Walk) -> None:
            self._progress.watch(task_id, walk)

        if not self.work.is_shared:
            return self.root.purge_watched(name, self.halt, watch)
        share = Share(self.place.index, self.work.of, self.work.level)
        purged, fault, is_there = self.root.purge_share(name, self.halt, watch, share=share)
        self._has_seen_sibling |= is_there
        return purged, fault

    # --- looking ----------------------------------------------------------------------------------------------------
    def _look(self) -> list[TaskLine]:
        """What is there of every task now, and what was done with it."""
        found: dict[str, Found] = {}
        try:
            found = self.root.look(self.work.tasks)
        except Fault as fault:  # what was done is known, what is there is not
            self.faults = {**dict.fromkeys(self.work.tasks, fault), **self.faults}
        nothing = Found(False, ())
        return [self._describe(task_id, found.get(task_id, nothing)) for task_id in self.work.tasks]

    def _describe(self, task_id: str, found: Found) -> TaskLine:
        removed, fault = self.removed[task_id], self.faults.get(task_id)
        return TaskLine(task_id, removed.files, removed.bytes, found.directory, found.siblings, fault)


_ACTIONS: Final = {"claim": _Run.claim, "purge": _Run.purge, "undo": _Run.undo}
