"""Names of objects that are hard to carry, against two real S3 servers."""

import pytest
from minio.error import S3Error

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from tests.support.s3 import BODY, MINIO, SEAWEEDFS, Store, purge, summary

pytest_plugins = ("tests.support.s3_fixtures",)

NAMES = [
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
    "tab\tin",
    "line\nfeed",
    "carriage\rreturn",
    "delete\x7f",
    "next\x85line",
    "{taskId}",
    "*",
    "..x",
]
#: XML 1.0 cannot carry them.
CONTROL_NAMES = ["control\x01", "escape\x1b", "not a character\uffff"]


@pytest.mark.parametrize("is_versioned", [False, True], ids=["plain", "versioned"])
def test_odd_names_are_deleted_exactly(store: Store, is_versioned: bool) -> None:
    if is_versioned:
        store.enable_versions()
    store.fill(*(f"tasks/task_1/{name}" for name in NAMES))
    assert summary(purge(store.open(), delete=False)) == ("WouldDelete", "", len(NAMES), len(NAMES) * len(BODY))
    assert summary(purge(store.open())) == ("Deleted", "", len(NAMES), len(NAMES) * len(BODY))
    assert store.versions() == []


@pytest.mark.parametrize("name", NAMES + CONTROL_NAMES)
def test_an_odd_name_does_not_stand_for_its_look_alikes(store: Store, name: str) -> None:
    look_alikes = [f"tasks/task_2/{other}" for other in NAMES + CONTROL_NAMES]
    store.fill(f"tasks/task_1/{name}", *look_alikes)
    assert summary(purge(store.open())) == ("Deleted", "", 1, len(BODY))
    assert sorted(store.left()) == sorted(look_alikes)


def test_names_with_control_characters_are_deleted_exactly_or_said_to_be_out_of_reach(versioned: Store) -> None:
    versioned.fill(*(f"tasks/task_1/{name}" for name in CONTROL_NAMES), "tasks/task_1/plain")
    planned, done = purge(versioned.open(), delete=False), purge(versioned.open())
    if versioned.server == SEAWEEDFS:  # it lists versions under names with another character in its place
        assert summary(planned) == summary(done) == ("Failed", reasons.SERVER_ERROR, 1, len(BODY))
        assert (done.kind, "3 names" in done.message) == ("permanent", True)
        assert sorted(versioned.left()) == [f"tasks/task_1/{name}" for name in CONTROL_NAMES]
        assert versioned.open().has_rest("task_1")
    else:
        assert summary(done) == ("Deleted", "", 4, 4 * len(BODY))
        assert versioned.versions() == []


def test_a_name_with_a_backslash_goes_as_what_the_server_made_of_it(store: Store) -> None:
    store.fill("tasks/task_1/back\\slash", "tasks/task_2/back\\slash")
    made = "back/slash" if store.server == SEAWEEDFS else "back\\slash"
    assert store.left() == [f"tasks/task_1/{made}", f"tasks/task_2/{made}"]
    assert summary(purge(store.open())) == ("Deleted", "", 1, len(BODY))
    assert store.left() == [f"tasks/task_2/{made}"]


@pytest.mark.parametrize(("name", "made"), [("a//b", "a/b"), ("/a", "a")])
def test_a_name_with_empty_parts_goes_as_what_the_server_made_of_it(store: Store, name: str, made: str) -> None:
    if store.server == MINIO:
        with pytest.raises(S3Error, match="XMinioInvalidObjectName"):
            store.fill(f"tasks/task_1/{name}")
        return
    store.fill(f"tasks/task_1/{name}", f"tasks/task_2/{name}")
    assert store.left() == [f"tasks/task_1/{made}", f"tasks/task_2/{made}"]
    assert summary(purge(store.open())) == ("Deleted", "", 1, len(BODY))
    assert store.left() == [f"tasks/task_2/{made}"]


@pytest.mark.parametrize("is_versioned", [False, True], ids=["plain", "versioned"])
def test_a_folder_object_goes_with_the_size_that_the_server_lists(store: Store, is_versioned: bool) -> None:
    if is_versioned:
        store.enable_versions()
    store.fill("tasks/task_1/folder/", "tasks/task_1/folder/a", "tasks/task_2/folder/")
    listed = 0 if store.server == SEAWEEDFS else len(BODY)  # SeaweedFS lists folders as empty
    planned, done = purge(store.open(), delete=False), purge(store.open())
    assert summary(planned) == ("WouldDelete", "", 2, listed + len(BODY))
    assert summary(done) == ("Deleted", "", 2, listed + len(BODY))
    assert store.left() == ["tasks/task_2/folder/"]


@pytest.mark.parametrize("is_versioned", [False, True], ids=["plain", "versioned"])
def test_an_object_named_like_the_prefix_is_no_object_of_the_task(store: Store, is_versioned: bool) -> None:
    if is_versioned:
        store.enable_versions()
    store.fill("tasks/task_1/object-0")
    store.fill("tasks/task_1")
    result = purge(store.open(), "task_1")
    if store.server == SEAWEEDFS:
        assert summary(result) == ("Deleted", "", 1, len(BODY))
        assert store.left() == ["tasks/task_1"]
        assert not store.open().has_rest("task_1")
        assert purge(store.open()).outcome == "Skipped"
        return
    # MinIO lists nothing below such an object, although something is there: never to be taken for absence.
    assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.NOT_EMPTY)
    with pytest.raises(Fault, match="NotEmpty"):
        store.open().has_rest("task_1")
    for found in list(store.client.list_objects(store.bucket, "tasks/task_1", include_version=True)):
        store.client.remove_object(store.bucket, found.object_name or "", found.version_id)
    assert store.left() == ["tasks/task_1/object-0"]
    assert purge(store.open(), "task_1").count == 1
