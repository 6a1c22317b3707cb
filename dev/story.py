"""What the two pipelines of the demo hold, and what must have become of every task when its requests have ended.

Used by the demo and by `make up`. One pipeline keeps its tasks in PostgreSQL, the other has only their state in Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack
from dev.state_pipeline import StatePipeline

NAMESPACE = "pipelines"
KEPT, FREED, FORGOTTEN = "untouched", "freed, rows kept", "gone, records too"


@dataclass(frozen=True)
class Outcome:
    """What a status says of one task. `request`: the TaskDeletion or, for all those that one created, the policy."""

    request: str
    state: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.request}: {self.state}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class Expected:
    """One task: what the catalog says of it, what must have become of it, and what its request must say.

    `status`: of the task, or of its first node; `step_status`: of its steps, or of its second node. `outcome`: None for
    a task that no request may name.
    """

    task_id: str
    status: str
    fate: str
    outcome: Outcome | None = None
    note: str = ""
    files: int = 12
    file_bytes: int = 20_000
    keys: int = 3
    row: bool = True
    step_status: str = "completed"


POLICY = "every-minute"
_NEIGHBOUR = "a neighbour: nobody named it"
TASKS = (
    Expected("task_20250702_173932", "completed", FREED, Outcome("free-july", "Deleted"), files=15, file_bytes=174_763),
    Expected("task_20250702_174521", "partial_completed", FREED, Outcome("free-july", "Deleted")),
    Expected("task_20250702_1739", "completed", KEPT, note=_NEIGHBOUR),
    Expected("task_20250702_1739321", "completed", KEPT, note=_NEIGHBOUR),
    Expected("task_20250703_090000", "failed", FORGOTTEN, Outcome("forget-everything", "Deleted")),
    Expected("task_20250704_130000", "completed", FREED, Outcome("mixed", "Deleted")),
    Expected("task_20250704_120000", "in_progress", KEPT, Outcome("mixed", "Refused", "TaskRunning")),
    Expected("task_20250915_080000", "completed", KEPT, Outcome("mixed", "Refused", "TaskNewerThanRequest")),
    Expected(
        "task_19990101_000000",
        "-",
        KEPT,
        Outcome("mixed", "NotFound", "NotInCatalog"),
        "files without a row",
        row=False,
    ),
    Expected("task_20250705_080000", "completed", KEPT, Outcome("preview", "WouldDelete")),
    Expected("task_20250706_000000", "in_progress", FREED, Outcome("clean-stuck", "Deleted"), "forced"),
    Expected("nightly_20250801_020000", "completed", FREED, Outcome(POLICY, "Deleted"), "a policy"),
    Expected("nightly_20250802_020000", "failed", FREED, Outcome(POLICY, "Deleted"), "a policy"),
    Expected("nightly_20250803_020000", "in_progress", KEPT, note="a policy takes finished tasks only"),
    Expected("nightly_20250804_020000", "completed", KEPT, note=f"{POLICY} keeps the newest two"),
    Expected("nightly_20250805_020000", "completed", KEPT, note=f"{POLICY} keeps the newest two"),
)
WORKFLOWS = (
    Expected("wf-20250710-1", "completed", FORGOTTEN, Outcome("free-workflows", "Deleted"), keys=0),
    Expected("wf-20250710-10", "completed", KEPT, note=_NEIGHBOUR, keys=0),
    Expected(
        "wf-20250711-1",
        "completed",
        KEPT,
        Outcome("free-workflows", "Refused", "TaskRunning"),
        keys=0,
        step_status="running",
    ),
    Expected(
        "wf-20250601-1",
        "-",
        KEPT,
        Outcome("free-workflows", "NotFound", "NotInCatalog"),
        "its state expired",
        keys=0,
        row=False,
    ),
)
#: name of the example -> condition to wait for, phase in the end
REQUESTS = {
    "free-july": ("Complete", "Succeeded"),
    "preview": ("Complete", "Succeeded"),
    "forget-everything": ("Complete", "Succeeded"),
    "mixed": ("Failed", "PartiallyFailed"),
    "clean-stuck": ("Complete", "Succeeded"),
    "free-workflows": ("Failed", "PartiallyFailed"),
}


class Story:
    """Both pipelines and their tasks."""

    def __init__(self, stack: Stack) -> None:
        self.rows = Pipeline(stack, NAMESPACE, bucket="pipeline", prefix="")
        self.states = StatePipeline(stack, NAMESPACE, bucket="workflows", prefix="")

    def fill(self) -> None:
        """Put every task there."""
        for pipeline in (self.rows, self.states):
            pipeline.create()
        for pipeline, task in self.tasks():
            pipeline.add_task(
                task.task_id,
                status=task.status,
                files=task.files,
                file_bytes=task.file_bytes,
                created_at=_date_of(task.task_id),
                row=task.row,
                keys=task.keys,
                objects=4,
                step_status=task.step_status,
            )

    def secrets(self) -> dict[str, dict[str, str]]:
        """What the TaskStores of the examples refer to: the values by name of the Secret."""
        found = [*self.rows.manifests(), *self.states.manifests()]
        return {one["metadata"]["name"]: one["stringData"] for one in found if one["kind"] == "Secret"}

    def tasks(self) -> Iterator[tuple[Pipeline, Expected]]:
        """Every task, with the pipeline that it belongs to."""
        yield from ((self.rows, task) for task in TASKS)
        yield from ((self.states, task) for task in WORKFLOWS)

    def describe_catalog(self, pipeline: Pipeline, task: Expected) -> str:
        """What the catalog says before anything goes: the status of the task, or of each node where those differ."""
        if pipeline is not self.states or not task.row:
            return task.status
        return ", ".join(dict.fromkeys([task.status, task.step_status]))

    def look(self) -> dict[str, Residue]:
        """What is there now of every task."""
        return {task.task_id: pipeline.look(task.task_id) for pipeline, task in self.tasks()}


def _date_of(task_id: str) -> datetime:
    digits = task_id.replace("-", "_").split("_")[1]
    return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC)
