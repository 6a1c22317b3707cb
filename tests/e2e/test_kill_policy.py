"""The operator killed with SIGKILL at every point of a policy's run, then started again: always the same whole run.

All scenes are played before the first test looks, each in a namespace of its own: one process per scene, killed at its
point, then one operator that finds all of their policies where they were left. A run needs two TaskDeletions.
"""

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack
from taskdeletion.domain.runs import DRAFT_ANNOTATION, POLICY_LABEL, RUN_LABEL
from tests.support.kube import GROUP_PATH, Kube, condition, launcher_environment, operator_environment
from tests.support.policies import PLURAL, create_policy, make_due, policy_status
from tests.support.process import OperatorProcess, running_operator

POLICY = "nightly"
PARTS = (500, 10)
MANY = sum(PARTS)
#: Those that have more than a row, at least one in each part.
WITH_DATA = (0, 400, 505)
#: The newest three of what the rule is about, a task that runs, one whose status the rule does not name; their ages.
PROTECTED = {
    "young": timedelta(hours=1),
    "kept_1": timedelta(days=40),
    "kept_2": timedelta(days=41),
    "running": timedelta(days=99),
    "failed": timedelta(days=99),
}
#: At the kill: TaskDeletions that were there, those of them that were released, what the status said of the run.
AT_KILL: Mapping[str, tuple[int, int, str | None]] = {
    "after:draft": (0, 0, None),
    "before:part": (1, 0, None),
    "after:part": (2, 0, None),
    "before:decision": (2, 0, None),
    "after:decision": (2, 0, "Releasing"),
    "before:release": (2, 1, "Releasing"),
    "after:release": (2, 2, "Releasing"),
    "before:released": (2, 2, "Releasing"),
    "before:run-end": (2, 2, "Active"),
    "after:run-end": (2, 2, "Succeeded"),
}
PROCESSES_AT_ONCE = 3


@dataclass
class Scene:
    """One kill. `before`: the protected tasks; `at_kill`: as in AT_KILL; `status`: the policy's, once its run ended."""

    kube: Kube
    pipeline: Pipeline
    point: str
    exit_code: int = 0
    before: dict[str, Residue] = field(default_factory=dict)
    at_kill: tuple[int, int, str | None] | None = None
    status: dict[str, Any] = field(default_factory=dict)
    children: list[dict[str, Any]] = field(default_factory=list)

    def prepare(self) -> None:
        """The namespace, tasks that are to go and tasks that are to stay, and a policy whose run is due."""
        self.kube.create_namespace(self.pipeline.namespace)
        self.pipeline.create()
        self.kube.apply(self.pipeline.manifests(redis=None, objectStore=None))
        self._fill()
        rule = {"statuses": ["completed"], "olderThan": "1d", "keepLast": 3}
        create_policy(self.kube, self.pipeline.namespace, POLICY, schedule="@yearly", rules=[rule])
        make_due(self.kube, self.pipeline.namespace, POLICY, ago=timedelta(days=400))

    def _fill(self) -> None:
        pipeline, now = self.pipeline, datetime.now(UTC)
        begin = (now - timedelta(days=90)).replace(tzinfo=None)
        with pipeline.connect() as connection:
            connection.execute(
                "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT 'task_' || lpad(n::text, 4, '0'),"
                " 'completed', %s + n * interval '1 minute' FROM generate_series(0, %s) n",
                (begin, MANY - 1),
            )
        for number in WITH_DATA:
            pipeline.add_directory(name_of(number))
        statuses = {"running": "in_progress", "failed": "failed"}
        for task_id, age in PROTECTED.items():
            pipeline.add_rows(task_id, status=statuses.get(task_id, "completed"), created_at=now - age)
            pipeline.add_directory(task_id)
        self.before = {task_id: pipeline.look(task_id) for task_id in PROTECTED}

    def kill(self, log: Path) -> None:
        """Run an operator that dies at this scene's point."""
        environment = launcher_environment(self.kube.stack, TASKDELETION_NAMESPACES=self.pipeline.namespace)
        killed = OperatorProcess(environment, log, ("tests.support.killing", self.point))
        try:
            self.exit_code = killed.process.wait(300)
        finally:
            killed.kill()
        released = [child for child in self._list() if DRAFT_ANNOTATION not in child["metadata"].get("annotations", {})]
        run = policy_status(self.kube, self.pipeline.namespace, POLICY).get("lastRun", {})
        self.at_kill = (len(self._list()), len(released), run.get("phase"))

    def finish(self) -> None:
        """Wait for the end of the run, which another operator works on."""

        def has_ended(status: Mapping[str, Any]) -> bool:
            return "completionTime" in status.get("lastRun", {})

        self.status = self.kube.wait_for(self.pipeline.namespace, POLICY, has_ended, seconds=480, plural=PLURAL)
        self.children = self._list()

    def _list(self) -> list[dict[str, Any]]:
        """Every TaskDeletion of the namespace, by the number of its part."""
        path = f"{GROUP_PATH}/namespaces/{self.pipeline.namespace}/taskdeletions"
        found: list[dict[str, Any]] = self.kube.api.request("GET", path).body["items"]
        return sorted(found, key=lambda child: int(child["metadata"]["name"].rpartition("-")[2]))


def name_of(number: int) -> str:
    """The id of a task that is to go; the numbers are in the order of their age."""
    return f"task_{number:04}"


@pytest.fixture(scope="module")
def scenes(stack: Stack, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Scene]:
    """Every scene, played to its end."""
    logs = tmp_path_factory.mktemp("logs")
    played = {
        point: Scene(kube, Pipeline(stack, f"killed-run-{os.getpid()}-{number}"), point)
        for number, point in enumerate(AT_KILL)
    }

    def play(number: int, scene: Scene) -> None:
        scene.prepare()
        scene.kill(logs / f"killed-{number}.log")

    with ThreadPoolExecutor(PROCESSES_AT_ONCE) as pool:
        for done in [pool.submit(play, number, scene) for number, scene in enumerate(played.values())]:
            done.result()
    namespaces = ",".join(scene.pipeline.namespace for scene in played.values())
    with running_operator(operator_environment(stack, TASKDELETION_NAMESPACES=namespaces), logs / "operator.log"):
        for scene in played.values():
            scene.finish()
    return played


@pytest.fixture
def scene(scenes: Mapping[str, Scene], point: str) -> Scene:
    """One of them."""
    return scenes[point]


every_scene = pytest.mark.parametrize("point", AT_KILL)


@every_scene
def test_the_process_was_killed_where_it_was_to_be(scene: Scene, point: str) -> None:
    assert scene.exit_code == -signal.SIGKILL
    assert scene.at_kill == AT_KILL[point]


@every_scene
def test_the_chosen_tasks_are_named_once_each_oldest_first_and_no_others(scene: Scene, point: str) -> None:
    named = [task_id for child in scene.children for task_id in child["spec"]["taskIds"]]
    assert named == [name_of(number) for number in range(MANY)]
    assert tuple(len(child["spec"]["taskIds"]) for child in scene.children) == PARTS


@every_scene
def test_every_taskdeletion_is_of_this_one_run(scene: Scene, point: str) -> None:
    policy = scene.kube.read(scene.pipeline.namespace, POLICY, PLURAL)
    assert policy is not None
    uid, scheduled = policy["metadata"]["uid"], datetime.fromisoformat(scene.status["lastRun"]["scheduledTime"])
    run = str(int(scheduled.timestamp()) // 60)
    assert [child["metadata"]["name"] for child in scene.children] == [
        f"{POLICY}-{run}-{uid[:5]}-{number}" for number in range(1, len(PARTS) + 1)
    ]
    for child in scene.children:
        assert child["metadata"]["labels"] == {POLICY_LABEL: POLICY, RUN_LABEL: run}
        assert [owner["uid"] for owner in child["metadata"]["ownerReferences"]] == [uid]


@every_scene
def test_no_part_is_left_suspended_or_a_draft_and_each_is_complete(scene: Scene, point: str) -> None:
    for child in scene.children:
        assert child["spec"]["suspend"] is False
        assert DRAFT_ANNOTATION not in child["metadata"]["annotations"]
        assert condition(child["status"], "Complete")["status"] == "True"
        assert child["status"]["summary"]["deleted"] == len(child["spec"]["taskIds"])


@every_scene
def test_the_status_of_the_policy_is_that_of_an_undisturbed_run(scene: Scene, point: str) -> None:
    status, run = scene.status, scene.status["lastRun"]
    assert (run["phase"], run["created"], run["active"], run["failures"]) == ("Succeeded", len(PARTS), [], 0)
    assert (run["selected"], run["deleted"], run["failed"], run["protected"]) == (MANY, MANY, 0, 2)
    assert (status["active"], status["lastScheduleTime"]) == (0, run["scheduledTime"])
    assert (status.get("draft"), run.get("draft"), run.get("atLeast")) == (None, None, None)


@every_scene
def test_the_data_of_the_chosen_tasks_is_gone_and_only_that(scene: Scene, point: str) -> None:
    pipeline = scene.pipeline
    assert [number for number in WITH_DATA if not pipeline.look(name_of(number)).is_gone] == []
    assert {task_id: pipeline.look(task_id) for task_id in PROTECTED} == scene.before
    with pipeline.connect() as connection:
        left = connection.execute("SELECT task_id FROM data_pipeline_tasks WHERE directory_exists").fetchall()
    assert {task_id for (task_id,) in left} == set(PROTECTED)
