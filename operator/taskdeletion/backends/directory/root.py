"""A store's root, held open: looks at tasks and siblings, moves a task aside and back, and starts walks.

Called by the executors, from threads. Every name is made here from a checked task id or sibling and resolved on the
root's descriptor; nothing is ever replaced, and nothing happens because of a name that was found.
"""

import errno
import os
import threading
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from taskdeletion.api import reasons
from taskdeletion.backends.directory import checks, entries
from taskdeletion.backends.directory.branches import run_walk
from taskdeletion.backends.directory.crew import Crew, Lane, Shift, shared_crew
from taskdeletion.backends.directory.faults import fault_from, mount_inside
from taskdeletion.backends.directory.linux import DIRECTORY, is_mount_point, rename_noreplace
from taskdeletion.backends.directory.measure import Measure
from taskdeletion.backends.directory.opening import open_store_root, root_missing
from taskdeletion.backends.directory.syncing import Syncing
from taskdeletion.backends.directory.walk import Purged, Walk
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.results import Halt, Problem
from taskdeletion.domain.siblings import Sibling, SiblingKind, parse_sibling
from taskdeletion.domain.task_ids import require_task_id

_OPERATIONS_OF_A_RENAME: Final = 4  # it and the look at the old name afterwards, each with a lookup
#: The kernel renames one at a time in a directory; a long line of them would keep the root's fsync and looks waiting.
_RENAMES_AT_A_TIME: Final = 4
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Found:
    """What the root holds for one task.

    `directory`: the name is there, as a directory or anything else. `siblings`: whoever owns them, sorted by kind
    and owner.
    """

    directory: bool
    siblings: tuple[Sibling, ...]


class DirectoryRoot:
    """An open root `<volume>/<sub_path>`. A context manager; its methods may be called from several threads.

    Every method raises Fault for what the file system refuses, and ValueError for what is no task id or sibling.
    """

    def __init__(self, descriptor: int, crew: Crew | None = None, leadership: Leadership = ALONE) -> None:
        self._descriptor = descriptor
        self._leadership = leadership
        self._crew = crew or shared_crew()
        self._known_lane: Lane | None = None
        self._syncing = Syncing()
        self._renaming = threading.BoundedSemaphore(_RENAMES_AT_A_TIME)

    @classmethod
    def open(
        cls,
        volume: Path,
        sub_path: str,
        *,
        require_mount: bool = True,
        crew: Crew | None = None,
        leadership: Leadership = ALONE,
    ) -> Self:
        """Open the root, or raise a `waiting` Fault that says what is missing, unsafe, denied or unreachable.

        `crew`: whose threads help with walks; by default the one of this process.
        `leadership`: asked before each effect.
        """
        return cls(open_store_root(volume, sub_path, require_mount=require_mount), crew, leadership)

    def close(self) -> None:
        """Give the descriptor back. A purge that runs finishes on its own."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- looking --------------------------------------------------------------------------------------------------

    def look(self, task_ids: Collection[str]) -> dict[str, Found]:
        """What is there for each task: one listing of the root, however many tasks."""
        # Before and after the listing: a rename in between must not make a task look absent.
        before = self._exist([require_task_id(task_id) for task_id in task_ids])
        siblings = self.find_siblings(task_ids)
        after = self._exist([task_id for task_id, there in before.items() if not there])
        return {task_id: Found(before[task_id] or after[task_id], found) for task_id, found in siblings.items()}

    def find_siblings(self, task_ids: Collection[str]) -> dict[str, tuple[Sibling, ...]]:
        """The siblings of each task, sorted by kind and owner: one listing of the root, however many tasks."""
        siblings: dict[str, list[Sibling]] = {require_task_id(task_id): [] for task_id in task_ids}
        for sibling in self.list_siblings():
            if sibling.task_id in siblings:
                siblings[sibling.task_id].append(sibling)
        return {task_id: tuple(found) for task_id, found in siblings.items()}

    def list_siblings(self) -> list[Sibling]:
        """Every sibling in the root, sorted by kind, owner and task."""
        found = []
        try:
            self._require_root()
            # A descriptor of its own: threads would share the position of the root's.
            descriptor = os.open(".", DIRECTORY, dir_fd=self._descriptor)
            try:
                with os.scandir(descriptor) as entries:
                    found = [parse_sibling(entry.name) for entry in entries if entry.name.startswith(".")]
            finally:
                os.close(descriptor)
        except OSError as error:
            raise fault_from(error, "the store's folder cannot be listed") from error
        siblings = [sibling for sibling in found if sibling is not None]
        return sorted(siblings, key=lambda sibling: (sibling.kind, sibling.owner, sibling.task_id))

    def check_purgeable(self, task_id: str) -> Fault | None:
        """Why the task's directory could not be renamed and emptied; None where it can be, or is absent."""
        obstacle = checks.find_obstacle(self._descriptor, require_task_id(task_id))
        if obstacle is None:
            self._require_root()
        return obstacle

    def probe(self) -> Problem | None:
        """What is wrong with the root as a whole: gone, not readable, not writable, full."""
        try:
            self._require_root()
        except Fault as fault:
            return Problem(fault.reason, fault.message)
        except OSError as error:
            return Problem(reasons.IO_ERROR, os.strerror(error.errno or errno.EIO))
        return checks.probe(self._descriptor)

    # --- renaming -------------------------------------------------------------------------------------------------

    def claim(self, task_id: str, owner: str) -> None:
        """Move the task aside to `.claimed-<owner>-<task_id>`. Nothing where it is absent or was moved by this owner.

        On a Fault nothing has moved.
        """
        own = [_sibling(kind, owner, task_id) for kind in ("claimed", "deleting")]
        if self._has_any(own):
            return  # the directory that is there now, if any, is not the one that was claimed
        error = self._rename(task_id, own[0].name)
        # Whatever rename answered: an NFS client may answer ENOENT for a rename that happened.
        if self._has_any(own):
            return
        if error is None:
            raise Fault("retriable", reasons.IO_ERROR, "the directory was renamed and is not there")
        if self._exists(task_id):
            raise self._rename_fault(error, task_id)

    def undo(self, task_id: str, owner: str) -> bool:
        """Move the own `.claimed-` sibling back. False: there is none. Fault RenameNotUndone: its place is taken."""
        claimed = _sibling("claimed", owner, task_id)
        if not self._exists(claimed.name):
            return False
        error = self._rename(claimed.name, task_id)
        if error is None:
            return True
        is_taken = self._exists(task_id)
        if not self._exists(claimed.name):
            return is_taken
        if is_taken:
            message = f"{task_id} is there again, so {claimed.name} was not moved back; neither was touched"
            raise Fault("permanent", reasons.RENAME_NOT_UNDONE, message)
        raise self._rename_fault(error, claimed.name)

    def begin_purge(self, sibling: Sibling) -> Sibling:
        """Move `.claimed-` on to `.deleting-`, which says that it is not whole any more. Absent: nothing to do."""
        _require_sibling(sibling)
        deleting = replace(sibling, kind="deleting")
        if sibling.kind == "deleting":
            return sibling
        if not self._exists(sibling.name):
            return deleting if self._exists(deleting.name) else sibling
        with self._lane.noting(_OPERATIONS_OF_A_RENAME):
            error = self._rename(sibling.name, deleting.name)
            is_gone = not self._exists(sibling.name)
        if is_gone:
            return deleting
        if self._exists(deleting.name):
            raise Fault("retriable", reasons.BUSY, "an earlier purge of the same request has to be finished first")
        raise self._rename_fault(error or OSError(errno.EIO, ""), sibling.name)

    def sync(self) -> None:
        """Make the renames so far survive a power cut. Fault: retriable IoError."""
        try:
            self._syncing.sync(self._descriptor)
        except OSError as error:
            raise _sync_fault(error) from error

    # --- walking --------------------------------------------------------------------------------------------------

    def purge(self, sibling: Sibling, halt: Halt) -> tuple[Purged, Fault | None]:
        """Remove everything under exactly this sibling. None: nothing is left under its name.

        `halt` is asked before each directory and each batch of unlinks, maybe by several threads at a time. What fails
        does not stop the rest; the most severe fault is returned. A `.claimed-` sibling becomes `.deleting-` first:
        claimed means whole.
        """
        try:
            name = self.begin_purge(sibling).name
            self._sync_renames()
            shift = self._begin_shift()
            return run_walk(Walk(self._descriptor, name, halt, self._leadership), shift)
        except Fault as fault:
            return Purged(0, 0), fault
        except OSError as error:
            return Purged(0, 0), fault_from(error, "the purge cannot begin")

    def measure(self, name_or_task: str | Sibling, halt: Halt) -> tuple[Purged, Fault | None]:
        """What a purge of this task or sibling would remove and what would stop it: the same walk, without effects."""
        if isinstance(name_or_task, Sibling):
            name = _require_sibling(name_or_task).name
        else:
            name = require_task_id(name_or_task)
        try:
            shift = self._begin_shift()
            return run_walk(Measure(self._descriptor, name, halt), shift)
        except Fault as fault:
            return Purged(0, 0), fault
        except OSError as error:
            return Purged(0, 0), fault_from(error, "the measure cannot begin")

    def side_by_side(
        self, function: Callable[[_Item], object], items: Sequence[_Item], *, operations: int | None = None
    ) -> None:
        """Call `function` with each item, in as many threads as pay on this file system; it may purge and measure.

        `operations`: about so many of the file system in one call, where it takes note of none by itself. Raises what
        one of the calls raised, when none runs any more; no further one begins then.
        """
        shift = self._begin_shift()

        def call(item: _Item) -> None:
            if not shift.is_broken:
                with self._lane.noting(operations) if operations else nullcontext():
                    function(item)

        shift.add(call, items)
        shift.run()

    def _sync_renames(self) -> None:
        """Otherwise a power cut could bring back a `.claimed-` that is not whole."""
        try:
            self._syncing.sync_renames(self._descriptor)
        except OSError as error:
            raise _sync_fault(error) from error

    @property
    def _lane(self) -> Lane:
        """The lane of this store, which all that have its root open share."""
        if self._known_lane is None:
            root = os.fstat(self._descriptor)
            self._known_lane = self._crew.lane((root.st_dev, root.st_ino))
        return self._known_lane

    def _begin_shift(self) -> Shift:
        try:
            return Shift(self._crew, self._lane, entries.chosen.threads)
        except OSError as error:
            raise fault_from(error, "the store's folder cannot be looked at") from error

    # --- one name -------------------------------------------------------------------------------------------------

    def _exist(self, names: Sequence[str]) -> dict[str, bool]:
        found: dict[str, bool] = {}

        def look(name: str) -> None:
            found[name] = self._exists(name)

        self.side_by_side(look, names, operations=1)
        return found

    def _exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            self._require_root()
            return False
        except OSError as error:
            raise fault_from(error, "the store's folder cannot be looked at") from error
        return True

    def _has_any(self, siblings: Collection[Sibling]) -> bool:
        return any(self._exists(sibling.name) for sibling in siblings)

    def _rename(self, old: str, new: str) -> OSError | None:
        try:
            with self._renaming:
                self._leadership.require()
                rename_noreplace(self._descriptor, old, new)
        except OSError as error:
            return error
        finally:
            self._syncing.note_rename()  # after it: a sync in another thread may have begun before
        return None

    def _rename_fault(self, error: OSError, name: str) -> Fault:
        if error.errno == errno.EBUSY and is_mount_point(self._descriptor, name):
            return mount_inside()
        return fault_from(error, "the directory cannot be renamed")

    def _require_root(self) -> None:
        if os.fstat(self._descriptor).st_nlink == 0:
            raise root_missing()  # removed while it was open: an empty listing would read as "absent"


def _sync_fault(error: OSError) -> Fault:
    message = f"the store's folder cannot be synced: {os.strerror(error.errno or errno.EIO)}"
    return Fault("retriable", reasons.IO_ERROR, message)


def _sibling(kind: SiblingKind, owner: str, task_id: str) -> Sibling:
    return _require_sibling(Sibling(kind, owner, require_task_id(task_id)))


def _require_sibling(sibling: Sibling) -> Sibling:
    """The last gate before a sibling's name is used."""
    require_task_id(sibling.task_id)
    if parse_sibling(sibling.name) != sibling:
        raise ValueError("not a sibling that a request could own")
    return sibling
