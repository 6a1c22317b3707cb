"""A request that is deleted while it is live: what it had claimed is finished, and nothing else is touched.

What is finished is what its published status says, and an Event and audit lines tell what became of it.
"""

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.client import KubeUnavailable
from taskdeletion.kube.objects import Cluster
from taskdeletion.observe.logging import ABOUT, AUDIT_LOGGER
from tests.support.harness import Harness, World, states_of, task_of
from tests.support.kube import Kube, resource
from tests.support.runs import is_second_run, run_again, siblings_of
from tests.support.seams import failing, interpose, of_task, says_ended

BUSY = Fault("retriable", reasons.BUSY, "a file is in use")
API_AWAY = KubeUnavailable("the API server is away")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    caplog.set_level(logging.INFO, AUDIT_LOGGER)
    with World(kube, pipeline) as found:
        for task_id in ("task_1", "task_2"):
            pipeline.add_task(task_id)
        yield found


def leave_objects_of(monkeypatch: pytest.MonkeyPatch, process: Harness, task_id: str, name: str = "a") -> None:
    """One look, in which the objects of one task cannot be deleted: the task is claimed, and tried again later."""
    with monkeypatch.context() as moment:
        interpose(moment, Objects, "purge", before=failing(BUSY), when=of_task(task_id))
        process.reconcile(name)


def audited(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, Any]]:
    """The audit lines, by task; each task has one at most."""
    lines = [getattr(record, ABOUT) for record in caplog.records if record.name == AUDIT_LOGGER]
    found = {line["task_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def outcomes(caplog: pytest.LogCaptureFixture) -> dict[str, tuple[str, str]]:
    """Outcome and reason of every audit line, by task."""
    return {task_id: (line["outcome"], line["reason"]) for task_id, line in audited(caplog).items()}


def cancellation(world: World, name: str = "a") -> str:
    """The message of the Event that says that a request was cancelled."""
    found: list[str] = wait_until(
        lambda: [
            event["message"]
            for event in world.kube.events(world.pipeline.namespace, name)
            if event["reason"] == reasons.CANCELLED
        ],
        what="the Event",
    )
    assert len(found) == 1
    return found[0]


# --- what is finished: what status says to be claimed and open ------------------------------------------------------
def remove_catalog(world: World) -> None:
    """The store has no catalog, so that nothing can be compared."""
    world.kube.delete(world.pipeline.namespace, "default", "taskstores")
    world.kube.apply(world.pipeline.manifests(catalog=None))


@pytest.mark.parametrize("has_catalog", [pytest.param(True, id="catalog"), pytest.param(False, id="no-catalog")])
def test_a_task_whose_end_was_published_is_not_touched_again_by_a_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch, has_catalog: bool
) -> None:
    if not has_catalog:
        remove_catalog(world)
    world.request("a", "task_1", "task_2", force=True)
    process = world.start()
    leave_objects_of(monkeypatch, process, "task_2")
    assert states_of(process.status("a")) == ["Deleted", "Deleting"]
    run_again(world.pipeline, "task_1")
    world.withdraw("a")
    process.reconcile("a")
    assert is_second_run(world.look("task_1"))
    assert world.look("task_2").is_gone


def test_what_was_claimed_before_the_operator_restarted_is_finished_too(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.request("a", "task_1", "task_2", force=True)
    leave_objects_of(monkeypatch, world.start(), "task_2")
    process = world.start()
    run_again(world.pipeline, "task_1")
    world.withdraw("a")
    process.reconcile("a")
    assert is_second_run(world.look("task_1"))
    assert world.look("task_2").is_gone
    assert outcomes(caplog) == {"task_1": ("Deleted", reasons.CANCELLED), "task_2": ("Deleted", reasons.CANCELLED)}


def test_a_task_that_was_announced_and_not_claimed_is_not_touched_by_a_cancellation(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", "task_1", "task_2")
    before = world.look("task_2")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", before=failing(BUSY), when=of_task("task_2"))
        interpose(moment, Objects, "purge", before=failing(BUSY), when=of_task("task_1"))
        process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleting", "Deleting"]
    world.withdraw("a")
    process.reconcile("a")
    assert world.look("task_1").is_gone
    assert world.look("task_2") == before


@pytest.mark.parametrize("call", ["list_objects", "read_secret"])
def test_a_cancelled_request_is_finished_once_the_api_server_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    world.request("a")
    process = world.start()
    leave_objects_of(monkeypatch, process, "task_1")
    world.withdraw("a")
    interpose(monkeypatch, Cluster, call, before=failing(API_AWAY))
    with pytest.raises(KubeUnavailable):
        process.reconcile("a")
    assert (world.look().objects, outcomes(caplog)) == (2, {})
    process.reconcile("a")
    assert world.look().is_gone
    assert outcomes(caplog) == {"task_1": ("Deleted", reasons.CANCELLED)}
    assert cancellation(world) == "the request was deleted while it ran: 1 tasks were finished, 0 never began"


def test_a_cancelled_request_is_finished_once_only(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.request("a", force=True)
    process = world.start()
    leave_objects_of(monkeypatch, process, "task_1")
    world.withdraw("a")
    process.reconcile("a")
    run_again(world.pipeline, "task_1")
    process.reconcile("a")
    assert is_second_run(world.look())
    assert outcomes(caplog) == {"task_1": ("Deleted", reasons.CANCELLED)}


# --- what is said ---------------------------------------------------------------------------------------------------
def test_a_cancelled_request_that_has_claimed_nothing_is_audited_and_its_ends_keep_their_reasons(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.pipeline.add_task("task_3", status="in_progress")
    world.request("a", "task_1", "task_2", "task_3")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", before=failing(BUSY), when=of_task("task_2"))
        process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleted", "Deleting", "Refused"]
    world.withdraw("a")
    process.reconcile("a")
    assert outcomes(caplog) == {
        "task_1": ("Deleted", reasons.CANCELLED),
        "task_2": ("NotAttempted", reasons.CANCELLED),
        "task_3": ("Refused", reasons.TASK_RUNNING),
    }
    assert audited(caplog)["task_1"]["files"] == 3
    assert audited(caplog)["task_1"]["completed_at"] is not None
    assert cancellation(world) == "the request was deleted while it ran: 1 tasks were finished, 1 never began"


def test_a_cancelled_request_that_was_suspended_is_audited(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.request("a", suspend=True)
    before = world.look()
    process = world.start()
    process.reconcile("a")
    world.withdraw("a")
    process.reconcile("a")
    assert outcomes(caplog) == {"task_1": ("NotAttempted", reasons.CANCELLED)}
    assert world.look() == before


def test_what_was_deleted_is_audited_although_its_end_was_never_published(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.request("a")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, Cluster, "write_status", before=failing(API_AWAY), when=says_ended)
        with pytest.raises(KubeUnavailable):
            process.reconcile("a")
    world.withdraw("a")
    process.reconcile("a")
    assert outcomes(caplog) == {"task_1": ("Deleted", reasons.CANCELLED)}
    assert audited(caplog)["task_1"]["at_least"] is True


def test_a_request_deleted_at_its_last_write_is_audited_once(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.request("a")
    process = world.start()
    interpose(monkeypatch, Cluster, "write_status", before=lambda *_: world.withdraw("a"), when=says_ended)
    process.reconcile("a")
    process.reconcile("a")
    assert outcomes(caplog) == {"task_1": ("Deleted", reasons.CANCELLED)}
    assert cancellation(world).endswith("1 tasks were finished, 0 never began")


# --- what cannot be finished ----------------------------------------------------------------------------------------
def test_what_a_stopping_operator_cannot_finish_of_a_cancelled_request_stays_for_the_next_request(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.request("a")
    process = world.start()
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "purge", before=failing(BUSY))
        process.reconcile("a")
    world.withdraw("a")
    interpose(monkeypatch, DirectoryRoot, "purge", before=lambda *_: process.stopping.set())
    process.reconcile("a")
    assert outcomes(caplog) == {"task_1": ("PartiallyFailed", reasons.CANCELLED)}
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 3}
    world.request("b")
    task = task_of(world.start().finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 3)
    assert world.look().is_gone
