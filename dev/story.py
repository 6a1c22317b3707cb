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
class Expected:
    """One task: what the catalog says of it, and what must have become of it."""

    task_id: str
    status: str
    fate: str
    state: str
    files: int = 12
    file_bytes: int = 20_000
    keys: int = 3
    row: bool = True
    step_status: str = "completed"


TASKS = (
    Expected("task_20250702_173932", "completed", FREED, "free-july: Deleted", files=15, file_bytes=174_763),
    Expected("task_20250702_174521", "partial_completed", FREED, "free-july: Deleted"),
    Expected("task_20250702_1739", "completed", KEPT, "a neighbour: nobody named it"),
    Expected("task_20250702_1739321", "completed", KEPT, "a neighbour: nobody named it"),
    Expected("task_20250703_090000", "failed", FORGOTTEN, "forget-everything: Deleted"),
    Expected("task_20250704_130000", "completed", FREED, "mixed: Deleted"),
    Expected("task_20250704_120000", "in_progress", KEPT, "mixed: Refused (TaskRunning)"),
    Expected("task_20250915_080000", "completed", KEPT, "mixed: Refused (TaskNewerThanRequest)"),
    Expected("task_19990101_000000", "-", KEPT, "mixed: NotFound (its files have no row)", row=False),
    Expected("task_20250705_080000", "completed", KEPT, "preview: WouldDelete"),
    Expected("task_20250706_000000", "in_progress", FREED, "clean-stuck: Deleted (forced)"),
    Expected("nightly_20250801_020000", "completed", FREED, "every-minute (policy): Deleted"),
    Expected("nightly_20250802_020000", "failed", FREED, "every-minute (policy): Deleted"),
    Expected("nightly_20250803_020000", "in_progress", KEPT, "a policy takes finished tasks only"),
    Expected("nightly_20250804_020000", "completed", KEPT, "every-minute keeps the newest two"),
    Expected("nightly_20250805_020000", "completed", KEPT, "every-minute keeps the newest two"),
)
WORKFLOWS = (
    Expected("wf-20250710-1", "completed", FORGOTTEN, "free-workflows: Deleted", keys=0),
    Expected("wf-20250710-10", "completed", KEPT, "a neighbour: nobody named it", keys=0),
    Expected(
        "wf-20250711-1", "completed", KEPT, "free-workflows: Refused (TaskRunning)", keys=0, step_status="running"
    ),
    Expected("wf-20250601-1", "-", KEPT, "free-workflows: NotFound (its state expired)", keys=0, row=False),
)
POLICY = "every-minute"
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

    def look(self) -> dict[str, Residue]:
        """What is there now of every task."""
        return {task.task_id: pipeline.look(task.task_id) for pipeline, task in self.tasks()}


def _date_of(task_id: str) -> datetime:
    digits = task_id.replace("-", "_").split("_")[1]
    return datetime.strptime(digits, "%Y%m%d").replace(tzinfo=UTC)
