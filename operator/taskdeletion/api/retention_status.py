"""The status of a TaskRetentionPolicy: its preview, its last run, its conditions.

Part of the kind TaskRetentionPolicy, written by the operator only. Holds no behaviour.
"""

from typing import Annotated, Literal

from pydantic import Field

from taskdeletion.api.common import Condition, Message, Model, Reason, Time
from taskdeletion.api.task_deletion import MAX_TASK_ID_LENGTH, Count


class Evaluation(Model):
    """What the rules and limits make of the tasks of a catalog at one moment."""

    evaluated: Count = Field(default=0, description="Tasks that still have files, or have records that are to go.")
    matched: Count = Field(default=0, description="Finished tasks that a rule wants.")
    protected: Count = Field(default=0, description="Of these, tasks that keepLast, minimumAge or a live run protects.")
    refused: Count = Field(default=0, description="Of these, tasks that the limits leave out.")
    selected: Count = Field(default=0, description="Of these, tasks that go.")
    reason: Reason | None = Field(default=None, description="Why nothing goes, or not everything.")
    message: Message | None = Field(default=None, description="The same, for people.")


class Preview(Evaluation):
    """What the next run would take, as found when the spec last changed. Nothing was deleted for it."""

    generation: Annotated[int, Field(ge=0)] = Field(description="metadata.generation of the spec that was evaluated.")
    evaluation_time: Time = Field(description="When the catalog was read.")
    scheduled_time: Time | None = Field(default=None, description="The run that ages were computed for.")
    task_ids: Annotated[list[Annotated[str, Field(max_length=MAX_TASK_ID_LENGTH)]], Field(max_length=10)] = Field(
        default=[],
        description="The first tasks that would go, oldest first.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


RunPhase = Literal["Releasing", "Active", "Succeeded", "Failed", "Refused"]


class Draft(Model):
    """A run that is being created. Its TaskDeletions are suspended, and are thrown away unless the last one exists."""

    id: Annotated[str, Field(max_length=64)] = Field(description="Marks the TaskDeletions of this draft.")
    scheduled_time: Time = Field(description="The time of the schedule that it is a run of.")
    parts: Count = Field(description="TaskDeletions that it needs.")
    renew_time: Time = Field(description="When whoever creates it last said so; long ago: it was abandoned.")


class Run(Evaluation):
    """The last run that was begun."""

    generation: Annotated[int, Field(ge=0)] = Field(description="metadata.generation of the spec that it went by.")
    scheduled_time: Time = Field(description="The time of the schedule that it is the run of.")
    phase: RunPhase = Field(
        description="Releasing (its TaskDeletions), Active, Succeeded, Failed (a TaskDeletion failed, or was deleted"
        " before it ended), Refused (by a limit: nothing was created)."
    )
    draft: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Marks the TaskDeletions that are to be released."
    )
    start_time: Time | None = Field(default=None, description="When it began.")
    completion_time: Time | None = Field(default=None, description="When it ended, however it ended.")
    created: Count = Field(default=0, description="TaskDeletions.")
    active: Annotated[list[Annotated[str, Field(max_length=253)]], Field(max_length=500)] = Field(
        default=[],
        description="Names of the TaskDeletions that have not ended.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    failures: Count = Field(default=0, description="TaskDeletions that failed, or were deleted before they ended.")
    deleted: Count = Field(default=0, description="Tasks deleted so far.")
    failed: Count = Field(default=0, description="Tasks not deleted, of TaskDeletions that have ended.")
    bytes_freed: Count = Field(default=0, description="Bytes freed so far.")
    size_freed: Annotated[str, Field(max_length=32)] = Field(default="0 B", description="bytesFreed for people.")
    at_least: bool | None = Field(
        default=None, description="True when a TaskDeletion of the run is gone, so that the sums are lower bounds."
    )


class Skipped(Model):
    """A run that was not begun."""

    scheduled_time: Time = Field(description="The time of the schedule that was skipped.")
    reason: Reason = Field(description="Why, as one CamelCase word.")
    message: Message = Field(description="The same, for people.")


class Observed(Model):
    """The schedule as it was last seen. It fires for no time before it was seen so."""

    schedule: Annotated[str, Field(max_length=128)] = Field(description="spec.schedule.")
    time_zone: Annotated[str, Field(max_length=64)] = Field(description="spec.timeZone.")
    since: Time = Field(description="When it was first seen so, or the creation of the policy.")


class TaskRetentionPolicyStatus(Model):
    """What became of the policy. Written by the operator only."""

    observed_generation: Annotated[int, Field(ge=-1)] = Field(
        default=-1,
        description="metadata.generation that this status was computed from; -1 before the first look.",
    )
    last_schedule_time: Time | None = Field(default=None, description="The time of the last run that was begun.")
    next_schedule_time: Time | None = Field(default=None, description="The time of the next run; absent: suspended.")
    last_successful_time: Time | None = Field(default=None, description="When a run last ended well.")
    active: Count | None = Field(default=None, description="TaskDeletions of this policy that have not ended.")
    matched: Count | None = Field(default=None, description="Tasks that the rules wanted, by the last evaluation.")
    observed: Observed | None = Field(default=None, description="The schedule as it was last seen.")
    preview: Preview | None = Field(default=None, description="What the next run would take.")
    draft: Draft | None = Field(default=None, description="The run that is being created.")
    last_run: Run | None = Field(default=None, description="The last run that was begun.")
    last_skipped: Skipped | None = Field(default=None, description="The last run that was skipped.")
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        default=None,
        description="Accepted, Reconciling, Stalled, Ready.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
