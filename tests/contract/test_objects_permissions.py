"""What the access key may and may not do, against a real MinIO: only its policies can be set from here."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from minio.credentials.providers import StaticProvider
from minio.minioadmin import MinioAdmin

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.objects import ObjectConnection
from tests.support.s3 import BODY, MINIO, Store, fresh_store, purge, summary

pytest_plugins = ("tests.support.s3_fixtures",)

LISTING = ("GetBucketLocation", "GetBucketVersioning", "ListBucket", "ListBucketMultipartUploads")
ALL = (*LISTING, "DeleteObject", "AbortMultipartUpload")


@pytest.fixture
def locked_on_minio(stack: Stack) -> Iterator[Store]:
    with fresh_store(MINIO, stack.minio, object_lock=True) as found:
        yield found


@pytest.fixture
def limited(on_minio: Store) -> Iterator["Limited"]:
    """A user of the server with a policy of the test's choice."""
    store = on_minio
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


def test_the_permissions_of_an_unversioned_bucket_suffice(on_minio: Store, limited: "Limited") -> None:
    on_minio.fill("tasks/task_1/a")
    backend = on_minio.open(connection=limited.allow(*ALL, prefix="tasks/*"))
    assert backend.probe() is None
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


@pytest.mark.parametrize("missing", ["ListBucket", "DeleteObject"])
def test_a_missing_permission_is_reported(on_minio: Store, limited: "Limited", missing: str) -> None:
    on_minio.fill("tasks/task_1/a")
    backend = on_minio.open(connection=limited.allow(*(set(ALL) - {missing})))
    result = purge(backend)
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.PERMISSION_DENIED)
    assert (result.count, result.bytes) == (0, 0)
    problem = backend.probe()
    assert problem is not None
    assert problem.reason == reasons.PERMISSION_DENIED
    assert on_minio.left() == ["tasks/task_1/a"]


def test_objects_that_may_not_be_deleted_are_not_called_locked(locked_on_minio: Store, limited: "Limited") -> None:
    limited.store = locked_on_minio
    locked_on_minio.fill("tasks/task_1/a")
    result = purge(locked_on_minio.open(connection=limited.allow(*LISTING, "ListBucketVersions", "GetObjectRetention")))
    assert (result.outcome, result.reason) == ("Failed", reasons.PERMISSION_DENIED)


def test_some_objects_without_permission_leave_honest_counts(on_minio: Store, limited: "Limited") -> None:
    on_minio.fill("tasks/task_1/mine/a", "tasks/task_1/mine/b", "tasks/task_1/theirs/a")
    connection = limited.allow(*LISTING)
    statement = [
        {
            "Effect": "Allow",
            "Action": ["s3:*"],
            "Resource": [f"arn:aws:s3:::{on_minio.bucket}", f"arn:aws:s3:::{on_minio.bucket}/*"],
        },
        {
            "Effect": "Deny",
            "Action": ["s3:DeleteObject"],
            "Resource": [f"arn:aws:s3:::{on_minio.bucket}/tasks/task_1/theirs/*"],
        },
    ]
    limited.admin.policy_add(limited.name, policy={"Version": "2012-10-17", "Statement": statement})
    result = purge(on_minio.open(connection=connection))
    assert (result.outcome, result.reason) == ("Failed", reasons.PERMISSION_DENIED)
    assert (result.count, result.bytes) == (2, 2 * len(BODY))
    assert on_minio.left() == ["tasks/task_1/theirs/a"]


def test_a_dry_run_that_may_not_see_locks_says_so(locked_on_minio: Store, limited: "Limited") -> None:
    limited.store = locked_on_minio
    locked_on_minio.fill("tasks/task_1/free")
    locked_on_minio.fill_locked("tasks/task_1/kept", "legal hold")
    result = purge(locked_on_minio.open(connection=limited.allow(*LISTING, "ListBucketVersions")), delete=False)
    assert summary(result) == ("WouldDelete", "", 2, 2 * len(BODY))
    assert "locks of 2 versions" in result.message
