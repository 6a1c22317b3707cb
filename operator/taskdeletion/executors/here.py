"""Runs the purge of a set of tasks here, in threads: directories, Redis keys and objects side by side.

Called by the workflow with tasks whose claim is confirmed. One resource failing never stops the others. The directories
of all tasks are one piece of work (`executors.directories`), which takes the threads that it needs.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from taskdeletion.api import reasons
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Guard, Halt, StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.directories import DirectoryWork, start_directories
from taskdeletion.executors.store import OpenStore

Results = Sequence[StepResult]
_ABANDONED = Fault("waiting", reasons.INTERRUPTED, "the attempt was given up; work goes on with the next one")


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
        directories = DirectoryWork(work.store.directory, work.task_ids, work.is_adoptable, work.halt, work.dry_run)
        yield from start_directories(directories, connections.pools.directories)
    if connections.redis is not None:
        yield connections.pools.keys.submit(_sweep, work)
    if connections.objects is not None:
        for task_id in work.task_ids:
            yield connections.pools.objects.submit(_purge_objects, work, connections.objects, task_id)


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
