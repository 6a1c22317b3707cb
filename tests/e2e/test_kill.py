"""The operator killed with SIGKILL at every point of a deletion, then started again: always the same final state.

All scenes are played before the first test looks: one process per scene, killed at its point, then one operator that
finds all of their requests where they were left. Each scene has a namespace and stores of its own.
"""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack
from dev.state_pipeline import StatePipeline
from tests.support.kube import Kube, launcher_environment, operator_environment
from tests.support.process import OperatorProcess, running_operator

TASK = "task_1"
NEIGHBOURS = ("task_10", "task_1.x", "other")
#: What a task has of each resource: files, keys, objects, and at most rows (two steps and its own) or state keys (two).
AMOUNTS = {"Directory": 3, "Redis": 2, "MinIO": 2, "DatabaseRecords": 3}
STATE_KEYS = 2
#: Up to here a kill finds everything whole, though perhaps moved aside: nothing is purged before status says claimed.
UNCLAIMED = (
    "before:first-status",
    "after:first-status",
    "before:rename",
    "after:rename",
    "before:commit",
    "after:commit",
    "before:confirmation",
    "after:confirmation",
)
CLAIMED = ("before:purge", "after:purge", "after:unlink", "after:purged", "after:keys", "after:objects")
ROWS_DELETED = (
    *UNCLAIMED,
    *CLAIMED,
    *("before:records", "before:rows-commit", "after:rows-commit", "after:records"),
    *("before:last-status", "after:last-status"),
)
ROWS_KEPT = (
    *("after:rename", "after:unlink", "after:objects"),
    *("before:mark", "before:rows-commit", "after:rows-commit", "after:mark"),
    *("before:last-status", "after:last-status"),
)
STATE = (
    *(point for point in UNCLAIMED if "commit" not in point),
    *CLAIMED,
    *("before:state", "after:state-script", "after:state"),
    *("before:last-status", "after:last-status"),
)
SCENES = [
    *(f"{point}-rows-deleted" for point in ROWS_DELETED),
    *(f"{point}-rows-kept" for point in ROWS_KEPT),
    *(f"{point}-rows-in-redis" for point in STATE),
]
PROCESSES_AT_ONCE = 3


@dataclass
class Scene:
    """One kill. `at_kill`: the task when the process had died; `status`: the request's, once it has ended."""

    kube: Kube
    pipeline: Pipeline
    point: str
    rows: str
    exit_code: int = 0
    before: dict[str, Residue] = field(default_factory=dict)
    at_kill: Residue | None = None
    status: dict[str, Any] = field(default_factory=dict)

    def prepare(self) -> None:
        """The namespace, a task that is to go, its neighbours, and the request."""
        self.kube.create_namespace(self.pipeline.namespace)
        self.pipeline.create()
        self.kube.apply(self.pipeline.manifests())
        for task_id in (TASK, *NEIGHBOURS):
            self.pipeline.add_task(task_id)
        self.before = {task_id: self.pipeline.look(task_id) for task_id in (TASK, *NEIGHBOURS)}
        self.kube.create_deletion(
            self.pipeline.namespace, "a", taskIds=[TASK], deleteDatabaseRecords=self.rows == "deleted"
        )

    def kill(self, log: Path) -> None:
        """Run an operator that dies at this scene's point."""
        environment = launcher_environment(self.kube.stack, TASKDELETION_NAMESPACES=self.pipeline.namespace)
        killed = OperatorProcess(environment, log, ("tests.support.killing", self.point))
        try:
            self.exit_code = killed.process.wait(90)
        finally:
            killed.kill()
        self.at_kill = self.pipeline.look(TASK)

    @property
    def deletes_records(self) -> bool:
        """Whether nothing is to be left in the catalog."""
        return self.rows != "kept"

    @property
    def amounts(self) -> Mapping[str, int]:
        """What the task had of each resource."""
        return {**AMOUNTS, "DatabaseRecords": STATE_KEYS} if self.rows == "in-redis" else AMOUNTS

    @property
    def task(self) -> dict[str, Any]:
        """The task in the final status."""
        found: dict[str, Any] = self.status["tasks"][0]
        return found

    @property
    def resources(self) -> Mapping[str, Mapping[str, Any]]:
        """The resources of the task in the final status, by name."""
        return {found["resource"]: found for found in self.task["resources"]}


@pytest.fixture(scope="module")
def scenes(stack: Stack, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Scene]:
    """Every scene, played to its end."""
    logs = tmp_path_factory.mktemp("logs")
    played: dict[str, Scene] = {}
    for number, name in enumerate(SCENES):
        point, _, rows = name.partition("-rows-")
        kind = StatePipeline if rows == "in-redis" else Pipeline
        played[name] = Scene(kube, kind(stack, f"kill-{os.getpid()}-{number}"), point, rows)

    def play(number: int, scene: Scene) -> None:
        scene.prepare()
        scene.kill(logs / f"killed-{number}.log")

    with ThreadPoolExecutor(PROCESSES_AT_ONCE) as pool:
        for done in [pool.submit(play, number, scene) for number, scene in enumerate(played.values())]:
            done.result()
    namespaces = ",".join(scene.pipeline.namespace for scene in played.values())
    with running_operator(operator_environment(stack, TASKDELETION_NAMESPACES=namespaces), logs / "operator.log"):
        for scene in played.values():
            scene.status = kube.wait_for_end(scene.pipeline.namespace, "a", seconds=120)
    return played


@pytest.fixture
def scene(scenes: Mapping[str, Scene], name: str) -> Scene:
    """One of them."""
    return scenes[name]


every_scene = pytest.mark.parametrize("name", SCENES)


@every_scene
def test_the_process_was_killed_where_it_was_to_be(scene: Scene, name: str) -> None:
    assert scene.exit_code == -signal.SIGKILL
    assert scene.at_kill is not None
    if scene.point in UNCLAIMED:
        whole = scene.at_kill
        assert (whole.keys, whole.objects, whole.row) == (2, 2, scene.before[TASK].row)
        assert whole.directory == 3 or whole.siblings == 1


@every_scene
def test_the_data_of_the_task_is_gone_and_only_that(scene: Scene, name: str) -> None:
    left = scene.pipeline.look(TASK)
    assert left.is_gone
    assert {task_id: scene.pipeline.look(task_id) for task_id in NEIGHBOURS} == {
        task_id: scene.before[task_id] for task_id in NEIGHBOURS
    }
    if scene.deletes_records:
        assert (left.row, left.steps) == (None, 0)
    else:
        assert left.row is not None
        assert (left.row["directory_exists"], left.row["status"], left.steps) == (False, "completed", 2)


@every_scene
def test_the_final_status_is_the_same(scene: Scene, name: str) -> None:
    status = scene.status
    assert (status["phase"], status["progress"]) == ("Succeeded", "1/1")
    assert {found["type"]: (found["status"], found["reason"]) for found in status["conditions"]} == {
        "Accepted": ("True", "Accepted"),
        "Ready": ("True", "Succeeded"),
        "Complete": ("True", "Succeeded"),
    }
    assert status["attempts"] in (1, 2)
    task = scene.task
    assert (task["state"], task.get("reason"), task["directoryDeleted"]) == ("Deleted", None, True)
    assert task["databaseRecordsDeleted"] is scene.deletes_records
    assert all(scene.status["summary"][name] == 0 for name in ("failed", "refused", "notFound", "skipped"))


@every_scene
def test_counts_are_exact_or_say_at_least_and_never_claim_more_than_there_was(scene: Scene, name: str) -> None:
    resources = dict(scene.resources)
    if not scene.deletes_records:
        kept = resources.pop("DatabaseRecords")
        assert (kept["outcome"], kept["reason"]) == ("Skipped", "KeptByRequest")
    for name_of, found in resources.items():
        assert (found["outcome"], found.get("reason")) in [("Deleted", None), ("Skipped", "Absent")]
        count = found.get("count", 0)
        assert count <= scene.amounts[name_of]
        assert count == scene.amounts[name_of] or found["atLeast"] is True


@every_scene
def test_nothing_holds_the_request_back_from_being_deleted(scene: Scene, name: str) -> None:
    live = scene.kube.read(scene.pipeline.namespace, "a")
    assert live is not None
    assert "finalizers" not in live["metadata"]
