"""A request is deleted, suspended, or loses its operator while it works: what is claimed is finished, nothing is lost.

Every test runs operators of its own, for its own namespace. Where work has to last, the file system is slow.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from tests.support.kube import Kube, condition, launcher_environment, resource
from tests.support.process import OPERATOR, OperatorProcess, running_operator
from tests.support.runs import count_files, siblings_of

#: With 150 files in each of two directories a purge lasts at least 3 s, and stops at the second directory.
SLOW = ("tests.support.slowing", "10")
FILES = 300
Start = Callable[..., AbstractContextManager[OperatorProcess]]


@pytest.fixture
def start(pipeline: Pipeline, tmp_path: Path) -> Start:
    """Runs operators for the namespace of the test, one after the other."""

    def run(*module: str, **settings: str) -> AbstractContextManager[OperatorProcess]:
        environment = launcher_environment(
            pipeline.stack,
            TASKDELETION_NAMESPACES=pipeline.namespace,
            TASKDELETION_PROBE_INTERVAL_SECONDS="1",
            **settings,
        )
        return running_operator(environment, tmp_path / "operator.log", module or OPERATOR)

    return run


def kill_at(pipeline: Pipeline, log: Path, point: str) -> None:
    """Run an operator that kills itself at a point of its first deletion."""
    environment = launcher_environment(pipeline.stack, TASKDELETION_NAMESPACES=pipeline.namespace)
    killed = OperatorProcess(environment, log, ("tests.support.killing", point))
    try:
        assert killed.process.wait(60) < 0
    finally:
        killed.kill()


def files_left(pipeline: Pipeline, task_id: str) -> int:
    """The files of a task that are left under any of its names."""
    return count_files(pipeline.root / task_id) + sum(siblings_of(pipeline, task_id).values())


def wait_for_purge(pipeline: Pipeline, task_id: str) -> None:
    """Wait until a part of the files is gone."""
    wait_until(lambda: 0 < files_left(pipeline, task_id) < FILES, what=f"a part of {task_id} to go")


def delete_with_kubectl(kube: Kube, pipeline: Pipeline, name: str) -> float:
    """`kubectl delete`, which waits until the object is gone; how long that took, in seconds."""
    begun = time.monotonic()
    kube.kubectl("delete", "taskdeletion", name, "-n", pipeline.namespace, "--timeout=20s")
    return time.monotonic() - begun


def leftovers(kube: Kube, pipeline: Pipeline) -> dict[str, Any]:
    """What the TaskStore shows to be lying around."""
    found = kube.read(pipeline.namespace, "default", "taskstores") or {}
    shown: dict[str, Any] = found.get("status", {}).get("leftovers", {})
    return shown


# --- the request is deleted ------------------------------------------------------------------------------------------
def test_a_request_deleted_before_its_claim_touches_nothing(kube: Kube, pipeline: Pipeline, start: Start) -> None:
    for task_id in ("task_1", "task_2"):
        pipeline.add_task(task_id)
    before = pipeline.look("task_1")
    with start():
        with pipeline.connect() as holder:
            holder.execute("SELECT 1 FROM data_pipeline_tasks WHERE task_id = 'task_1' FOR UPDATE")
            kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"])
            kube.wait_for(pipeline.namespace, "a", lambda status: is_retried(status, reasons.ROW_LOCKED))
            delete_with_kubectl(kube, pipeline, "a")
        kube.create_deletion(pipeline.namespace, "b", taskIds=["task_2"])
        assert kube.wait_for_end(pipeline.namespace, "b")["phase"] == "Succeeded"
    assert pipeline.look("task_1") == before


def is_retried(status: dict[str, Any], reason: str) -> bool:
    """Whether an attempt has ended and the next one is to come."""
    return "nextAttemptTime" in status and status["tasks"][0].get("reason") == reason


def test_a_request_deleted_while_it_purges_finishes_what_it_claimed_and_claims_nothing_more(
    kube: Kube, pipeline: Pipeline, start: Start
) -> None:
    pipeline.add_task("task_1", files=FILES)
    for task_id in ("task_2", "task_3"):
        pipeline.add_task(task_id)
    before = {task_id: pipeline.look(task_id) for task_id in ("task_2", "task_3")}
    with start(*SLOW):
        kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1", "task_2", "task_3"], continueOnError=False)
        wait_for_purge(pipeline, "task_1")
        live = kube.read(pipeline.namespace, "a")
        assert live is not None
        assert "finalizers" not in live["metadata"]
        delete_with_kubectl(kube, pipeline, "a")
        assert kube.read(pipeline.namespace, "a") is None
        assert files_left(pipeline, "task_1") > 0
        wait_until(lambda: is_cancelled(kube, pipeline, "a"), what="the end of what was claimed")
        marked = pipeline.look("task_1")
        assert marked.is_gone
        assert marked.row is not None
        assert marked.row["directory_exists"] is False
    assert {task_id: pipeline.look(task_id) for task_id in before} == before


def is_cancelled(kube: Kube, pipeline: Pipeline, name: str) -> bool:
    """Whether an Event says that the request was cancelled, and what became of it."""
    return any(event["reason"] == reasons.CANCELLED for event in kube.events(pipeline.namespace, name))


def test_a_namesake_of_a_deleted_request_is_a_request_of_its_own(kube: Kube, pipeline: Pipeline, start: Start) -> None:
    pipeline.add_task("task_1", files=FILES)
    pipeline.add_task("task_2")
    with start(*SLOW):
        kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"])
        wait_for_purge(pipeline, "task_1")
        delete_with_kubectl(kube, pipeline, "a")
        kube.create_deletion(pipeline.namespace, "a", taskIds=["task_2"])
        status = kube.wait_for_end(pipeline.namespace, "a")
        assert [(task["taskId"], task["state"]) for task in status["tasks"]] == [("task_2", "Deleted")]
        wait_until(lambda: pipeline.look("task_1").is_gone, what="the end of what was claimed")


# --- the request is deleted, and its operator dies -------------------------------------------------------------------
def test_what_a_cancelled_request_has_moved_aside_but_not_purged_is_put_back(
    kube: Kube, pipeline: Pipeline, start: Start, tmp_path: Path
) -> None:
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"])
    kill_at(pipeline, tmp_path / "killed.log", "after:confirmation")
    assert siblings_of(pipeline, "task_1") == {"claimed": 3}
    delete_with_kubectl(kube, pipeline, "a")
    with start():
        wait_until(lambda: pipeline.look("task_1") == before, what="the directory to be put back")
        wait_until(lambda: leftovers(kube, pipeline).get("claimed") == 0, what="nothing to be left")


def test_what_a_cancelled_request_has_begun_is_shown_and_adopted_by_the_next_one(
    kube: Kube, pipeline: Pipeline, start: Start, tmp_path: Path
) -> None:
    pipeline.add_task("task_1", keys=0, objects=0)
    created = kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"])
    kill_at(pipeline, tmp_path / "killed.log", "after:unlink")
    assert siblings_of(pipeline, "task_1") == {"deleting": 2}
    delete_with_kubectl(kube, pipeline, "a")
    with start():
        wait_until(lambda: leftovers(kube, pipeline).get("deleting") == 1, what="the sibling to be shown")
        assert leftovers(kube, pipeline)["examples"] == [f".deleting-{created['metadata']['uid']}-task_1"]
        assert siblings_of(pipeline, "task_1") == {"deleting": 2}
        kube.create_deletion(pipeline.namespace, "b", taskIds=["task_1"])
        task = kube.wait_for_end(pipeline.namespace, "b")["tasks"][0]
        assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 2)
        assert pipeline.look("task_1").is_gone
        wait_until(lambda: leftovers(kube, pipeline).get("deleting") == 0, what="nothing to be left")


# --- the operator is told to stop ------------------------------------------------------------------------------------
def test_an_operator_that_is_told_to_stop_gives_its_attempt_back_and_the_next_one_goes_on(
    kube: Kube, pipeline: Pipeline, start: Start
) -> None:
    pipeline.add_task("task_1", files=FILES)
    kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1"], backoffLimit=0)
    with start(*SLOW) as stopped:
        wait_for_purge(pipeline, "task_1")
        begun = time.monotonic()
        assert stopped.stop(20) == 0
        assert time.monotonic() - begun < 20
    assert files_left(pipeline, "task_1") > 0
    status = (kube.read(pipeline.namespace, "a") or {})["status"]
    assert (status["attempts"], condition(status, "Reconciling")["reason"]) == (0, reasons.INTERRUPTED)
    with start():
        status = kube.wait_for_end(pipeline.namespace, "a")
    task = status["tasks"][0]
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert resource(task, "Directory") == {
        "resource": "Directory",
        "outcome": "Deleted",
        "count": FILES,
        "bytes": FILES * 1000,
    }
    assert pipeline.look("task_1").is_gone


# --- the request is suspended ----------------------------------------------------------------------------------------
def test_a_suspended_request_finishes_what_it_claimed_and_goes_on_when_it_may(
    kube: Kube, pipeline: Pipeline, start: Start
) -> None:
    pipeline.add_task("task_1", files=FILES)
    pipeline.add_task("task_2")
    before = pipeline.look("task_2")
    with start(*SLOW):
        kube.create_deletion(pipeline.namespace, "a", taskIds=["task_1", "task_2"], continueOnError=False)
        wait_for_purge(pipeline, "task_1")
        kube.patch(pipeline.namespace, "a", {"spec": {"suspend": True}})
        status = kube.wait_for(pipeline.namespace, "a", lambda status: status.get("phase") == "Suspended")
        assert [task["state"] for task in status["tasks"]] == ["Deleted", "Pending"]
        assert condition(status, "Ready")["reason"] == reasons.SUSPENDED
        assert pipeline.look("task_1").is_gone
        assert pipeline.look("task_2") == before
        kube.patch(pipeline.namespace, "a", {"spec": {"suspend": False}})
        assert kube.wait_for_end(pipeline.namespace, "a")["phase"] == "Succeeded"
    assert pipeline.look("task_2").is_gone
