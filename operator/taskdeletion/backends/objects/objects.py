"""Deletes, counts and looks: the objects, versions, delete markers and unfinished uploads of a task in one bucket.

Called by executors, in threads. It deletes what stands under the exact prefixes of a task that was named. It never
decides whether a task may go, and its messages hold no object names.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from uuid import uuid4

from taskdeletion.api import reasons
from taskdeletion.backends.objects.batches import Refusal
from taskdeletion.backends.objects.bucket import Bucket
from taskdeletion.backends.objects.connection import ObjectConnection, build_client, build_pool, require_bucket_name
from taskdeletion.backends.objects.faults import CODES_OF_ABSENCE, CODES_OF_REFUSAL, LOCK_MESSAGE, fault_of_code
from taskdeletion.backends.objects.listing import Listed, Page
from taskdeletion.backends.objects.purge import Batch, Purge
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.prefixes import build_nobodys_prefix, build_prefix, require_prefix_template
from taskdeletion.domain.results import Guard, Halt, Problem, StepResult

#: Divides a page of a listing. The server works through a batch one by one: smaller ones keep more of it busy.
BATCH_SIZE = 250
MAX_PASSES = 5


class Objects:
    """The objects of the tasks of one store. Safe for many threads; they share `threads` that send batches."""

    def __init__(
        self,
        connection: ObjectConnection,
        bucket: str,
        prefixes: Sequence[str],
        *,
        timeout_seconds: float = 20.0,
        threads: int = 8,
        callers: int = 4,
        slots: AbstractContextManager[object] | None = None,
    ) -> None:
        """Raises Fault (waiting) for an unusable Secret or bucket name, ValueError for an unsafe prefix.

        `callers`: threads that list at the same time. `slots`: taken by each batch while it is on its way; shared by
        all stores, it bounds them together.
        """
        self._templates = [require_prefix_template(template) for template in prefixes]
        name = require_bucket_name(bucket)
        self._pool = build_pool(connection, timeout_seconds=timeout_seconds, size=threads + callers)
        self._bucket = Bucket(build_client(connection, self._pool), name)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="objects")
        self._threads = threads
        self._slots = slots if slots is not None else nullcontext()

    def purge(self, task_id: str, *, delete: bool, guard: Guard, halt: Halt) -> StepResult:
        """Delete (or, without `delete`, count) all objects of one task, until a pass finds none.

        Deleted, WouldDelete, Skipped (Absent), Retained (object lock) or Failed; a failure keeps the counts of what
        went before. `guard` is asked directly before every batch, in several threads; `halt` between batches.
        """
        purge = Purge(task_id, delete=delete, guard=guard, halt=halt)
        try:
            self._repeat(purge)
        except Fault as fault:
            purge.fault = purge.fault or fault
        return purge.result()

    def has_rest(self, task_id: str) -> bool:
        """Whether anything stands under the prefixes of a task, locked or not. Raises Fault."""
        versioned = self._bucket.is_versioned()
        self._require_unhidden(task_id, versioned=versioned)
        return any(self._has_any(prefix, versioned=versioned) for prefix in self._prefixes(task_id))

    def probe(self) -> Problem | None:
        """What stands in the way of a purge: reachable, authorised, bucket there, may list and delete.

        Deletes nothing: it names an object that cannot exist, and on a versioned bucket one version of it, because
        a delete without a version would write a delete marker.
        """
        try:
            versioned = self._bucket.is_versioned()
            for template in self._templates:
                self._try_out(build_nobodys_prefix(template, uuid4().hex), versioned=versioned)
        except Fault as fault:
            return Problem(fault.reason, fault.message)
        return None

    def close(self) -> None:
        """Wait for batches on their way, then close all connections."""
        self._executor.shutdown()
        self._pool.clear()

    def _prefixes(self, task_id: str) -> list[str]:
        """The exact prefixes of a task, without those inside another one: their objects would count twice."""
        prefixes = sorted({build_prefix(template, task_id) for template in self._templates})
        return [one for one in prefixes if not any(one != other and one.startswith(other) for other in prefixes)]

    def _has_any(self, prefix: str, *, versioned: bool) -> bool:
        if any(page.objects or page.unnamed for page in self._bucket.pages(prefix, versioned=versioned)):
            return True
        return any(page.uploads or page.unnamed for page in self._bucket.uploads(prefix))

    def _try_out(self, prefix: str, *, versioned: bool) -> None:
        self._has_any(prefix, versioned=versioned)
        nobody = Listed(f"{prefix}object", "null" if versioned else None, size=0, is_marker=False)
        for refusal in self._bucket.delete([nobody]):
            if refusal.code not in CODES_OF_ABSENCE:
                raise fault_of_code(refusal.code)

    def _require_unhidden(self, task_id: str, *, versioned: bool) -> None:
        """An empty listing is no proof where an object has the prefix's own name without the slash, and hides it."""
        for prefix in self._prefixes(task_id):
            if self._bucket.is_hidden_below(prefix.rstrip("/"), versioned=versioned):
                message = f"an object is named like prefix {prefix} without the slash, and may hide what lies below it"
                raise Fault("permanent", reasons.NOT_EMPTY, f"{message}; move it away, then try again")

    # --- a purge ------------------------------------------------------------------------------------------------------

    def _repeat(self, purge: Purge) -> None:
        for number in range(MAX_PASSES):
            purge.begin_pass()
            versioned = self._bucket.is_versioned()
            purge.looks_at_locks = versioned and not purge.delete and self._bucket.has_locks()
            for prefix in self._prefixes(purge.task_id):
                self._look_once(purge, prefix, versioned=versioned, is_first=number == 0)
            if not purge.delete or not purge.has_found:
                self._require_unhidden(purge.task_id, versioned=versioned)
                return
        message = f"objects were still being written after {MAX_PASSES} passes"
        purge.fault = Fault("retriable", reasons.STILL_WRITTEN, message)

    def _look_once(self, purge: Purge, prefix: str, *, versioned: bool, is_first: bool) -> None:
        """Purge what one pass finds. Uploads before objects, so that one completed meanwhile is found as one.

        The first pass leaves them to the next one where there has to be one, and looks for them last where not.
        """
        if not is_first:
            self._abort_uploads(purge, prefix)
        self._purge_prefix(purge, prefix, versioned=versioned)
        if is_first and not (purge.delete and purge.has_found):
            self._abort_uploads(purge, prefix)

    def _purge_prefix(self, purge: Purge, prefix: str, *, versioned: bool) -> None:
        """While batches are on their way, the next page is listed; never more of them than threads wait beside."""
        pending: deque[Future[Batch]] = deque()
        try:
            for page in self._bucket.pages(prefix, versioned=versioned):
                purge.unnamed += page.unnamed
                for objects in _batches(page):
                    purge.check()
                    pending.append(self._executor.submit(self._purge_batch, purge, objects))
                    if len(pending) > 2 * self._threads:
                        purge.add(pending.popleft().result())
        finally:
            wait(pending)
            for future in pending:
                purge.add(future.result())
        purge.check()

    def _abort_uploads(self, purge: Purge, prefix: str) -> None:
        for page in self._bucket.uploads(prefix):
            purge.unnamed += len(page.unnamed)
            for upload in page.uploads:
                purge.check()
                if purge.delete:
                    purge.ask_guard()
                    self._bucket.abort(upload)
                purge.uploads += 1

    def _purge_batch(self, purge: Purge, objects: Sequence[Listed]) -> Batch:
        """One batch, in a thread of the executor. A fault is part of what it returns: others are on their way."""
        batch = Batch(found=len(objects), count=len(objects), bytes=sum(one.size for one in objects))
        if not purge.delete:
            if purge.looks_at_locks:
                self._leave_out_locked(batch, objects)
            return batch
        with self._slots:  # first: the guard is asked directly before the batch goes
            try:
                purge.ask_guard()
            except Fault as fault:
                return Batch(found=len(objects), fault=fault)
            try:
                refusals = self._bucket.delete(objects)
            except Fault as fault:
                return Batch(found=len(objects), fault=fault, unsure=True)
        if refusals:
            self._judge(batch, objects, refusals)
        return batch

    def _leave_out_locked(self, batch: Batch, objects: Sequence[Listed]) -> None:
        """Take what a lock would keep out of the counts of a dry run. Delete markers are never locked."""
        for one in objects:
            is_locked = None if one.is_marker else self._bucket.is_locked(one.name, one.version_id)
            if is_locked:
                batch.leave_out(one.size)
                batch.retained += 1
            batch.unseen += is_locked is None and not one.is_marker

    def _judge(self, batch: Batch, objects: Sequence[Listed], refusals: Sequence[Refusal]) -> None:
        """Take what was refused out of the counts, and say what that means."""
        sizes = {(one.name, one.version_id): one.size for one in objects}
        for refusal in refusals:
            size = sizes.pop((refusal.name, refusal.version_id), None)
            if size is None:  # of the whole batch, or nothing that was asked for: how much went is not known
                batch.count, batch.bytes, batch.unsure = 0, 0, True
                batch.fault = batch.fault or fault_of_code(refusal.code)
                return
            batch.leave_out(size)
            if refusal.code in CODES_OF_REFUSAL and self._is_lock(refusal):
                batch.retained += 1
            elif refusal.code not in CODES_OF_ABSENCE:
                batch.fault = batch.fault or fault_of_code(refusal.code)

    def _is_lock(self, refusal: Refusal) -> bool:
        """Whether a lock is why the server refused; where we may not look at the lock, its message tells."""
        is_locked = self._bucket.is_locked(refusal.name, refusal.version_id)
        return LOCK_MESSAGE.search(refusal.message) is not None if is_locked is None else is_locked


def _batches(page: Page) -> Iterator[Sequence[Listed]]:
    for start in range(0, len(page.objects), BATCH_SIZE):
        yield page.objects[start : start + BATCH_SIZE]
