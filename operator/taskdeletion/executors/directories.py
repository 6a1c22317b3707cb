"""Purges, or measures, the directories of a set of tasks as one piece of work, with a result per task as it comes.

Called by `here`, with the threads of a store. What the tasks have in the root is looked up once for all of them; their
directories go side by side, in as many threads as pay there. Decides nothing about requests.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome
from taskdeletion.backends.directory import DirectoryRoot, Found, Purged
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, StepResult
from taskdeletion.domain.siblings import Sibling

Results = Sequence[StepResult]
_OTHERS = Fault("waiting", reasons.CLAIMED_BY_OTHER, "another request still holds a sibling of the directory")


@dataclass(frozen=True, slots=True)
class DirectoryWork:
    """What is to go: see `PurgeWork`."""

    root: DirectoryRoot
    task_ids: Sequence[str]
    is_adoptable: Callable[[Sibling], bool]
    halt: Halt
    dry_run: bool


def start_directories(work: DirectoryWork, pool: Executor) -> list[Future[Results]]:
    """A future per task, none of which can be cancelled alone: a halt ends them, as does the end of the pool's thread.

    What may be adopted is asked here and now, in the thread of the caller.
    """
    futures: dict[str, Future[Results]] = {task_id: Future() for task_id in work.task_ids}
    for future in futures.values():
        future.set_running_or_notify_cancel()
    pool.submit(_purge_all, work, _find_names(work, futures), futures).add_done_callback(partial(_end_rest, futures))
    return list(futures.values())


def _find_names(work: DirectoryWork, futures: Mapping[str, Future[Results]]) -> dict[str, list[str | Sibling]]:
    """What to purge or measure for each task; a task that has to stay as it is has its result already."""
    try:
        found = _look(work)
    except Fault as fault:
        for task_id, future in futures.items():
            future.set_result([StepResult.failed(task_id, "Directory", fault)])
        return {}
    names: dict[str, list[str | Sibling]] = {}
    for task_id, future in futures.items():
        if all(work.is_adoptable(sibling) for sibling in found[task_id].siblings):
            names[task_id] = [*found[task_id].siblings]
            names[task_id] += [task_id] * found[task_id].directory
        else:  # never Absent: something of the task is there
            future.set_result([StepResult.failed(task_id, "Directory", _OTHERS)])
    return names


def _look(work: DirectoryWork) -> dict[str, Found]:
    """What counts of the tasks: a purge takes only what was moved aside, whatever has the task's own name meanwhile."""
    if work.dry_run:
        return work.root.look(work.task_ids)
    return {task_id: Found(False, siblings) for task_id, siblings in work.root.find_siblings(work.task_ids).items()}


def _end_rest(futures: Mapping[str, Future[Results]], whole: Future[None]) -> None:
    """What was unforeseen goes up; nobody must wait for a task that will not come any more."""
    error = None if whole.cancelled() else whole.exception()
    for future in futures.values():
        if not future.done():
            future.set_exception(error or RuntimeError("the store was closed before the directories were purged"))


def _purge_all(
    work: DirectoryWork, names: Mapping[str, list[str | Sibling]], futures: Mapping[str, Future[Results]]
) -> None:
    def purge(task_id: str) -> None:
        futures[task_id].set_result([_purge_task(work, task_id, names[task_id])])

    work.root.side_by_side(purge, list(names))


def _purge_task(work: DirectoryWork, task_id: str, names: Sequence[str | Sibling]) -> StepResult:
    files, freed, faults = 0, 0, []
    for name in names:
        purged, fault = _purge_one(work, name)
        files, freed = files + purged.files, freed + purged.bytes
        faults += [_say_where(fault, name)] if fault else []
    if faults:
        worst = min(faults, key=lambda fault: fault.retriable)
        return StepResult.failed(task_id, "Directory", worst, count=files, bytes=freed)
    if not names:
        return StepResult(task_id, "Directory", "Skipped", reasons.ABSENT)
    outcome: Outcome = "WouldDelete" if work.dry_run else "Deleted"
    return StepResult(task_id, "Directory", outcome, count=files, bytes=freed)


def _say_where(fault: Fault, name: str | Sibling) -> Fault:
    """What is left lies under another name than the task's; people have to find it."""
    if isinstance(name, str):
        return fault
    place = Sibling("deleting", name.owner, name.task_id).name
    return Fault(fault.kind, fault.reason, f"{fault.message}; the rest is in {place}")


def _purge_one(work: DirectoryWork, name: str | Sibling) -> tuple[Purged, Fault | None]:
    try:
        if work.dry_run:
            return work.root.measure(name, work.halt)
        assert isinstance(name, Sibling), "only what was moved aside is ever purged"
        return work.root.purge(work.root.begin_purge(name), work.halt)
    except Fault as fault:
        return Purged(0, 0), fault
