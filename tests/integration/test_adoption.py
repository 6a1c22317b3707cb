"""Siblings of other requests: finished for whoever names the task next, once their own request is done with it.

`Deleted` is never said while anybody's sibling of the task is there; a namesake of a request inherits nothing.
"""

from collections.abc import Iterator

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.objects import Cluster
from tests.support.harness import Harness, World, states_of, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import siblings_of
from tests.support.seams import crash, failing, interpose, of_task, says_claimed
from tests.support.stopping import stop_purges

BUSY = Fault("retriable", reasons.BUSY, "a file is in use")
DENIED = Fault("permanent", reasons.PERMISSION_DENIED, "a folder may not be changed")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        for task_id in ("task_1", "task_2"):
            pipeline.add_task(task_id)
        yield found


def leave_half_of_task_1(world: World, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> Harness:
    """A live request that left a part of task_1 for `fault`, and has something left to do for task_2."""
    world.request("a", "task_1", "task_2")
    process = world.start()
    with monkeypatch.context() as moment:
        stop_purges(moment, fault, task_id="task_1")
        interpose(moment, Objects, "purge", before=failing(BUSY), when=of_task("task_2"))
        process.reconcile("a")
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 2}
    return process


# --- of a request that is live --------------------------------------------------------------------------------------
@pytest.mark.parametrize("is_restarted", [pytest.param(False, id="same-process"), pytest.param(True, id="restarted")])
def test_a_sibling_is_adopted_once_its_live_request_is_done_with_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch, is_restarted: bool
) -> None:
    process = leave_half_of_task_1(world, monkeypatch, DENIED)
    assert states_of(process.status("a")) == ["PartiallyFailed", "Deleting"]
    process = world.start() if is_restarted else process
    world.request("b")
    task = task_of(process.finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 2)
    left = world.look()
    assert left.is_gone
    assert left.row is not None
    assert left.row["directory_exists"] is False
    assert states_of(process.finish("a")) == ["PartiallyFailed", "Deleted"]


def test_a_sibling_is_left_alone_while_its_live_request_still_works_on_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = leave_half_of_task_1(world, monkeypatch, BUSY)
    assert states_of(process.status("a")) == ["Deleting", "Deleting"]
    world.request("b")
    process.reconcile("b")
    task = task_of(process.status("b"))
    assert (task["state"], task["reason"]) == ("Pending", reasons.CLAIMED_BY_OTHER)
    assert condition(process.status("b"), "Reconciling")["reason"] == reasons.CLAIMED_BY_OTHER
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 2}
    assert states_of(process.finish("a")) == ["Deleted", "Deleted"]
    assert task_of(process.finish("b"))["state"] == "Deleted"
    assert world.look().is_gone


def test_a_task_is_not_deleted_while_a_sibling_of_it_is_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    foreign = world.pipeline.root / ".deleting-00000000-0000-4000-8000-000000000000-task_1"
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, Objects, "purge", before=lambda *_, **__: foreign.mkdir())
        process.reconcile("a")
    task = task_of(process.status("a"))
    assert (task["state"], resource(task, "Directory")["reason"]) == ("Deleting", reasons.NOT_EMPTY)
    row = world.look().row
    assert row is not None
    assert row["directory_exists"] is not False
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert world.look().is_gone


# --- of a request that another process let say `Deleting` at the same time ------------------------------------------
@pytest.mark.parametrize("turn", [pytest.param("ab", id="a-first"), pytest.param("ba", id="b-first")])
def test_a_rename_that_was_never_confirmed_goes_back_when_another_request_goes_before(
    world: World, monkeypatch: pytest.MonkeyPatch, turn: str
) -> None:
    world.request("a")
    world.request("b")
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", after=crash)
        world.start(is_seeded=False).crash("a")
    die_once_claimed(world, monkeypatch, "b")
    process = world.start()
    for name in turn:
        process.reconcile(name)
    states = {name: task_of(process.finish(name))["state"] for name in ("b", "a")}
    assert states == {"b": "PartiallyFailed", "a": "Deleted"}
    assert task_of(process.status("b"))["reason"] == reasons.DIRECTORY_REAPPEARED
    assert world.look().is_gone


def test_of_two_requests_that_have_claimed_a_task_one_finishes_the_sibling_of_the_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = {name: world.request(name, force=True) for name in ("a", "b")}
    process = world.start(is_seeded=False)
    older, younger = sorted(uids, key=lambda name: (process.live(name).created_at, uids[name]))
    for name in (younger, older):  # the one that moved the directory aside is not the one that goes on
        die_once_claimed(world, monkeypatch, name)
    process.seed()

    def have_ended() -> bool:
        for name in ("a", "b"):
            process.reconcile(name)
        return all("completionTime" in process.status(name) for name in ("a", "b"))

    wait_until(have_ended, what="the end of both")
    assert [states_of(process.status(name)) for name in ("a", "b")] == [["Deleted"], ["Deleted"]]
    assert world.look().is_gone


def die_once_claimed(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A process that knows of no other request dies once status says that the task is claimed."""
    with monkeypatch.context() as moment:
        interpose(moment, Cluster, "write_status", after=crash, when=says_claimed)
        world.start(is_seeded=False).crash(name)


# --- of a request that was replaced by a namesake between two looks -------------------------------------------------
def test_a_namesake_does_not_wait_for_its_predecessor(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    process = world.start()
    interpose(monkeypatch, DirectoryRoot, "claim", before=failing(BUSY))
    process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleting"]
    world.withdraw("a")
    world.request("a")
    process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleted"]
    assert world.look().is_gone


def test_a_namesake_adopts_what_its_predecessor_had_moved_aside(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = move_aside_and_replace(world, monkeypatch, "task_1")
    process.reconcile("a")
    task = task_of(process.status("a"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 3)
    assert world.look().is_gone


def test_what_the_predecessor_of_a_namesake_had_moved_aside_is_put_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.look()
    process = move_aside_and_replace(world, monkeypatch, "task_2")
    assert states_of(process.finish("a")) == ["Deleted"]
    shown = process.look_at_store()["leftovers"]
    assert (shown["claimed"], shown["deleting"]) == (0, 0)
    assert world.look() == before


def move_aside_and_replace(world: World, monkeypatch: pytest.MonkeyPatch, task_id: str) -> Harness:
    """A request moves task_1 aside and cannot confirm that; it is deleted, and its name given to a new one."""
    world.request("a")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "sync", before=failing(BUSY))
        interpose(
            moment,
            PostgresCatalog,
            "read",
            before=failing(Fault("waiting", reasons.UNAVAILABLE, "the catalog is away")),
            when=lambda *_: bool(siblings_of(world.pipeline, "task_1")),
        )
        process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleting"]
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    world.withdraw("a")
    world.request("a", task_id)
    return process
