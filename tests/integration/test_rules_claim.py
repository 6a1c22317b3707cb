"""The rules of the claim, one by one: announce, confirm, undo.

Each test is a sequence that ends wrongly without its rule: the shortest counterexample of the protocol's model, played
on the real services in exactly that order. A process dies or the world changes at one call of the product.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.backends.postgres import claim as claim_module
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.objects import Cluster
from tests.support.harness import World, task_of
from tests.support.kube import Kube, condition
from tests.support.runs import (
    end_sessions,
    is_second_run,
    run_again,
    siblings_of,
    write_directory,
)
from tests.support.seams import crash, interpose, says_claimed, says_deleting


@pytest.fixture
def world(kube: Kube, request: pytest.FixtureRequest) -> Iterator[World]:
    found: Pipeline = request.getfixturevalue(getattr(request, "param", "pipeline"))
    with World(kube, found) as world:
        found.add_task("task_1")
        yield world


#: The rule is the same whatever keeps the tasks. What only a lock, or its absence, brings about is not.
both_catalogs = pytest.mark.parametrize("world", ["pipeline", "state_pipeline"], indirect=True, ids=["rows", "states"])


def lose_reply(connection: "psycopg.Connection[Any]") -> None:
    """The server has committed, and the connection ends before its answer arrives."""
    connection.close()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


# --- version_first: status holds the version before the first effect, and the claim accepts only that one -----------
@both_catalogs
def test_a_task_that_ran_again_after_the_announcement_is_refused_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", after=lambda *_: run_again(world.pipeline, "task_1"))
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert is_second_run(world.look())


@both_catalogs
def test_a_resumed_request_never_takes_a_newer_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_deleting)
    world.start().crash("a")
    run_again(world.pipeline, "task_1")
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert is_second_run(world.look())


def test_a_suspended_request_never_takes_a_newer_version(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_deleting)
    world.start().crash("a")
    world.change("a", suspend=True)
    process = world.start()
    process.reconcile("a")
    assert process.status("a")["phase"] == "Suspended"
    run_again(world.pipeline, "task_1")
    world.change("a", suspend=False)
    task = task_of(process.finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert is_second_run(world.look())


# --- confirm: what was renamed is purged only once a compare after the rename is confirmed in status ----------------
@both_catalogs
def test_a_rename_of_a_task_that_ran_again_after_a_crash_is_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    world.pipeline.begin_run("task_1")
    task = task_of(world.start().finish("a"))
    left = world.look()
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def test_a_rename_after_the_row_lock_was_lost_is_undone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")

    def lose_lock(*_: object) -> None:
        end_sessions(world.pipeline)
        run_again(world.pipeline, "task_1")

    interpose(monkeypatch, DirectoryRoot, "claim", before=lose_lock)
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert is_second_run(world.look())


@both_catalogs
def test_nothing_is_purged_before_status_says_claimed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", before=crash, when=says_claimed)
    world.start().crash("a")
    left = world.look()
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert (left.keys, left.objects, left.steps) == (2, 2, 2)
    process = world.start()
    assert not task_of(process.status("a")).get("claimed")
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert world.look().is_gone


def test_a_claim_whose_commit_reply_was_lost_is_compared_once_more_and_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, claim_module, "commit", after=lose_reply)
    status = world.start().finish("a")
    assert task_of(status)["state"] == "Deleted"
    assert status["attempts"] == 1
    assert world.look().is_gone


def test_a_claim_whose_commit_reply_was_lost_is_undone_where_the_task_ran_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")

    def lose_reply_and_run(connection: "psycopg.Connection[Any]") -> None:
        world.pipeline.begin_run("task_1")
        lose_reply(connection)

    interpose(monkeypatch, claim_module, "commit", after=lose_reply_and_run)
    task = task_of(world.start().finish("a"))
    left = world.look()
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def test_a_rename_that_cannot_be_compared_waits_for_the_catalog(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    away = Fault("waiting", reasons.UNAVAILABLE, "the catalog is away")

    def is_compare(*_: object) -> bool:
        return world.look().siblings == 1

    def be_away(*_: object) -> None:
        raise away

    interpose(monkeypatch, claim_module, "commit", after=lose_reply)
    interpose(monkeypatch, PostgresCatalog, "read", before=be_away, when=is_compare)
    process = world.start()
    process.reconcile("a")
    status, left = process.status("a"), world.look()
    assert (task_of(status)["state"], task_of(status)["reason"]) == ("Deleting", reasons.UNAVAILABLE)
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert (left.keys, left.objects) == (2, 2)
    assert task_of(process.finish("a"))["state"] == "Deleted"


# --- undo_reports: an undo never replaces a directory, and names both ------------------------------------------------
@both_catalogs
def test_an_undo_that_finds_a_directory_in_its_place_fails_and_touches_neither(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    world.pipeline.begin_run("task_1")
    write_directory(world.pipeline, "task_1")
    process = world.start()
    process.reconcile("a")
    task, left = task_of(process.status("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.RENAME_NOT_UNDONE)
    assert f"task_1 is there again, so .claimed-{uid}-task_1 was not moved back" in task["message"]
    assert (left.directory, left.keys, left.objects) == (5, 2, 2)
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert condition(process.status("a"), "Failed")["status"] == "True"


# --- undo_before_end: no request ends with a rename that nothing confirmed -------------------------------------------
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({"backoffLimit": 0}, reasons.BACKOFF_LIMIT_EXCEEDED, id="backoff-limit"),
        pytest.param({"activeDeadlineSeconds": 1}, reasons.DEADLINE_EXCEEDED, id="deadline"),
        pytest.param({}, reasons.STORE_REPLACED, id="store-replaced"),
    ],
)
def test_a_request_undoes_an_unconfirmed_rename_before_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], reason: str
) -> None:
    move_aside_without_lock(world, monkeypatch, **limits)
    if reason == reasons.STORE_REPLACED:
        world.kube.delete(world.pipeline.namespace, "default", "taskstores")
        world.kube.apply(world.pipeline.manifests())
    process = world.start()
    wait_until(lambda: is_past(process.status("a"), limits), what="the limit")
    status = process.finish("a")
    assert (task_of(status)["state"], task_of(status)["reason"]) == ("Failed", reason)
    assert is_second_run(world.look())


def test_a_request_does_not_end_while_its_unconfirmed_rename_cannot_be_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_aside_without_lock(world, monkeypatch, activeDeadlineSeconds=1)
    process, root = world.start(), world.pipeline.root
    wait_until(lambda: is_past(process.status("a"), {"activeDeadlineSeconds": 1}), what="the deadline")
    root.rename(root.with_name("away"))
    process.reconcile("a")
    status = process.status("a")
    assert "completionTime" not in status
    assert condition(status, "FailureTarget")["reason"] == reasons.DEADLINE_EXCEEDED
    root.with_name("away").rename(root)
    assert task_of(process.finish("a"))["reason"] == reasons.DEADLINE_EXCEEDED
    assert is_second_run(world.look())


def move_aside_without_lock(world: World, monkeypatch: pytest.MonkeyPatch, **limits: Any) -> None:
    """The row lock is lost, the task runs again, its new directory is moved aside, and the process dies."""
    world.request("a", **limits)

    def lose_lock(*_: object) -> None:
        end_sessions(world.pipeline)
        run_again(world.pipeline, "task_1")

    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", before=lose_lock, after=crash)
        world.start().crash("a")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 5}


def is_past(status: dict[str, Any], limits: dict[str, Any]) -> bool:
    """Whether the deadline among the limits is over, by the clock that the status was written with."""
    seconds = limits.get("activeDeadlineSeconds")
    if seconds is None:
        return True
    started = datetime.fromisoformat(status["startTime"])
    return datetime.now(UTC) > started + timedelta(seconds=seconds + 1)


# --- a rename that nothing confirmed is finished or undone before a request rests ------------------------------------
def test_a_request_is_not_suspended_with_an_unconfirmed_rename(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    world.change("a", suspend=True)
    interpose(monkeypatch, PostgresCatalog, "claim", before=raise_away)
    process = world.start()
    process.reconcile("a")
    assert (process.status("a")["phase"], task_of(process.status("a"))["state"]) != ("Suspended", "Pending")
    wait_until(lambda: process.reconcile("a") is None, what="the suspension")
    status = process.status("a")
    assert task_of(status)["state"] == "Deleted"
    assert world.look().is_gone


def test_nothing_more_is_claimed_once_a_suspension_was_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_2")
    before = world.look("task_2")
    world.kube.create_deletion(world.pipeline.namespace, "a", taskIds=["task_1", "task_2"], continueOnError=False)
    interpose(
        monkeypatch, Cluster, "write_status", before=lambda *_: world.change("a", suspend=True), when=says_claimed
    )
    process = world.start()
    process.reconcile("a")
    status = process.status("a")
    assert [task["state"] for task in status["tasks"]] == ["Deleted", "Pending"]
    assert status["phase"] == "Suspended"
    assert world.look("task_2") == before


def raise_away(*_: object, **__: object) -> None:
    """The catalog is away at this moment."""
    raise Fault("waiting", reasons.UNAVAILABLE, "the catalog is away")


def test_an_attempt_that_a_suspension_prevented_is_not_given_back_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", before=raise_busy)
        process.reconcile("a")
    assert process.status("a")["attempts"] == 1
    interpose(
        monkeypatch, Cluster, "write_status", before=lambda *_: world.change("a", suspend=True), when=says_deleting
    )
    process.reconcile("a")
    status = process.status("a")
    assert (status["phase"], status["attempts"]) == ("Suspended", 1)


def raise_busy(*_: object) -> None:
    """The file system is busy at this moment."""
    raise Fault("retriable", reasons.BUSY, "the directory is in use")
