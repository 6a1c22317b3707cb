"""What is said of a request of which a part was done: per task, per resource, in a dry run, and after a rejection.

One task or one resource that fails never decides what is said of another.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt
from taskdeletion.domain.siblings import Sibling
from taskdeletion.kube.client import KubeUnavailable
from taskdeletion.kube.objects import Cluster
from tests.support.harness import World, states_of, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import siblings_of
from tests.support.seams import failing, interpose

BUSY = Fault("retriable", reasons.BUSY, "a file is in use")
DENIED = Fault("permanent", reasons.PERMISSION_DENIED, "objects may not be deleted")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        for task_id in ("task_1", "task_2"):
            pipeline.add_task(task_id)
        yield found


def is_marked(world: World, task_id: str) -> bool:
    """Whether the row of a task says that its directory is gone."""
    row = world.look(task_id).row
    return row is not None and row["directory_exists"] is False


# --- one locked row -------------------------------------------------------------------------------------------------
def test_a_row_that_is_locked_at_the_mark_holds_up_its_own_task_only(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", "task_1", "task_2")
    process = world.start()
    with world.pipeline.connect() as holder:
        lock = "SELECT 1 FROM data_pipeline_tasks WHERE task_id = 'task_1' FOR UPDATE"
        interpose(monkeypatch, PostgresCatalog, "mark", before=lambda *_, **__: holder.execute(lock))
        process.reconcile("a")
    status = process.status("a")
    assert states_of(status) == ["Deleting", "Deleted"]
    records = resource(task_of(status, "task_1"), "DatabaseRecords")
    assert (records["outcome"], records["reason"], records["retriable"]) == ("Failed", reasons.ROW_LOCKED, True)
    assert [is_marked(world, task_id) for task_id in ("task_1", "task_2")] == [False, True]
    assert states_of(process.finish("a")) == ["Deleted", "Deleted"]
    assert is_marked(world, "task_1")


def test_a_row_that_stays_locked_fails_its_own_task_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a", "task_1", "task_2", backoffLimit=0)
    process = world.start()
    with world.pipeline.connect() as holder:
        lock = "SELECT 1 FROM data_pipeline_tasks WHERE task_id = 'task_1' FOR UPDATE"
        interpose(monkeypatch, PostgresCatalog, "mark", before=lambda *_, **__: holder.execute(lock))
        status = process.finish("a")
    assert (status["phase"], states_of(status)) == ("PartiallyFailed", ["PartiallyFailed", "Deleted"])
    failed = task_of(status, "task_1")
    assert failed["reason"] == reasons.BACKOFF_LIMIT_EXCEEDED
    assert (resource(failed, "Directory")["outcome"], resource(failed, "Directory")["count"]) == ("Deleted", 3)
    assert "atLeast" not in resource(failed, "Directory")
    assert failed["directoryDeleted"] is True
    assert "reason" not in task_of(status, "task_2")


# --- a dry run has deleted nothing ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("owner", "call", "fault"),
    [
        pytest.param(Objects, "purge", DENIED, id="permanent-at-the-objects"),
        pytest.param(Objects, "purge", BUSY, id="retriable-at-the-objects"),
        pytest.param(PostgresCatalog, "claim", DENIED, id="permanent-at-the-claim"),
    ],
)
def test_a_dry_run_never_says_that_anything_was_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: Any, call: str, fault: Fault
) -> None:
    before = world.look()
    world.request("a", dryRun=True, backoffLimit=0)
    interpose(monkeypatch, owner, call, before=failing(fault))
    status = world.start().finish("a")
    task = task_of(status)
    assert task["state"] in ("Failed", "PartiallyFailed")
    said = {"deletedAt", "directoryDeleted", "databaseRecordsDeleted", "deletedFilesCount", "deletedSize"}
    assert said.isdisjoint(task)
    assert {found["outcome"] for found in task.get("resources", [])} <= {"WouldDelete", "Failed", "Skipped"}
    counters = {name: value for name, value in status["summary"].items() if name.endswith("Deleted")}
    assert set(counters.values()) <= {0}
    assert world.look() == before


# --- a purge whose progress cannot be written -----------------------------------------------------------------------
def test_a_running_purge_stops_at_its_next_batch_when_its_progress_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    seen: list[Fault] = []
    original = DirectoryRoot.purge

    def purge(root: DirectoryRoot, sibling: Sibling, halt: Halt) -> tuple[Purged, Fault | None]:
        interpose(monkeypatch, Cluster, "write_status", before=failing(KubeUnavailable("the API server is away")))
        seen.append(wait_until(halt, seconds=10, what="the purge to be told to stop"))
        return original(root, sibling, halt)

    process = world.start()
    with monkeypatch.context() as moment:
        moment.setattr(DirectoryRoot, "purge", purge)
        with pytest.raises(KubeUnavailable):
            process.reconcile("a")
    assert [fault.reason for fault in seen] == [reasons.INTERRUPTED]
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 3}
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert world.look().is_gone


# --- a rejection ----------------------------------------------------------------------------------------------------
def test_no_task_of_a_rejected_request_is_left_pending(world: World) -> None:
    world.kube.delete(world.pipeline.namespace, "default", "taskstores")
    world.kube.apply(world.pipeline.manifests(catalog=None))
    before = world.look()
    world.request("a", "task_1", "task_2", suspend=True)
    process = world.start()
    process.reconcile("a")
    assert (process.status("a")["phase"], states_of(process.status("a"))) == ("Suspended", ["Pending", "Pending"])
    world.change("a", suspend=False)
    status = process.finish("a")
    assert (status["phase"], states_of(status)) == ("Failed", ["NotAttempted", "NotAttempted"])
    assert {task["reason"] for task in status["tasks"]} == {reasons.CATALOG_REQUIRED}
    assert condition(status, "Failed")["reason"] == reasons.CATALOG_REQUIRED
    assert world.look() == before
