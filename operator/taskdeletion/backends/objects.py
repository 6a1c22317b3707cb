"""The objects of a task in a bucket of MinIO or another S3. The only file that imports minio and urllib3.

Called by executors, in threads. It deletes what stands under the exact prefixes of a task that was named: objects,
every version and delete marker of them, and uploads never completed. It never bypasses an object lock, never decides
whether a task may go, and its messages hold no object names.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import Object, Upload
from minio.deleteobjects import DeleteError, DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from minio.helpers import check_bucket_name
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome, Resource
from taskdeletion.backends.tls_files import build_ssl_context
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.prefixes import build_nobodys_prefix, build_prefix, require_prefix_template
from taskdeletion.domain.results import Guard, Halt, Problem, StepResult

RESOURCE: Resource = "MinIO"
BATCH_SIZE = 500
MAX_PASSES = 5
CONNECT_TIMEOUT_SECONDS = 5.0

#: What XML 1.0 carries unchanged. A carriage return would arrive as a line feed: as the name of another object.
_CARRIED_BY_XML = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ObjectConnection:
    """What a Secret says: `endpoint` (http(s)://host:port), keys, and PEM bytes for TLS."""

    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)


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
        self._bucket = _require_bucket_name(bucket)
        self._pool = _build_pool(connection, timeout_seconds=timeout_seconds, size=threads + 4)
        self._client = _build_client(connection, self._pool)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="objects")
        self._threads = threads

    def purge(self, task_id: str, *, delete: bool, guard: Guard, halt: Halt) -> StepResult:
        """Delete (or, without `delete`, count) all objects of one task, until a pass finds none.

        Deleted, WouldDelete, Skipped (Absent), Retained (object lock) or Failed; a failure keeps the counts of what
        went before. `guard` is asked directly before every batch, in several threads; `halt` between batches.
        """
        purge = _Purge(task_id, delete=delete, guard=guard, halt=halt)
        try:
            self._repeat(purge)
        except Fault as fault:
            purge.fault = purge.fault or fault
        return purge.result()

    def has_rest(self, task_id: str) -> bool:
        """Whether anything stands under the prefixes of a task, locked or not. Raises Fault."""
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
            if error.code not in _CODES_OF_ABSENCE:
                raise _fault_of_code(error.code)

    # --- a purge --------------------------------------------------------------------------------------------------

    def _repeat(self, purge: "_Purge") -> None:
        for _ in range(MAX_PASSES):
            purge.begin_pass()
            versioned = self._is_versioned()
            for prefix in self._prefixes(purge.task_id):
                self._purge_prefix(purge, prefix, versioned=versioned)
            if not purge.delete or not purge.has_found:
                return
        message = f"objects were still being written after {MAX_PASSES} passes"
        purge.fault = Fault("retriable", reasons.STILL_WRITTEN, message)

    def _purge_prefix(self, purge: "_Purge", prefix: str, *, versioned: bool) -> None:
        pending: deque[Future[_Batch]] = deque()
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

    def _purge_batch(self, purge: "_Purge", objects: Sequence[Object]) -> "_Batch":
        """One batch, in a thread of the executor. A fault is part of what it returns: others are on their way."""
        batch = _Batch(found=len(objects), count=len(objects), bytes=sum(_size(one) for one in objects))
        if not purge.delete:
            return batch
        try:
            purge.ask_guard()
        except Fault as fault:
            return _Batch(found=len(objects), fault=fault)
        try:
            errors = self._delete(objects)
        except Fault as fault:
            return _Batch(found=len(objects), fault=fault, unsure=True)
        return self._judge(batch, objects, errors) if errors else batch

    def _judge(self, batch: "_Batch", objects: Sequence[Object], errors: Sequence[DeleteError]) -> "_Batch":
        """Take the errors of single objects out of the counts, and say what they mean."""
        sizes = {(one.object_name, one.version_id): _size(one) for one in objects}
        batch.count -= len(errors)
        batch.bytes -= sum(sizes.get((error.name, error.version_id or None), 0) for error in errors)
        for (code, message), number in Counter((error.code, error.message) for error in errors).items():
            sample = next(error for error in errors if (error.code, error.message) == (code, message))
            if code in _CODES_OF_ABSENCE:
                continue
            if code in _CODES_OF_REFUSAL and self._is_locked(sample):
                batch.retained += number
            else:
                batch.fault = batch.fault or _fault_of_code(code)
        return batch

    def _is_locked(self, refused: DeleteError) -> bool:
        """Whether a lock is why the server refused; where we may not look at the lock, its message tells."""
        name, version_id = refused.name or "", refused.version_id
        try:
            if self._ask(self._client.is_object_legal_hold_enabled, self._bucket, name, version_id):
                return True
            retention = self._ask(self._client.get_object_retention, self._bucket, name, version_id)
        except Fault:
            return _LOCK_MESSAGE.search(refused.message or "") is not None
        return retention is not None and retention.retain_until_date > datetime.now(UTC)

    def _abort_uploads(self, purge: "_Purge", prefix: str) -> None:
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
            raise _fault_of(error) from error

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
            return self._ask_or(True, _CODES_OF_DENIAL, has_status)

        return self._ask_or(False, _CODES_OF_MISSING_FEATURE, is_known_or_denied)

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
        found = self._list_uploads(prefix, tolerated=_CODES_OF_MISSING_FEATURE)
        if found:
            return [one for one in found if one.object_name.startswith(prefix)]
        # MinIO lists uploads for a whole object name or a whole bucket only, and answers a prefix with nothing.
        found = self._list_uploads("", tolerated=_CODES_OF_MISSING_FEATURE | _CODES_OF_DENIAL)
        return [one for one in found if one.object_name.startswith(prefix)]

    def _list_uploads(self, prefix: str, *, tolerated: Collection[str]) -> list[Upload]:
        # The two methods for uploads are private in minio-py, and there are no public ones.
        def page() -> list[Upload]:
            return self._client._list_multipart_uploads(self._bucket, prefix=prefix).uploads

        return self._ask_or([], tolerated, page)

    def _abort_upload(self, upload: Upload) -> None:
        abort = self._client._abort_multipart_upload
        self._ask_or(None, _CODES_OF_ABSENCE, abort, self._bucket, upload.object_name, upload.upload_id or "")


@dataclass
class _Batch:
    """What became of one batch."""

    found: int
    count: int = 0
    bytes: int = 0
    retained: int = 0
    fault: Fault | None = None
    unsure: bool = False  # sent, and the reply not seen


class _Purge:
    """The state of one purge. Written by its own thread only; threads that send batches read `fault`."""

    def __init__(self, task_id: str, *, delete: bool, guard: Guard, halt: Halt) -> None:
        self.task_id = task_id
        self.delete = delete
        self.fault: Fault | None = None
        self.uploads = 0
        self._guard = guard
        self._halt = halt
        self._count = 0
        self._bytes = 0
        self._unsure = False
        self.begin_pass()

    def begin_pass(self) -> None:
        """Begin to look at everything once."""
        self._retained = 0
        self._found = 0
        self._uploads_before = self.uploads

    @property
    def has_found(self) -> bool:
        """Whether this pass saw anything besides what is locked."""
        return self._found > self._retained or self.uploads > self._uploads_before

    def check(self) -> None:
        """Raise the fault to stop with, if there is one."""
        fault = self.fault or self._halt()
        if fault is not None:
            raise fault

    def ask_guard(self) -> None:
        """Raise Fault where the task must not be touched any more."""
        fault = self.fault or self._guard([self.task_id]).get(self.task_id)
        if fault is not None:
            raise fault

    def add(self, batch: _Batch) -> None:
        """Take a batch into account. The first fault stays."""
        self._found += batch.found
        self._count += batch.count
        self._bytes += batch.bytes
        self._retained += batch.retained
        self._unsure |= batch.unsure
        self.fault = self.fault or batch.fault

    def result(self) -> StepResult:
        """What became of the task."""
        if self.fault is not None:
            result = StepResult.failed(self.task_id, RESOURCE, self.fault)
        elif self._retained:
            result = StepResult(self.task_id, RESOURCE, "Retained", reasons.OBJECT_LOCKED, self._lock_message())
        elif not self._count and not self.uploads:
            return StepResult(self.task_id, RESOURCE, "Skipped", reasons.ABSENT)
        else:
            outcome: Outcome = "Deleted" if self.delete else "WouldDelete"
            result = StepResult(self.task_id, RESOURCE, outcome, message=self._uploads_message())
        return result.with_counts(count=self._count, bytes=self._bytes, at_least=self._unsure)

    def _lock_message(self) -> str:
        return f"{self._retained} object versions are under retention or legal hold and stay until that ends"

    def _uploads_message(self) -> str:
        return f"and {self.uploads} uploads that were never completed" if self.uploads else ""


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


# --- connecting ---------------------------------------------------------------------------------------------------


def _invalid(message: str) -> Fault:
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, message)


def _require_bucket_name(bucket: str) -> str:
    try:
        check_bucket_name(bucket)
    except ValueError:
        raise Fault("waiting", reasons.STORE_INVALID, "spec.objectStore.bucket is not a bucket name") from None
    return bucket


def _parse_endpoint(endpoint: str) -> tuple[str, bool]:
    """`host[:port]` and whether it speaks TLS; Fault, without the endpoint in it, for anything but an origin."""
    try:
        parts = urlsplit(endpoint.strip())
        host, port = parts.hostname or "", parts.port
        host.encode("idna")
    except ValueError:
        raise _invalid("endpoint cannot be parsed; it is http(s)://host:port") from None
    if parts.scheme not in ("http", "https") or not host:
        raise _invalid("endpoint is not http(s)://host:port")
    if "@" in endpoint or "?" in endpoint or "#" in endpoint or parts.path not in ("", "/"):
        raise _invalid("endpoint holds more than http(s)://host:port; remove user, path and parameters")
    host = f"[{host}]" if ":" in host else host
    return (f"{host}:{port}" if port else host), parts.scheme == "https"


def _build_pool(connection: ObjectConnection, *, timeout_seconds: float, size: int) -> urllib3.PoolManager:
    """Connections with real timeouts and few retries, of POST too: every request here may be repeated.

    Redirects are not followed (the Secret names one host), and Retry-After is not obeyed: MinIO asks for minutes.
    """
    retries = Retry(
        total=2,
        read=1,
        redirect=0,
        backoff_factor=0.2,
        status_forcelist=[500, 502, 503, 504],
        allowed_methods=None,
        raise_on_status=False,
        raise_on_redirect=False,
        respect_retry_after_header=False,
    )
    timeout = Timeout(connect=min(CONNECT_TIMEOUT_SECONDS, timeout_seconds), read=timeout_seconds)
    _, secure = _parse_endpoint(connection.endpoint)
    if not secure:
        return urllib3.PoolManager(maxsize=size, retries=retries, timeout=timeout)
    context = build_ssl_context(ca=connection.ca, cert=connection.cert, key=connection.key)
    return urllib3.PoolManager(maxsize=size, retries=retries, timeout=timeout, ssl_context=context)


def _build_client(connection: ObjectConnection, pool: urllib3.PoolManager) -> Minio:
    host, secure = _parse_endpoint(connection.endpoint)
    secrets = (connection.access_key, connection.secret_key, connection.session_token or "-")
    if any(not value or not value.isprintable() or value != value.strip() for value in secrets):
        raise _invalid("accessKey, secretKey or sessionToken is empty or holds a line break or outer white space")
    try:
        return Minio(
            host,
            connection.access_key,
            connection.secret_key,
            connection.session_token or None,
            secure=secure,
            region=connection.region or None,
            http_client=pool,
        )
    except ValueError:
        raise _invalid("endpoint or region is not one of an S3 server") from None


# --- errors -------------------------------------------------------------------------------------------------------

_CODES_OF_ABSENCE = frozenset({"NoSuchKey", "NoSuchVersion", "NoSuchUpload"})
_CODES_OF_MISSING_FEATURE = frozenset({"NotImplemented", "MethodNotAllowed"})
_CODES_OF_DENIAL = frozenset({"AccessDenied", "AllAccessDisabled"})
#: Of a single object, where a lock may be the reason: AWS says AccessDenied, MinIO InvalidRequest.
_CODES_OF_REFUSAL = _CODES_OF_DENIAL | {"InvalidRequest", "ObjectLocked", "MethodNotAllowed"}
_LOCK_MESSAGE = re.compile(r"\bWORM\b|object lock|legal hold|retention", re.IGNORECASE)
_CODES_OF_AUTHENTICATION = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "InvalidTokenId",
        "TokenRefreshRequired",
    }
)
_CODES_OF_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "PermanentRedirect", "Redirect", "TemporaryRedirect", "InvalidRegion"}
)
_PLAIN_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")


def _fault_of(error: Exception) -> Fault:
    if isinstance(error, S3Error):
        return _fault_of_code(error.code)
    if isinstance(error, HTTPError):
        return _fault_of_transport(error)
    if isinstance(error, InvalidResponseError | ServerError):
        return _fault_of_status(int(getattr(error, "_code", 0) or getattr(error, "status_code", 0)))
    message = "the object store gave an answer that cannot be read"
    if isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        message = "the object store holds or sent something that cannot be worked with: an answer, or an object's name"
    return Fault("retriable", reasons.SERVER_ERROR, message)


def _fault_of_code(code: str | None) -> Fault:
    """The fault for an error code of S3. Only the code is repeated: messages may hold names of objects."""
    code = code or ""
    if code == "NoSuchBucket":
        return Fault("waiting", reasons.BUCKET_MISSING, "the bucket does not exist")
    if code in _CODES_OF_AUTHENTICATION:
        message = f"the object store refused the keys of the Secret ({code})"
        return Fault("waiting", reasons.AUTHENTICATION_FAILED, message)
    if code in _CODES_OF_DENIAL:
        return Fault(
            "permanent",
            reasons.PERMISSION_DENIED,
            "the access key lacks a permission: it needs to list the bucket, its versions and its multipart uploads,"
            " and to delete objects, versions and uploads",
        )
    if code == "RequestTimeTooSkewed":
        message = "the clocks of the operator and the object store differ by more than 15 minutes"
        return Fault("waiting", reasons.CLOCK_SKEW, message)
    if code in _CODES_OF_WRONG_REGION:
        return _invalid(f"endpoint or region is wrong for this bucket ({code})")
    shown = code if _PLAIN_CODE.fullmatch(code) else "an error"
    return Fault("retriable", reasons.SERVER_ERROR, f"the object store answered {shown}")


def _fault_of_status(status: int) -> Fault:
    if status >= 500:
        return Fault("retriable", reasons.SERVER_ERROR, f"the object store answered with HTTP status {status}")
    return Fault("waiting", reasons.UNAVAILABLE, f"what answers at endpoint is no S3 server (HTTP status {status})")


def _fault_of_transport(error: HTTPError) -> Fault:
    cause: object = error.reason if isinstance(error, MaxRetryError) else error
    if isinstance(cause, SSLError):
        return Fault("waiting", reasons.TLS_FAILED, f"the TLS connection to the object store failed{_why(cause)}")
    if isinstance(cause, ReadTimeoutError):
        return Fault("retriable", reasons.TIMEOUT, "the object store did not answer in time")
    if isinstance(cause, NewConnectionError | ConnectTimeoutError):
        return Fault("waiting", reasons.UNAVAILABLE, "the object store cannot be reached")
    return Fault("waiting", reasons.UNAVAILABLE, "the connection to the object store broke")


def _why(error: SSLError) -> str:
    cause: Any = error.args[0] if error.args else None
    why = getattr(cause, "verify_message", "") or getattr(cause, "reason", "")
    return f": {why}" if why else ""
