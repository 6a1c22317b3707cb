"""Work that is told to stop, by a suspension or by the end of the process: at the next boundary, with nothing lost."""

from collections.abc import Iterator

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.objects import Cluster
from tests.support.harness import Harness, World, states_of
from tests.support.kube import Kube, condition
from tests.support.runs import siblings_of
from tests.support.seams import failing, interpose, says_claimed

BUSY = Fault("retriable", reasons.BUSY, "a file is in use")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        for task_id in ("task_1", "task_2"):
            pipeline.add_task(task_id)
        yield found


# --- a suspension that is seen by a write ---------------------------------------------------------------------------
def test_a_suspension_at_the_confirmation_lets_no_further_round_begin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [f"other_{number}" for number in range(49)]
    add_rows(world, others)
    before = world.look("task_2")
    world.request("a", "task_1", *others, "task_2")  # rounds of fifty
    interpose(
        monkeypatch, Cluster, "write_status", before=lambda *_: world.change("a", suspend=True), when=says_claimed
    )
    process = world.start()
    assert process.reconcile("a") is None
    status = process.status("a")
    assert (status["phase"], condition(status, "Ready")["reason"]) == ("Suspended", reasons.SUSPENDED)
    assert states_of(status) == ["Deleted"] * 50 + ["Pending"]
    assert world.look("task_1").is_gone
    assert world.look("task_2") == before
    world.change("a", suspend=False)
    assert process.finish("a")["phase"] == "Succeeded"
    assert world.look("task_2").is_gone


def add_rows(world: World, task_ids: list[str]) -> None:
    """Tasks of which only the entry is there."""
    with world.pipeline.connect() as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO data_pipeline_tasks (task_id, status, created_at)"
            " VALUES (%s, 'completed', timezone('UTC', now()) - interval '30 days')",
            [(task_id,) for task_id in task_ids],
        )


# --- the process is told to stop ------------------------------------------------------------------------------------
def suspend_half_way(world: World, monkeypatch: pytest.MonkeyPatch) -> Harness:
    """A suspended request: task_1 is claimed and has a directory left, task_2 has not begun."""
    world.request("a", "task_1", "task_2", continueOnError=False)
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "purge", before=failing(BUSY))
        process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleting", "Pending"]
    world.change("a", suspend=True)
    return process


def test_a_process_that_stops_while_it_finishes_a_suspended_request_gives_the_attempt_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = suspend_half_way(world, monkeypatch)
    before = world.look("task_2")
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "purge", before=lambda *_: process.stopping.set())
        assert process.reconcile("a") is None
    status = process.status("a")
    assert (states_of(status), status["attempts"]) == (["Deleting", "Pending"], 1)
    assert condition(status, "Reconciling")["reason"] == reasons.INTERRUPTED
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 3}
    process = world.start()
    process.reconcile("a")
    status = process.status("a")
    assert (status["phase"], states_of(status)) == ("Suspended", ["Deleted", "Pending"])
    assert world.look("task_1").is_gone
    assert world.look("task_2") == before


def test_a_process_that_stops_begins_no_further_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.look("task_2")
    world.request("a", "task_1", "task_2", continueOnError=False, backoffLimit=0)
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, Objects, "purge", after=lambda *_, **__: process.stopping.set())
        process.reconcile("a")
    status = process.status("a")
    assert status["attempts"] == 0
    assert states_of(status)[1] == "Pending"
    assert world.look("task_2") == before
    status = world.start().finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


def test_a_process_that_has_stopped_takes_no_look(world: World) -> None:
    world.request("a")
    process = world.start()
    process.stopping.set()
    assert process.reconcile("a") is None
    assert process.status("a").get("attempts") is None


def test_an_error_that_nobody_foresaw_is_told_and_does_not_stop_the_next_attempt(
    world: World, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", "task_1")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, PostgresCatalog, "read", before=failing(ZeroDivisionError("nobody foresaw this")))
        with pytest.raises(ZeroDivisionError):
            process.reconcile("a")
    namespace = world.pipeline.namespace
    wait_until(lambda: "InternalError" in {event["reason"] for event in kube.events(namespace, "a")}, what="the Event")
    assert process.finish("a")["phase"] == "Succeeded"


def test_a_store_that_is_pulled_between_two_rounds_stops_what_has_not_begun(
    world: World, kube: Kube, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.look("task_2")
    world.request("a", "task_1", "task_2", continueOnError=False)
    namespace = world.pipeline.namespace
    interpose(
        monkeypatch, DirectoryRoot, "purge", before=lambda *_, **__: kube.delete(namespace, "default", "taskstores")
    )
    process = world.start()
    process.reconcile("a")
    status = process.status("a")
    assert states_of(status) == ["Deleted", "Pending"]
    assert condition(status, "Reconciling")["reason"] == reasons.DEPENDENCY_UNAVAILABLE
    assert "StoreNotFound" in condition(status, "Ready")["message"]
    assert status["attempts"] == 0
    assert world.look("task_2") == before
