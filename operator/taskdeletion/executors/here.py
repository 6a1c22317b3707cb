"""Runs the purge of a set of tasks here, in threads: directories, Redis keys and objects side by side.

Called by the workflow with tasks whose claim is confirmed. One resource failing never stops the others.
"""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Guard, Halt, StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.store import OpenStore

Results = Sequence[StepResult]
_ABANDONED = Fault("waiting", reasons.INTERRUPTED, "the attempt was given up; work goes on with the next one")
_OTHERS = Fault("waiting", reasons.CLAIMED_BY_OTHER, "another request still holds a sibling of the directory")


@dataclass(frozen=True, slots=True)
class PurgeWork:
    """What is to go. `is_adoptable` says of a sibling in the root whether this request may finish it."""

    store: OpenStore
    task_ids: Sequence[str]
    is_adoptable: Callable[[Sibling], bool]
    guard: Guard
    halt: Halt
    dry_run: bool


def purge(work: PurgeWork, *, tick_seconds: float, on_tick: Callable[[], None]) -> Iterator[Results]:
    """Purge (dry run: count) everything; yields results as they come, several at a time.

    `on_tick` is called about every `tick_seconds` while the work goes on, for progress. Whatever it raises: when this
    has ended, nothing goes on.
    """
    abandoned = threading.Event()
    pending = set(_start(replace(work, halt=lambda: _ABANDONED if abandoned.is_set() else work.halt())))
    due = time.monotonic() + tick_seconds
    try:
        while pending:
            done, pending = wait(pending, timeout=max(due - time.monotonic(), 0.0), return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            if pending and time.monotonic() >= due:
                on_tick()
                due = time.monotonic() + tick_seconds
    finally:  # a request could end, and its tasks pass to another, beside work that nobody waits for
        abandoned.set()
        wait([future for future in pending if not future.cancel()])


def _start(work: PurgeWork) -> Iterator[Future[Results]]:
    connections = work.store.connections
    if work.store.directory is not None:
        yield from _start_directories(work, work.store.directory)
    if connections.redis is not None:
        yield connections.pools.keys.submit(_sweep, work)
    if connections.objects is not None:
        for task_id in work.task_ids:
            yield connections.pools.objects.submit(_purge_objects, work, connections.objects, task_id)


def _start_directories(work: PurgeWork, root: DirectoryRoot) -> Iterator[Future[Results]]:
    pool = work.store.connections.pools.directories
    try:
        found = root.look(work.task_ids)
    except Fault as fault:
        yield pool.submit(_fail_all, work.task_ids, fault)
        return
    for task_id in work.task_ids:
        siblings = [sibling for sibling in found[task_id].siblings if work.is_adoptable(sibling)]
        if len(siblings) < len(found[task_id].siblings):  # never Absent: something of the task is there
            yield pool.submit(_fail_all, [task_id], _OTHERS)
            continue
        names: list[str | Sibling] = [*siblings]
        if work.dry_run:
            names += [task_id] * found[task_id].directory
        yield pool.submit(_purge_directory, work, root, task_id, names)


def _fail_all(task_ids: Collection[str], fault: Fault) -> Results:
    return [StepResult.failed(task_id, "Directory", fault) for task_id in task_ids]


def _purge_directory(work: PurgeWork, root: DirectoryRoot, task_id: str, names: Sequence[str | Sibling]) -> Results:
    files, freed, faults = 0, 0, []
    for name in names:
        purged, fault = _purge_one(work, root, name)
        files, freed = files + purged.files, freed + purged.bytes
        faults += [_say_where(fault, name)] if fault else []
    if faults:
        worst = min(faults, key=lambda fault: fault.retriable)
        return [StepResult.failed(task_id, "Directory", worst, count=files, bytes=freed)]
    if not names:
        return [StepResult(task_id, "Directory", "Skipped", reasons.ABSENT)]
    outcome: Outcome = "WouldDelete" if work.dry_run else "Deleted"
    return [StepResult(task_id, "Directory", outcome, count=files, bytes=freed)]


def _say_where(fault: Fault, name: str | Sibling) -> Fault:
    """What is left lies under another name than the task's; people have to find it."""
    if isinstance(name, str):
        return fault
    place = Sibling("deleting", name.owner, name.task_id).name
    return Fault(fault.kind, fault.reason, f"{fault.message}; the rest is in {place}")


def _purge_one(work: PurgeWork, root: DirectoryRoot, name: str | Sibling) -> tuple[Purged, Fault | None]:
    try:
        if work.dry_run:
            return root.measure(name, work.halt)
        assert isinstance(name, Sibling), "only what was moved aside is ever purged"
        return root.purge(root.begin_purge(name), work.halt)
    except Fault as fault:
        return Purged(0, 0), fault


def _sweep(work: PurgeWork) -> Results:
    connections = work.store.connections
    assert connections.redis is not None
    assert connections.sweep is not None
    try:
        if work.dry_run:
            found = connections.redis.sweep(work.task_ids, delete=False, guard=work.guard, halt=work.halt)
        else:
            found = connections.sweep.sweep(work.task_ids, guard=work.guard, halt=work.halt)
    except Fault as fault:
        return [StepResult.failed(task_id, "Redis", fault) for task_id in work.task_ids]
    return list(found.values())


def _purge_objects(work: PurgeWork, objects: Objects, task_id: str) -> Results:
    try:
        return [objects.purge(task_id, delete=not work.dry_run, guard=work.guard, halt=work.halt)]
    except Fault as fault:
        return [StepResult.failed(task_id, "MinIO", fault)]
