"""Deletes and looks in one bucket: the objects, versions, delete markers and unfinished uploads of a task.

Called by executors, in threads. It deletes what stands under the exact prefixes of a task that was named. It never
bypasses an object lock, never decides whether a task may go, and its messages hold no object names.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4
from xml.etree.ElementTree import ParseError

from minio.datatypes import Object, Upload
from minio.deleteobjects import DeleteError, DeleteObject
from minio.error import MinioException, S3Error
from urllib3.exceptions import (
    HTTPError,
)

from taskdeletion.api import reasons
from taskdeletion.backends.objects.connection import ObjectConnection, build_client, build_pool, require_bucket_name
from taskdeletion.backends.objects.faults import (
    CODES_OF_ABSENCE,
    CODES_OF_DENIAL,
    CODES_OF_MISSING_FEATURE,
    CODES_OF_REFUSAL,
    LOCK_MESSAGE,
    fault_of,
    fault_of_code,
)
from taskdeletion.backends.objects.purge import Batch, Purge
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.prefixes import build_nobodys_prefix, build_prefix, require_prefix_template
from taskdeletion.domain.results import Guard, Halt, Problem, StepResult

BATCH_SIZE = 500
MAX_PASSES = 5

#: What XML 1.0 carries unchanged. A carriage return would arrive as a line feed: as the name of another object.
_CARRIED_BY_XML = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


Answer = TypeVar("Answer")


class Objects:
    """The objects of the tasks of one store. Safe for many threads; they share `threads` that send batches."""

    def __init__(
        self,
        connection: ObjectConnection,
        bucket: str,
        prefixes: Sequence[str],
        *,
        timeout_seconds: float = 20.0,
        threads: int = 4,
    ) -> None:
        """Raises Fault (waiting) for an unusable Secret or bucket name, ValueError for an unsafe prefix."""
        self._templates = [require_prefix_template(template) for template in prefixes]
        self._bucket = require_bucket_name(bucket)
        self._pool = build_pool(connection, timeout_seconds=timeout_seconds, size=threads + 4)
        self._client = build_client(connection, self._pool)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="objects")
        self._threads = threads

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
        self._require_unhidden(task_id)
        versioned = self._is_versioned()
        return any(
            next(self._list(prefix, versioned=versioned), None) is not None or self._uploads(prefix)
            for prefix in self._prefixes(task_id)
        )

    def probe(self) -> Problem | None:
        """What stands in the way of a purge: reachable, authorised, bucket there, may list and delete.

        Deletes nothing: it names an object that cannot exist, and on a versioned bucket one version of it, because
        a delete without a version would write a delete marker.
        """
        try:
            versioned = self._is_versioned()
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

    def _try_out(self, prefix: str, *, versioned: bool) -> None:
        next(self._list(prefix, versioned=versioned), None)
        self._uploads(prefix)
        nobody = DeleteObject(f"{prefix}object", "null" if versioned else None)
        for error in self._delete_many([nobody]):
            if error.code not in CODES_OF_ABSENCE:
                raise fault_of_code(error.code)

    # --- a purge --------------------------------------------------------------------------------------------------

    def _repeat(self, purge: Purge) -> None:
        for _ in range(MAX_PASSES):
            purge.begin_pass()
            versioned = self._is_versioned()
            for prefix in self._prefixes(purge.task_id):
                self._purge_prefix(purge, prefix, versioned=versioned)
            if not purge.delete or not purge.has_found:
                self._require_unhidden(purge.task_id)
                return
        message = f"objects were still being written after {MAX_PASSES} passes"
        purge.fault = Fault("retriable", reasons.STILL_WRITTEN, message)

    def _require_unhidden(self, task_id: str) -> None:
        """An empty listing is no proof where an object has the prefix's own name without the slash.

        MinIO keeps objects as files: below an object of that name it lists nothing, although the objects are there.
        """
        for prefix in self._prefixes(task_id):
            name = prefix.rstrip("/")
            first = self._ask(next, self._client.list_objects(self._bucket, name, recursive=False), None)
            if first is not None and first.object_name == name:
                message = f"an object is named like prefix {name}/ without the slash, and may hide what lies below it"
                raise Fault("permanent", reasons.NOT_EMPTY, f"{message}; move it away, then try again")

    def _purge_prefix(self, purge: Purge, prefix: str, *, versioned: bool) -> None:
        pending: deque[Future[Batch]] = deque()
        try:
            for objects in _chunks(self._list(prefix, versioned=versioned), BATCH_SIZE):
                purge.check()
                pending.append(self._executor.submit(self._purge_batch, purge, objects))
                if len(pending) > self._threads:
                    purge.add(pending.popleft().result())
        finally:
            wait(pending)
            for future in pending:
                purge.add(future.result())
        purge.check()
        self._abort_uploads(purge, prefix)

    def _purge_batch(self, purge: Purge, objects: Sequence[Object]) -> Batch:
        """One batch, in a thread of the executor. A fault is part of what it returns: others are on their way."""
        batch = Batch(found=len(objects), count=len(objects), bytes=sum(_size(one) for one in objects))
        if not purge.delete:
            return batch
        try:
            purge.ask_guard()
        except Fault as fault:
            return Batch(found=len(objects), fault=fault)
        try:
            errors = self._delete(objects)
        except Fault as fault:
            return Batch(found=len(objects), fault=fault, unsure=True)
        return self._judge(batch, objects, errors) if errors else batch

    def _judge(self, batch: Batch, objects: Sequence[Object], errors: Sequence[DeleteError]) -> Batch:
        """Take the errors of single objects out of the counts, and say what they mean."""
        sizes = {(one.object_name, one.version_id): _size(one) for one in objects}
        batch.count -= len(errors)
        batch.bytes -= sum(sizes.get((error.name, error.version_id or None), 0) for error in errors)
        for (code, message), number in Counter((error.code, error.message) for error in errors).items():
            sample = next(error for error in errors if (error.code, error.message) == (code, message))
            if code in CODES_OF_ABSENCE:
                continue
            if code in CODES_OF_REFUSAL and self._is_locked(sample):
                batch.retained += number
            else:
                batch.fault = batch.fault or fault_of_code(code)
        return batch

    def _is_locked(self, refused: DeleteError) -> bool:
        """Whether a lock is why the server refused; where we may not look at the lock, its message tells."""
        name, version_id = refused.name or "", refused.version_id
        try:
            if self._ask(self._client.is_object_legal_hold_enabled, self._bucket, name, version_id):
                return True
            retention = self._ask(self._client.get_object_retention, self._bucket, name, version_id)
        except Fault:
            return LOCK_MESSAGE.search(refused.message or "") is not None
        return retention is not None and retention.retain_until_date > datetime.now(UTC)

    def _abort_uploads(self, purge: Purge, prefix: str) -> None:
        for upload in self._uploads(prefix):
            purge.check()
            if purge.delete:
                purge.ask_guard()
                self._abort_upload(upload)
            purge.uploads += 1

    # --- requests -------------------------------------------------------------------------------------------------

    def _ask(self, request: Callable[..., Answer], *arguments: Any) -> Answer:
        """Send one request; what goes wrong becomes a Fault."""
        try:
            return request(*arguments)
        except (MinioException, HTTPError, ParseError, ValueError) as error:
            raise fault_of(error) from error

    def _ask_or(
        self, default: Answer, codes: Collection[str], request: Callable[..., Answer], *arguments: Any
    ) -> Answer:
        """Like `_ask`, but `default` where the server answers with one of the error codes."""
        try:
            return self._ask(request, *arguments)
        except Fault as fault:
            if isinstance(fault.__cause__, S3Error) and fault.__cause__.code in codes:
                return default
            raise

    def _is_versioned(self) -> bool:
        """Whether old versions may exist. Where the server does not let us know, they may."""

        def has_status() -> bool:
            return bool(self._client.get_bucket_versioning(self._bucket).status)

        def is_known_or_denied() -> bool:
            return self._ask_or(True, CODES_OF_DENIAL, has_status)

        return self._ask_or(False, CODES_OF_MISSING_FEATURE, is_known_or_denied)

    def _list(self, prefix: str, *, versioned: bool) -> Iterator[Object]:
        """Everything under a prefix, page by page: objects, or all versions and delete markers."""
        listing = self._client.list_objects(self._bucket, prefix, recursive=True, include_version=versioned)
        while (found := self._ask(next, listing, None)) is not None:
            yield _require_under(prefix, found)

    def _delete(self, objects: Sequence[Object]) -> list[DeleteError]:
        """Delete exactly these objects or versions; the errors of single ones."""
        names = [DeleteObject(one.object_name or "", one.version_id) for one in objects]
        errors = self._delete_many([one for one in names if _CARRIED_BY_XML.fullmatch(one.name)])
        others = (one for one in names if not _CARRIED_BY_XML.fullmatch(one.name))
        return errors + [error for one in others if (error := self._delete_one(one)) is not None]

    def _delete_many(self, names: Sequence[DeleteObject]) -> list[DeleteError]:
        # remove_objects is lazy: without list() it would delete nothing (minio-py#1256).
        return self._ask(lambda: list(self._client.remove_objects(self._bucket, names)))

    def _delete_one(self, one: DeleteObject) -> DeleteError | None:
        try:
            self._ask(self._client.remove_object, self._bucket, one.name, one.version_id)
        except Fault as fault:
            if isinstance(fault.__cause__, S3Error):
                return DeleteError(fault.__cause__.code or "", fault.__cause__.message, one.name, one.version_id)
            raise
        return None

    def _uploads(self, prefix: str) -> list[Upload]:
        """A page of the uploads under a prefix that were begun and never completed."""
        found = self._list_uploads(prefix, tolerated=CODES_OF_MISSING_FEATURE)
        if found:
            return [one for one in found if one.object_name.startswith(prefix)]
        # MinIO lists uploads for a whole object name or a whole bucket only, and answers a prefix with nothing.
        found = self._list_uploads("", tolerated=CODES_OF_MISSING_FEATURE | CODES_OF_DENIAL)
        return [one for one in found if one.object_name.startswith(prefix)]

    def _list_uploads(self, prefix: str, *, tolerated: Collection[str]) -> list[Upload]:
        # The two methods for uploads are private in minio-py, and there are no public ones.
        def page() -> list[Upload]:
            return self._client._list_multipart_uploads(self._bucket, prefix=prefix).uploads

        return self._ask_or([], tolerated, page)

    def _abort_upload(self, upload: Upload) -> None:
        abort = self._client._abort_multipart_upload
        self._ask_or(None, CODES_OF_ABSENCE, abort, self._bucket, upload.object_name, upload.upload_id or "")


def _size(one: Object) -> int:
    return 0 if one.is_delete_marker else one.size or 0


def _chunks(objects: Iterator[Object], size: int) -> Iterator[list[Object]]:
    while chunk := list(islice(objects, size)):
        yield chunk


def _require_under(prefix: str, found: Object) -> Object:
    if not (found.object_name or "").startswith(prefix):
        message = "the server listed objects outside the prefix that was asked for; they are left alone"
        raise Fault("permanent", reasons.SERVER_ERROR, message)
    return found
