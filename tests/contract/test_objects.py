"""The objects backend against a real MinIO: what goes, what stays, and what is said when something is in the way."""

import io
import secrets
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from minio import Minio
from minio.commonconfig import COMPLIANCE, ENABLED, GOVERNANCE, SnowballObject
from minio.credentials.providers import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.minioadmin import MinioAdmin
from minio.retention import Retention
from minio.versioningconfig import SUSPENDED, VersioningConfig

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.objects import BATCH_SIZE, MAX_PASSES, ObjectConnection, Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, StepResult, never_halt

PREFIXES = ("tasks/{taskId}/",)
BODY = b"12345"


@dataclass
class Store:
    """One fresh bucket of the server, and the backend on it."""

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

    def fill(self, *names: str) -> None:
        for name in names:
            self.client._put_object(self.bucket, name, BODY, {})  # put_object refuses some names that S3 knows

    def fill_many(self, *names: str) -> None:
        """Like fill, in one request: MinIO unpacks an archive."""
        archive = [SnowballObject(name, data=io.BytesIO(BODY), length=len(BODY)) for name in names]
        self.client.upload_snowball_objects(self.bucket, archive)

    def left(self) -> list[str]:
        return [found.object_name or "" for found in self.client.list_objects(self.bucket, recursive=True)]

    def versions(self) -> list[tuple[str, bool]]:
        listing = self.client.list_objects(self.bucket, recursive=True, include_version=True)
        return [(found.object_name or "", found.is_delete_marker) for found in listing]

    def uploads(self) -> list[str]:
        return [upload.object_name for upload in self.client._list_multipart_uploads(self.bucket).uploads]


def make_store(stack: Stack, *, object_lock: bool = False) -> Iterator[Store]:
    connection = ObjectConnection(stack.minio.endpoint, stack.minio.access_key, stack.minio.secret_key)
    host = stack.minio.endpoint.removeprefix("http://")
    client = Minio(host, stack.minio.access_key, stack.minio.secret_key, secure=False, region="us-east-1")
    bucket = f"test-{secrets.token_hex(6)}"
    client.make_bucket(bucket, object_lock=object_lock)
    store = Store(connection, client, bucket)
    yield store
    for backend in store.opened:
        backend.close()


@pytest.fixture
def store(stack: Stack) -> Iterator[Store]:
    yield from make_store(stack)


@pytest.fixture
def versioned(store: Store) -> Store:
    store.client.set_bucket_versioning(store.bucket, VersioningConfig(ENABLED))
    return store


@pytest.fixture
def locked(stack: Stack) -> Iterator[Store]:
    yield from make_store(stack, object_lock=True)


@pytest.fixture
def limited(store: Store) -> Iterator["Limited"]:
    """A user of the server with a policy of the test's choice."""
    host = store.connection.endpoint.removeprefix("http://")
    provider = StaticProvider(store.connection.access_key, store.connection.secret_key)
    name = f"user-{secrets.token_hex(4)}"
    limited = Limited(store, MinioAdmin(endpoint=host, credentials=provider, secure=False), name)
    limited.admin.user_add(name, "long-enough")
    yield limited
    limited.admin.user_remove(name)


@dataclass
class Limited:
    store: Store
    admin: MinioAdmin
    name: str

    def allow(self, *actions: str, prefix: str = "*") -> ObjectConnection:
        resources = [f"arn:aws:s3:::{self.store.bucket}", f"arn:aws:s3:::{self.store.bucket}/{prefix}"]
        statement = {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": resources}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.admin.policy_add(self.name, policy=policy)
        self.admin.attach_policy([self.name], user=self.name)
        return self.store.connect_as(access_key=self.name, secret_key="long-enough")


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
    result = backend.purge(task_id, delete=delete, guard=guard or Guard(), halt=halt)
    assert (result.task_id, result.resource) == (task_id, "MinIO")
    return result


def summary(result: StepResult) -> tuple[str, str, int, int]:
    return (result.outcome, result.reason, result.count, result.bytes)


def test_all_objects_of_a_task_go_and_the_neighbours_stay(store: Store) -> None:
    neighbours = [
        "tasks/task_1",
        "tasks/task_1.x/a",
        "tasks/task_10/a",
        "tasks/task_1x",
        "task_1/a",
        "x/tasks/task_1/a",
    ]
    store.fill("tasks/task_1/a", "tasks/task_1/b/c/d", "tasks/task_1/b/", *neighbours[1:])
    assert summary(purge(store.open())) == ("Deleted", "", 3, 3 * len(BODY))
    assert store.left() == sorted(neighbours[1:])


def test_a_second_purge_finds_nothing_and_says_absent(store: Store) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open()
    assert backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))
    assert not backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Skipped", reasons.ABSENT, 0, 0)


def test_all_prefixes_of_a_task_count_each_object_once(store: Store) -> None:
    store.fill("task_1/a", "task_1/logs/b", "logs/task_1/c", "logs/task_2/c")
    backend = store.open(["{taskId}/", "{taskId}/logs/", "logs/{taskId}/"])
    assert summary(purge(backend, delete=False))[2] == 3
    assert summary(purge(backend))[2] == 3
    assert store.left() == ["logs/task_2/c"]


def test_more_objects_than_a_listing_page_all_go(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(2500)), "tasks/task_10/a")
    backend = store.open()
    assert summary(purge(backend, delete=False)) == ("WouldDelete", "", 2500, 2500 * len(BODY))
    assert summary(purge(backend)) == ("Deleted", "", 2500, 2500 * len(BODY))
    assert store.left() == ["tasks/task_10/a"]


def test_a_dry_run_counts_and_removes_nothing(versioned: Store) -> None:
    versioned.fill("tasks/task_1/a", "tasks/task_1/a", "tasks/task_1/b")
    versioned.client.remove_object(versioned.bucket, "tasks/task_1/b")
    versioned.client._create_multipart_upload(versioned.bucket, "tasks/task_1/big", {})
    before = versioned.versions()
    guard = Guard()
    assert summary(purge(versioned.open(), delete=False, guard=guard)) == ("WouldDelete", "", 4, 3 * len(BODY))
    assert versioned.versions() == before
    assert versioned.uploads() == ["tasks/task_1/big"]
    assert guard.questions == []


ODD_NAMES = [
    "a b",
    "a+b",
    "a%20b",
    "a%2Fb",
    " lead",
    "trail ",
    "d\u00e9j\u00e0 \u2603 \U0001f600",
    "e\u0301",
    "\u00e9",
    "<&>\"'",
    "?q=1&versionId=2#x",
    "back\\slash",
    "tab\tin",
    "line\nfeed",
    "carriage\rreturn",
    "control\x01",
    "escape\x1b",
    "delete\x7f",
    "next\x85line",
    "not a character\uffff",
    "{taskId}",
    "*",
    "..x",
    "folder/",
]


@pytest.mark.parametrize("versioning", [None, ENABLED], ids=["plain", "versioned"])
def test_odd_names_are_deleted_exactly(store: Store, versioning: str | None) -> None:
    if versioning:
        store.client.set_bucket_versioning(store.bucket, VersioningConfig(versioning))
    store.fill(*(f"tasks/task_1/{name}" for name in ODD_NAMES))
    assert summary(purge(store.open())) == ("Deleted", "", len(ODD_NAMES), len(ODD_NAMES) * len(BODY))
    assert store.versions() == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_name_does_not_stand_for_its_look_alikes(store: Store, name: str) -> None:
    look_alikes = [f"tasks/task_2/{other}" for other in ODD_NAMES]
    store.fill(f"tasks/task_1/{name}", *look_alikes)
    assert summary(purge(store.open())) == ("Deleted", "", 1, len(BODY))
    assert sorted(store.left()) == sorted(look_alikes)


def test_every_version_and_every_delete_marker_goes(versioned: Store) -> None:
    versioned.fill("tasks/task_1/a", "tasks/task_1/a", "tasks/task_1/b", "tasks/task_2/a")
    versioned.client.remove_object(versioned.bucket, "tasks/task_1/b")
    assert summary(purge(versioned.open())) == ("Deleted", "", 4, 3 * len(BODY))
    assert versioned.versions() == [("tasks/task_2/a", False)]


def test_a_task_of_which_only_a_marker_is_left_is_not_absent(versioned: Store) -> None:
    versioned.fill("tasks/task_1/a")
    (found,) = versioned.client.list_objects(versioned.bucket, recursive=True, include_version=True)
    versioned.client.remove_object(versioned.bucket, "tasks/task_1/a")
    versioned.client.remove_object(versioned.bucket, "tasks/task_1/a", found.version_id)
    assert versioned.versions() == [("tasks/task_1/a", True)]
    backend = versioned.open()
    assert backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Deleted", "", 1, 0)
    assert versioned.versions() == []


def test_old_versions_go_where_versioning_is_suspended(versioned: Store) -> None:
    versioned.fill("tasks/task_1/a", "tasks/task_1/a")
    versioned.client.set_bucket_versioning(versioned.bucket, VersioningConfig(SUSPENDED))
    versioned.fill("tasks/task_1/a")
    assert summary(purge(versioned.open())) == ("Deleted", "", 3, 3 * len(BODY))
    assert versioned.versions() == []


def test_many_versions_of_one_object_all_go(versioned: Store) -> None:
    versioned.fill_many(*["tasks/task_1/a"] * 1100, "tasks/task_10/a")
    assert summary(purge(versioned.open())) == ("Deleted", "", 1100, 1100 * len(BODY))
    assert versioned.versions() == [("tasks/task_10/a", False)]


@pytest.mark.parametrize("lock", [GOVERNANCE, COMPLIANCE, "legal hold"])
def test_locked_versions_are_retained_and_the_others_go(locked: Store, lock: str) -> None:
    locked.fill("tasks/task_1/free", "tasks/task_1/also free")
    options: dict[str, Any] = {"legal_hold": True}
    if lock != "legal hold":
        options = {"retention": Retention(lock, datetime.now(UTC) + timedelta(days=1))}
    for name in ("tasks/task_1/kept", "tasks/task_1/kept too"):
        locked.client.put_object(locked.bucket, name, io.BytesIO(BODY), len(BODY), **options)
    backend = locked.open()
    result = purge(backend)
    assert summary(result) == ("Retained", reasons.OBJECT_LOCKED, 2, 2 * len(BODY))
    assert "2 object versions" in result.message
    assert "kept" not in result.message
    assert sorted(locked.versions()) == [("tasks/task_1/kept", False), ("tasks/task_1/kept too", False)]
    assert backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Retained", reasons.OBJECT_LOCKED, 0, 0)


def test_a_version_whose_lock_has_been_lifted_goes(locked: Store) -> None:
    name = "tasks/task_1/a"
    locked.client.put_object(locked.bucket, name, io.BytesIO(BODY), len(BODY), legal_hold=True)
    backend = locked.open()
    assert purge(backend).outcome == "Retained"
    locked.client.disable_object_legal_hold(locked.bucket, name)
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


def test_uploads_never_completed_are_aborted_and_those_of_neighbours_stay(store: Store) -> None:
    for name in ("tasks/task_1/big", "tasks/task_1/big", "tasks/task_1/x y", "tasks/task_10/big"):
        store.client._create_multipart_upload(store.bucket, name, {})
    backend = store.open()
    assert backend.has_rest("task_1")
    result = purge(backend)
    assert (result.outcome, result.count) == ("Deleted", 0)
    assert "3 uploads" in result.message
    assert store.uploads() == ["tasks/task_10/big"]
    assert not backend.has_rest("task_1")


def test_a_guard_that_refuses_mid_way_keeps_the_rest(store: Store) -> None:
    total = 4 * BATCH_SIZE
    store.fill_many(*(f"tasks/task_1/{number:05}" for number in range(total)))
    result = purge(store.open(threads=1), guard=Guard(refuse_after=1))
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.TASK_RESTARTED, "permanent")
    assert (result.count, result.bytes) == (BATCH_SIZE, BATCH_SIZE * len(BODY))
    assert len(store.left()) == total - BATCH_SIZE
    assert not result.at_least


def test_a_guard_that_refuses_at_once_keeps_everything(store: Store) -> None:
    store.fill("tasks/task_1/a")
    store.client._create_multipart_upload(store.bucket, "tasks/task_1/big", {})
    result = purge(store.open(), guard=Guard(refuse_after=0))
    assert summary(result) == ("Failed", reasons.TASK_RESTARTED, 0, 0)
    assert store.left() == ["tasks/task_1/a"]
    assert store.uploads() == ["tasks/task_1/big"]


def test_the_guard_is_asked_before_every_batch(store: Store) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(2 * BATCH_SIZE + 1)))
    guard = Guard()
    purge(store.open(), guard=guard)
    assert guard.questions == [["task_1"]] * 3


def test_a_guard_that_cannot_tell_stops_the_purge(store: Store) -> None:
    store.fill("tasks/task_1/a")
    guard = Guard(fault=Fault("waiting", reasons.UNAVAILABLE, "the catalog is away"))
    result = purge(store.open(), guard=guard)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.UNAVAILABLE, "waiting")
    assert store.left() == ["tasks/task_1/a"]


def test_a_guard_that_breaks_is_not_taken_for_a_failure_of_the_store(store: Store) -> None:
    store.fill("tasks/task_1/a")

    def explode(_: int) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        purge(store.open(), guard=Guard(act=explode))
    assert store.left() == ["tasks/task_1/a"]


def test_a_halt_stops_between_batches_and_keeps_the_counts(store: Store) -> None:
    total = 6 * BATCH_SIZE
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(total)))
    guard = Guard()
    halted = Fault("retriable", reasons.INTERRUPTED, "the operator is shutting down")
    result = purge(store.open(threads=1), guard=guard, halt=lambda: halted if guard.questions else None)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.INTERRUPTED, "retriable")
    assert 0 < result.count < total
    assert len(store.left()) == total - result.count


def test_objects_written_during_the_purge_go_too(store: Store) -> None:
    store.fill("tasks/task_1/a")
    guard = Guard(act=lambda question: store.fill("tasks/task_1/late") if question == 1 else None)
    assert summary(purge(store.open(), guard=guard)) == ("Deleted", "", 2, 2 * len(BODY))
    assert store.left() == []


def test_a_task_that_never_stops_writing_is_reported(store: Store) -> None:
    store.fill("tasks/task_1/0")
    guard = Guard(act=lambda question: store.fill(f"tasks/task_1/{question}"))
    result = purge(store.open(), guard=guard)
    assert (result.outcome, result.reason, result.kind) == ("Failed", reasons.STILL_WRITTEN, "retriable")
    assert result.count == MAX_PASSES


def test_several_tasks_are_purged_side_by_side(store: Store) -> None:
    store.fill_many(*(f"tasks/t{task}/{number}" for task in range(4) for number in range(50 + task)))
    backend = store.open(threads=2)
    counts = {}

    def work(task_id: str) -> None:
        counts[task_id] = purge(backend, task_id).count

    threads = [threading.Thread(target=work, args=(f"t{task}",)) for task in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {f"t{task}": 50 + task for task in range(4)}
    assert store.left() == []


@pytest.mark.parametrize("task_id", ["*", "", "..", "task_1/../task_2", "task_"])
def test_what_is_no_task_id_or_no_task_deletes_nothing(store: Store, task_id: str) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open()
    if task_id == "task_":
        assert purge(backend, task_id).outcome == "Skipped"
    else:
        with pytest.raises(ValueError, match="not a task id"):
            purge(backend, task_id)
    assert store.left() == ["tasks/task_1/a"]


# --- in the way ---------------------------------------------------------------------------------------------------


def assert_refused(backend: Objects, kind: str, reason: str) -> StepResult:
    """The three ways in agree on what is in the way."""
    result = purge(backend)
    assert (result.outcome, result.kind, result.reason, result.count) == ("Failed", kind, reason, 0)
    with pytest.raises(Fault) as caught:
        backend.has_rest("task_1")
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    problem = backend.probe()
    assert problem is not None
    assert problem.reason == reason
    return result


@pytest.mark.parametrize("versioning", [None, ENABLED, SUSPENDED], ids=["plain", "versioned", "suspended"])
def test_a_healthy_server_passes_the_probe_which_leaves_no_trace(store: Store, versioning: str | None) -> None:
    if versioning:
        store.client.set_bucket_versioning(store.bucket, VersioningConfig(versioning))
    store.fill("tasks/task_1/a")
    assert store.open().probe() is None
    assert store.versions() == [("tasks/task_1/a", False)]


def test_a_stopped_server_is_unavailable_and_works_again_once_it_is_back(store: Store, stack: Stack) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open()
    assert backend.probe() is None
    stack.stop_service("minio")
    try:
        result = assert_refused(backend, "waiting", reasons.UNAVAILABLE)
        assert stack.minio.secret_key not in result.message
    finally:
        stack.start_service("minio")
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


def test_a_server_that_goes_away_mid_way_leaves_counts_marked_uncertain(store: Store, stack: Stack) -> None:
    store.fill_many(*(f"tasks/task_1/{number}" for number in range(3 * BATCH_SIZE)))
    guard = Guard(act=lambda question: stack.stop_service("minio") if question == 2 else None)
    try:
        result = purge(store.open(threads=1), guard=guard)
    finally:
        stack.start_service("minio")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "waiting", reasons.UNAVAILABLE)
    assert result.count == BATCH_SIZE
    assert result.at_least


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://no-such-host.invalid:9000"])
def test_an_unreachable_endpoint_is_unavailable(store: Store, endpoint: str) -> None:
    backend = store.open(connection=store.connect_as(endpoint=endpoint), timeout_seconds=2)
    assert_refused(backend, "waiting", reasons.UNAVAILABLE)


def test_a_server_that_never_answers_is_a_timeout(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connection = store.connect_as(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert_refused(store.open(connection=connection, timeout_seconds=0.2), "retriable", reasons.TIMEOUT)


@pytest.mark.parametrize("wrong", ["access_key", "secret_key"])
def test_wrong_keys_are_an_authentication_failure(store: Store, wrong: str) -> None:
    backend = store.open(connection=store.connect_as(**{wrong: "wrong-but-long"}))
    result = assert_refused(backend, "waiting", reasons.AUTHENTICATION_FAILED)
    assert "wrong-but-long" not in result.message


def test_a_bucket_that_is_not_there_is_named_as_missing(store: Store) -> None:
    assert_refused(store.open(bucket="no-such-bucket"), "waiting", reasons.BUCKET_MISSING)


def test_tls_to_a_server_that_speaks_plainly_fails(store: Store) -> None:
    endpoint = store.connection.endpoint.replace("http://", "https://")
    assert_refused(store.open(connection=store.connect_as(endpoint=endpoint)), "waiting", reasons.TLS_FAILED)


LISTING = ("GetBucketLocation", "GetBucketVersioning", "ListBucket", "ListBucketMultipartUploads")
ALL = (*LISTING, "DeleteObject", "AbortMultipartUpload")


def test_the_permissions_of_an_unversioned_bucket_suffice(store: Store, limited: "Limited") -> None:
    store.fill("tasks/task_1/a")
    backend = store.open(connection=limited.allow(*ALL, prefix="tasks/*"))
    assert backend.probe() is None
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


@pytest.mark.parametrize("missing", ["ListBucket", "DeleteObject"])
def test_a_missing_permission_is_reported(store: Store, limited: "Limited", missing: str) -> None:
    store.fill("tasks/task_1/a")
    backend = store.open(connection=limited.allow(*(set(ALL) - {missing})))
    result = purge(backend)
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.PERMISSION_DENIED)
    assert (result.count, result.bytes) == (0, 0)
    problem = backend.probe()
    assert problem is not None
    assert problem.reason == reasons.PERMISSION_DENIED
    assert store.left() == ["tasks/task_1/a"]


def test_objects_that_may_not_be_deleted_are_not_called_locked(locked: Store, limited: "Limited") -> None:
    limited.store = locked
    locked.fill("tasks/task_1/a")
    result = purge(locked.open(connection=limited.allow(*LISTING, "ListBucketVersions", "GetObjectRetention")))
    assert (result.outcome, result.reason) == ("Failed", reasons.PERMISSION_DENIED)


def test_some_objects_without_permission_leave_honest_counts(store: Store, limited: "Limited") -> None:
    store.fill("tasks/task_1/mine/a", "tasks/task_1/mine/b", "tasks/task_1/theirs/a")
    connection = limited.allow(*LISTING)
    statement = [
        {
            "Effect": "Allow",
            "Action": ["s3:*"],
            "Resource": [f"arn:aws:s3:::{store.bucket}", f"arn:aws:s3:::{store.bucket}/*"],
        },
        {
            "Effect": "Deny",
            "Action": ["s3:DeleteObject"],
            "Resource": [f"arn:aws:s3:::{store.bucket}/tasks/task_1/theirs/*"],
        },
    ]
    limited.admin.policy_add(limited.name, policy={"Version": "2012-10-17", "Statement": statement})
    result = purge(store.open(connection=connection))
    assert (result.outcome, result.reason) == ("Failed", reasons.PERMISSION_DENIED)
    assert (result.count, result.bytes) == (2, 2 * len(BODY))
    assert store.left() == ["tasks/task_1/theirs/a"]


def test_the_tests_own_client_cannot_delete_what_is_locked_either(locked: Store) -> None:
    """The lock of these tests is a real one: MinIO refuses its root user, too."""
    name = "tasks/task_1/a"
    kept = locked.client.put_object(locked.bucket, name, io.BytesIO(BODY), len(BODY), legal_hold=True)
    errors = list(locked.client.remove_objects(locked.bucket, [DeleteObject(name, kept.version_id)]))
    assert [error.name for error in errors] == [name]
    with pytest.raises(S3Error):
        locked.client.remove_object(locked.bucket, name, kept.version_id)


def test_an_object_that_may_hide_those_below_it_is_never_taken_for_absence(store: Store) -> None:
    store.fill("tasks/task_1/object-0")
    store.fill("tasks/task_1")
    result = purge(store.open(), "task_1")
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", "NotEmpty")
    with pytest.raises(Fault, match="NotEmpty"):
        store.open().has_rest("task_1")
    store.client.remove_object(store.bucket, "tasks/task_1")
    assert store.left() == ["tasks/task_1/object-0"]
    assert purge(store.open(), "task_1").count == 1
