"""The kind TaskRetentionPolicy: which finished tasks may go and when, and what became of the last run.

Source of the CRD, the API reference and the validation in the operator. Read by every room; holds no behaviour.
"""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, model_validator

from taskdeletion.api.common import (
    Kind,
    Model,
    ObjectReference,
    StatusWord,
    TimeZone,
    matching,
    rule,
    with_rules,
)
from taskdeletion.api.retention_status import TaskRetentionPolicyStatus
from taskdeletion.api.task_deletion import INT32_MAX, MAX_TASK_ID_LENGTH
from taskdeletion.api.timing import Duration, Schedule

MAX_TASKS_PER_RUN: Final = 200_000
MAX_KEEP_LAST: Final = 100_000
#: As a CronJob's: what the run appends still fits into a label, and into a name.
MAX_NAME_LENGTH: Final = 52
GLOB_PATTERN: Final = r"^[A-Za-z0-9_.*?-]+$"
_NO_CONDITION: Final = (
    "a rule says which tasks it takes: it needs at least one of statuses, olderThan and taskIdPattern. With nothing but"
    " keepLast it would take every other task; to protect only, add olderThan: 3650d"
)


class Rule(Model):
    """Which tasks a rule is about, and which of them may go. All of its conditions hold together."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            rule(
                "has(self.statuses) || has(self.olderThan) || has(self.taskIdPattern)",
                _NO_CONDITION,
                reason="FieldValueRequired",
            )
        ),
    )

    statuses: Annotated[list[StatusWord], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="Statuses of the tasks that the rule is about: terminal ones of the TaskStore only. Default: all of"
        " them. Of a task whose states in Redis differ, each has to be among them.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    task_id_pattern: (
        Annotated[
            str,
            matching(
                GLOB_PATTERN,
                "a pattern of task ids has letters, digits, '_', '-', '.', and the wildcards * and ?; it is compared"
                " with the whole id; write for example nightly_*",
                min_length=1,
                max_length=MAX_TASK_ID_LENGTH,
            ),
        ]
        | None
    ) = Field(
        default=None,
        description="Glob of the task ids that the rule is about, compared with the whole id: * any characters, ? one.",
    )
    older_than: Duration | None = Field(
        default=None,
        description="Of the tasks that the rule is about, only those created longer ago than this may go, by the clock"
        " of the catalog: a whole number with m, h, d or w, at most 3650d.",
    )
    keep_last: Annotated[int, Field(ge=1, le=MAX_KEEP_LAST)] | None = Field(
        default=None,
        description="How many of the newest tasks that the rule is about, and that still have files, no rule may touch,"
        " whatever their age.",
    )

    @model_validator(mode="after")
    def _require_a_condition(self) -> "Rule":
        if (self.statuses, self.task_id_pattern, self.older_than) == (None, None, None):
            raise ValueError(_NO_CONDITION)
        return self


class Limits(Model):
    """How much one run may take."""

    model_config = ConfigDict(extra="forbid")

    max_tasks_per_run: Annotated[int, Field(ge=1, le=MAX_TASKS_PER_RUN)] = Field(
        default=10_000,
        description="Tasks of one run, the oldest first; the others are left to the next runs.",
    )
    max_percentage: Annotated[int, Field(ge=1, le=100)] | None = Field(
        default=None,
        description="A run that would take more than this share of the tasks that still have files, counted before"
        " maxTasksPerRun cuts, is refused whole.",
    )
    minimum_age: Duration | None = Field(
        default=None, description="No task created less than this ago goes, whatever a rule says."
    )


class Template(Model):
    """Options of the TaskDeletions of a run. What is not set has the default of a TaskDeletion."""

    model_config = ConfigDict(extra="forbid")

    force: bool | None = Field(default=None, description="As in a TaskDeletion; only if set here.")
    delete_database_records: bool | None = Field(
        default=None,
        description="As in a TaskDeletion; only if set here. Tasks whose files are gone are then selected too.",
    )
    continue_on_error: bool | None = Field(default=None, description="As in a TaskDeletion.")
    not_found_policy: Literal["Fail", "Ignore"] | None = Field(default=None, description="As in a TaskDeletion.")
    backoff_limit: Annotated[int, Field(ge=0, le=100)] | None = Field(default=None, description="As in a TaskDeletion.")
    active_deadline_seconds: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = Field(
        default=None, description="As in a TaskDeletion."
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=300, le=INT32_MAX)] | None = Field(
        default=None,
        description="As in a TaskDeletion, but at least 300: the run has to see how each ended. The history limits hold"
        " beside it.",
    )


class TaskRetentionPolicySpec(Model):
    """Which finished tasks may go, when, and how many at a time."""

    model_config = ConfigDict(extra="forbid")

    store_ref: ObjectReference = Field(
        default=ObjectReference(name="default"),
        description="The TaskStore (same namespace) that says where these tasks live. It needs a catalog.",
    )
    schedule: Schedule = Field(
        description="When to run: minute, hour, day of month, month, day of week, or a macro such as @daily. A time"
        " that the change to summer time leaves out is run at its end, one that occurs twice is run once."
    )
    time_zone: TimeZone = Field(default="UTC", description="IANA zone of the schedule.")
    suspend: bool = Field(
        default=False,
        description="Begin no run while true. What a run has created goes on; what was missed is caught up once.",
    )
    starting_deadline_seconds: Annotated[int, Field(ge=10, le=INT32_MAX)] | None = Field(
        default=None,
        description="A run that could not begin within this many seconds of its time is skipped. Default: no limit.",
    )
    concurrency_policy: Literal["Forbid", "Allow", "Replace"] = Field(
        default="Forbid",
        description="When TaskDeletions of an earlier run have not ended: Forbid waits for them, Allow runs beside them"
        " (without the tasks they name), Replace deletes, and so cancels, them first.",
    )
    successful_deletions_history_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="TaskDeletions that succeeded to keep; those of the last run stay in any case."
    )
    failed_deletions_history_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=3, description="TaskDeletions that failed to keep; those of the last run stay in any case."
    )
    dry_run: bool = Field(default=False, description="Evaluate and report at each scheduled time, but create nothing.")
    rules: Annotated[list[Rule], Field(max_length=16)] = Field(
        default=[],
        description="A task goes when any rule wants it and no rule's keepLast protects it. No rule selects nothing.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    limits: Limits = Field(default=Limits(), description="How much one run may take.")
    template: Template = Field(default=Template(), description="Options of the TaskDeletions.")


class TaskRetentionPolicy(Kind):
    """Which finished tasks of a data pipeline may go, on a schedule. It creates TaskDeletions and deletes nothing."""

    KIND: ClassVar[str] = "TaskRetentionPolicy"
    PLURAL: ClassVar[str] = "taskretentionpolicies"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("trp",)
    ROOT_RULES: ClassVar[tuple[dict[str, str], ...]] = (
        rule(
            f"self.metadata.name.size() <= {MAX_NAME_LENGTH}",
            f"the name of a TaskRetentionPolicy has at most {MAX_NAME_LENGTH} characters, because"
            " those of its TaskDeletions are made of it; choose a shorter one",
        ),
    )
    PRINTER_COLUMNS: ClassVar[tuple[dict[str, Any], ...]] = (
        {"name": "Schedule", "type": "string", "jsonPath": ".spec.schedule"},
        {"name": "Suspend", "type": "boolean", "jsonPath": ".spec.suspend"},
        {"name": "Active", "type": "integer", "jsonPath": ".status.active"},
        {"name": "Last", "type": "date", "jsonPath": ".status.lastScheduleTime"},
        {"name": "Next", "type": "string", "jsonPath": ".status.nextScheduleTime"},
        {"name": "Matched", "type": "integer", "jsonPath": ".status.matched"},
        {"name": "Status", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Store", "type": "string", "jsonPath": ".spec.storeRef.name", "priority": 1},
        {"name": "Zone", "type": "string", "jsonPath": ".spec.timeZone", "priority": 1},
        {"name": "Freed", "type": "string", "jsonPath": ".status.lastRun.sizeFreed", "priority": 1},
        {
            "name": "Message",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
            "priority": 1,
        },
    )

    spec: TaskRetentionPolicySpec = Field(description="Which finished tasks may go, when, and how many at a time.")
    status: TaskRetentionPolicyStatus | None = Field(
        default=None,
        description="What became of it.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )
