"""Uploads that were begun and never completed, against two real S3 servers."""

from minio.datatypes import Part

from taskdeletion.api import reasons
from tests.support.s3 import BODY, SEAWEEDFS, Guard, Store, purge, summary

pytest_plugins = ("tests.support.s3_fixtures",)


def test_uploads_never_completed_are_aborted_and_those_of_neighbours_stay(store: Store) -> None:
    store.begin_uploads("tasks/task_1/big", "tasks/task_1/big", "tasks/task_1/b/c", "tasks/task_10/big")
    backend = store.open()
    assert backend.has_rest("task_1")
    result = purge(backend)
    assert (result.outcome, result.count) == ("Deleted", 0)
    assert "3 uploads" in result.message
    assert store.uploads() == ["tasks/task_10/big"]
    assert not backend.has_rest("task_1")


def test_uploads_with_odd_names_are_aborted_exactly(store: Store) -> None:
    odd = ["x y", "x+y", "x%20y", "x%2By", "\u00e9", "<&>", "tab\t"]
    store.begin_uploads(*(f"tasks/task_1/{name}" for name in odd), "tasks/task_2/x y")
    result = purge(store.open())
    assert (result.outcome, result.message) == ("Deleted", "and 7 uploads that were never completed")
    assert len(store.uploads()) == 1


def test_uploads_behind_a_page_of_those_of_neighbours_are_found(store: Store) -> None:
    store.begin_uploads(*(f"tasks/task_0/{number}" for number in range(1100)))
    store.begin_uploads(*(f"tasks/task_1/{number}" for number in range(3)), "tasks/task_2/a")
    result = purge(store.open())
    assert (result.outcome, result.message) == ("Deleted", "and 3 uploads that were never completed")
    assert not store.open().has_rest("task_1")
    assert store.open().has_rest("task_0")
    assert store.open().has_rest("task_2")


def test_more_uploads_than_a_page_are_all_aborted(store: Store) -> None:
    store.begin_uploads(*(f"tasks/task_1/{number}" for number in range(1100)), "tasks/task_10/a")
    assert purge(store.open(), delete=False).message == "and 1100 uploads that were never completed"
    assert purge(store.open()).message == "and 1100 uploads that were never completed"
    assert store.uploads() == ["tasks/task_10/a"]


def test_an_upload_named_with_a_control_character_is_aborted_or_said_to_be_out_of_reach(store: Store) -> None:
    store.begin_uploads("tasks/task_1/a\x01", "tasks/task_1/b", "tasks/task_2/c\x01")
    result = purge(store.open())
    if store.server == SEAWEEDFS:  # it writes another character in its place, in both encodings
        assert (result.outcome, result.kind, result.reason) == ("Failed", "permanent", reasons.SERVER_ERROR)
        assert "1 names" in result.message
        assert len(store.uploads()) == 2
        assert store.open().has_rest("task_1")
    else:
        assert summary(result) == ("Deleted", "", 0, 0)
        assert result.message == "and 2 uploads that were never completed"
        assert len(store.uploads()) == 1


def test_uploads_beside_objects_are_aborted_and_counted_once(store: Store) -> None:
    store.fill("tasks/task_1/a", "tasks/task_10/a")
    store.begin_uploads("tasks/task_1/big", "tasks/task_10/big")
    backend = store.open()
    for delete in (False, True):
        result = purge(backend, delete=delete)
        assert (result.count, result.message) == (1, "and 1 uploads that were never completed")
    assert store.uploads() == ["tasks/task_10/big"]
    assert store.left() == ["tasks/task_10/a"]
    assert not backend.has_rest("task_1")


def test_an_upload_that_is_completed_during_the_purge_goes_as_an_object(store: Store) -> None:
    store.fill("tasks/task_1/a")
    name = "tasks/task_1/late"
    upload = store.client._create_multipart_upload(store.bucket, name, {})
    tag = store.client._upload_part(store.bucket, name, BODY, {}, upload, 1)

    def complete(number: int) -> None:
        if number == 1:
            store.client._complete_multipart_upload(store.bucket, name, upload, [Part(1, tag)])

    result = purge(store.open(), guard=Guard(act=complete))
    assert (result.outcome, result.count, result.message) == ("Deleted", 2, "")
    assert store.left() == []
