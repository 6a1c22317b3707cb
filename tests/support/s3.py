"""A fresh bucket on an S3 server, the backend on it, and what the object tests say about a purge.

Used by the tests of the objects backend; their fixtures are in `s3_fixtures.py`.
"""

from __future__ import annotations

import io
import secrets
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from minio import Minio
from minio.commonconfig import ENABLED, SnowballObject
from minio.retention import Retention
from minio.versioningconfig import VersioningConfig

from taskdeletion.api import reasons
from taskdeletion.backends.objects import ObjectConnection, Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, StepResult, never_halt

PREFIXES = ("tasks/{taskId}/",)
BODY = b"12345"
MINIO, SEAWEEDFS = "minio", "seaweedfs"


class Server(Protocol):
    """Where an S3 server listens, and its administrator's keys."""

    @property
    def endpoint(self) -> str: ...

    @property
    def access_key(self) -> str: ...

    @property
    def secret_key(self) -> str: ...


@dataclass
class Store:
    """One fresh bucket of a server, and the backend on it."""

    server: str
    connection: ObjectConnection
    client: Minio
    bucket: str
    opened: list[Objects] = field(default_factory=list)

    def open(
        self,
        prefixes: Sequence[str] = PREFIXES,
        *,
        connection: ObjectConnection | None = None,
        bucket: str = "",
        **options: Any,
    ) -> Objects:
        self.opened.append(Objects(connection or self.connection, bucket or self.bucket, prefixes, **options))
        return self.opened[-1]

    def connect_as(self, **other: Any) -> ObjectConnection:
        return replace(self.connection, **other)

    def enable_versions(self) -> None:
        self.client.set_bucket_versioning(self.bucket, VersioningConfig(ENABLED))

    def fill(self, *names: str) -> None:
        for name in names:
            self.client._put_object(self.bucket, name, BODY, {})  # put_object refuses some names that S3 knows

    def fill_many(self, *names: str) -> None:
        """Like fill, quickly. MinIO unpacks an archive; in order, as versions of one name have to be."""
        if self.server == MINIO:
            archive = [SnowballObject(name, data=io.BytesIO(BODY), length=len(BODY)) for name in names]
            self.client.upload_snowball_objects(self.bucket, archive)
            return
        with ThreadPoolExecutor(32) as pool:
            list(pool.map(self.fill, names))

    def fill_locked(self, name: str, lock: str) -> str:
        """An object under a lock (a mode of retention, or "legal hold"); its version."""
        options: dict[str, Any] = {"legal_hold": True}
        if lock != "legal hold":
            options = {"retention": Retention(lock, datetime.now(UTC) + timedelta(days=1))}
        written = self.client.put_object(self.bucket, name, io.BytesIO(BODY), len(BODY), **options)
        assert written.version_id is not None
        return written.version_id

    def begin_uploads(self, *names: str) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self.client._create_multipart_upload(self.bucket, name, {}), names))

    def left(self) -> list[str]:
        return [found.object_name or "" for found in self.client.list_objects(self.bucket, recursive=True)]

    def versions(self) -> list[tuple[str, bool]]:
        listing = self.client.list_objects(self.bucket, recursive=True, include_version=True)
        return [(found.object_name or "", found.is_delete_marker) for found in listing]

    def uploads(self) -> list[str]:
        """Names of uploads as the server writes them: up to a page."""
        return sorted(upload.object_name for upload in self.client._list_multipart_uploads(self.bucket).uploads)


@contextmanager
def fresh_store(name: str, server: Server, *, object_lock: bool = False) -> Iterator[Store]:
    """A bucket of its own on a server."""
    connection = ObjectConnection(server.endpoint, server.access_key, server.secret_key)
    host = server.endpoint.removeprefix("http://")
    client = Minio(host, server.access_key, server.secret_key, secure=False, region="us-east-1")
    bucket = f"test-{secrets.token_hex(6)}"
    client.make_bucket(bucket, object_lock=object_lock)
    store = Store(name, connection, client, bucket)
    yield store
    for backend in store.opened:
        backend.close()


class Guard:
    """Remembers whom it was asked about; refuses from the nth question on; may act meanwhile."""

    def __init__(
        self,
        *,
        refuse_after: int | None = None,
        fault: Fault | None = None,
        act: Callable[[int], object] | None = None,
    ) -> None:
        self.questions: list[list[str]] = []
        self.refuse_after, self.fault, self.act = refuse_after, fault, act
        self.lock = threading.Lock()

    def __call__(self, task_ids: Collection[str]) -> Mapping[str, Fault]:
        with self.lock:
            self.questions.append(list(task_ids))
            if self.act is not None:
                self.act(len(self.questions))
            if self.fault is not None:
                raise self.fault
            if self.refuse_after is None or len(self.questions) <= self.refuse_after:
                return {}
        return {task_id: Fault("permanent", reasons.TASK_RESTARTED, "restarted") for task_id in task_ids}


def purge(
    backend: Objects,
    task_id: str = "task_1",
    *,
    delete: bool = True,
    guard: Guard | None = None,
    halt: Halt = never_halt,
) -> StepResult:
    """One purge, with a guard that lets everything pass unless one is given."""
    result = backend.purge(task_id, delete=delete, guard=guard or Guard(), halt=halt)
    assert (result.task_id, result.resource) == (task_id, "MinIO")
    return result


def summary(result: StepResult) -> tuple[str, str, int, int]:
    """What most tests compare."""
    return (result.outcome, result.reason, result.count, result.bytes)
