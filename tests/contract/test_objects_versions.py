"""Versions, delete markers and object locks, against two real S3 servers."""

import pytest
from minio.commonconfig import COMPLIANCE, GOVERNANCE
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.versioningconfig import SUSPENDED, VersioningConfig

from taskdeletion.api import reasons
from tests.support.s3 import BODY, Guard, Store, purge, summary

pytest_plugins = ("tests.support.s3_fixtures",)

LOCKS = [GOVERNANCE, COMPLIANCE, "legal hold"]


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


def test_more_versions_than_a_listing_page_are_counted_exactly_dry_and_deleted(versioned: Store) -> None:
    names = [f"tasks/task_1/{number}" for number in range(600)]
    versioned.fill_many(*names)
    versioned.fill_many(*names, "tasks/task_10/a")
    backend = versioned.open()
    assert summary(purge(backend, delete=False)) == ("WouldDelete", "", 1200, 1200 * len(BODY))
    assert summary(purge(backend)) == ("Deleted", "", 1200, 1200 * len(BODY))
    assert versioned.versions() == [("tasks/task_10/a", False)]


@pytest.mark.parametrize("lock", LOCKS)
def test_locked_versions_are_retained_and_the_others_go(locked: Store, lock: str) -> None:
    locked.fill("tasks/task_1/free", "tasks/task_1/also free")
    for name in ("tasks/task_1/kept", "tasks/task_1/kept too"):
        locked.fill_locked(name, lock)
    backend = locked.open()
    result = purge(backend)
    assert summary(result) == ("Retained", reasons.OBJECT_LOCKED, 2, 2 * len(BODY))
    assert "2 object versions" in result.message
    assert "kept" not in result.message
    assert sorted(locked.versions()) == [("tasks/task_1/kept", False), ("tasks/task_1/kept too", False)]
    assert backend.has_rest("task_1")
    assert summary(purge(backend)) == ("Retained", reasons.OBJECT_LOCKED, 0, 0)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_dry_run_leaves_out_what_a_lock_would_keep(locked: Store, lock: str) -> None:
    locked.fill("tasks/task_1/free", "tasks/task_1/free", "tasks/task_1/gone")
    locked.client.remove_object(locked.bucket, "tasks/task_1/gone")
    locked.fill_locked("tasks/task_1/kept", lock)
    backend = locked.open()
    planned = purge(backend, delete=False)
    assert summary(planned) == ("Retained", reasons.OBJECT_LOCKED, 4, 3 * len(BODY))
    assert summary(purge(backend)) == summary(planned)
    assert locked.versions() == [("tasks/task_1/kept", False)]


def test_a_version_whose_lock_has_been_lifted_goes(locked: Store) -> None:
    name = "tasks/task_1/a"
    version = locked.fill_locked(name, "legal hold")
    backend = locked.open()
    assert purge(backend).outcome == "Retained"
    locked.client.disable_object_legal_hold(locked.bucket, name, version)
    assert summary(purge(backend)) == ("Deleted", "", 1, len(BODY))


@pytest.mark.parametrize("lock", LOCKS)
def test_the_tests_own_client_cannot_delete_what_is_locked_either(locked: Store, lock: str) -> None:
    """The locks of these tests are real ones: both servers refuse their own administrator, too."""
    name = "tasks/task_1/a"
    version = locked.fill_locked(name, lock)
    errors = list(locked.client.remove_objects(locked.bucket, [DeleteObject(name, version)]))
    assert [error.name for error in errors] == [name]
    with pytest.raises(S3Error):
        locked.client.remove_object(locked.bucket, name, version)
