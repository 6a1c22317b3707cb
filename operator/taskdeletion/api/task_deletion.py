"""The kind TaskDeletion: what somebody asks for (`spec`) and what became of it (`status`).

Source of the CRD, the API reference and the validation in the operator. Read by every room; holds no behaviour.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from taskdeletion.api.common import (
    Condition,
    Kind,
    Model,
    ObjectReference,
    Reason,
    StatusWord,
    Time,
    rule,
    with_rules,
)

MAX_TASK_IDS = 500
MAX_TASK_ID_LENGTH = 128
TASK_ID_PATTERN = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
INT32_MAX = 2_147_483_647
INT64_MAX = 9_223_372_036_854_775_807
#: Names of users have no limit; a longer one is cut.
MAX_REQUESTER_LENGTH = 256

Phase = Literal["Pending", "Running", "Suspended", "Succeeded", "PartiallyFailed", "Failed"]
TaskState = Literal[
    "Pending",
    "Deleting",
    "Deleted",
    "WouldDelete",
    "Refused",
    "NotFound",
    "PartiallyFailed",
    "Failed",
    "NotAttempted",
]
Resource = Literal["Directory", "Redis", "MinIO", "DatabaseRecords"]
Outcome = Literal["Deleted", "WouldDelete", "Skipped", "Retained", "Failed", "NotAttempted"]

TaskId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_TASK_ID_LENGTH,
        json_schema_extra=with_rules(
            rule(
                f"self.matches('^{TASK_ID_PATTERN}$')",
                "a task id has letters, digits, '_', '-' and '.', and does not begin with '.'; correct or remove it",
            )
        ),
    ),
]

Count = Annotated[int, Field(ge=0, le=INT64_MAX)]


def _immutable(name: str, *, optional: bool = False) -> dict[str, str]:
    same = f"self.{name} == oldSelf.{name}"
    if optional:
        same = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {same})"
    return rule(
        same,
        f"spec.{name} is immutable: a request is a decision; create another TaskDeletion under another name",
        f".{name}",
        reason="FieldValueForbidden",
    )


class TaskDeletionSpec(Model):
    """What may be deleted, and how. Immutable, except `suspend` and `ttlSecondsAfterFinished`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            rule(
                "has(self.confirm) && self.confirm",
                "spec.confirm must be true: it is your word that the data of these tasks may be deleted for good;"
                " add 'confirm: true'",
                ".confirm",
                reason="FieldValueRequired",
            ),
            _immutable("storeRef"),
            _immutable("taskIds"),
            _immutable("confirm", optional=True),
            _immutable("force"),
            _immutable("deleteDatabaseRecords"),
            _immutable("continueOnError"),
            _immutable("dryRun"),
            _immutable("notFoundPolicy"),
            _immutable("tasksCreatedBefore", optional=True),
            _immutable("statuses", optional=True),
            _immutable("backoffLimit"),
            _immutable("activeDeadlineSeconds", optional=True),
        ),
    )

    store_ref: ObjectReference = Field(
        default=ObjectReference(name="default"),
        description="The TaskStore (same namespace) that says where these tasks live.",
    )
    task_ids: Annotated[list[TaskId], Field(min_length=1, max_length=MAX_TASK_IDS)] = Field(
        description="Ids of the tasks to delete, each once, exactly as the catalog spells them: 1 to 500 ids of"
        " letters, digits, '_', '-' and '.' (not first). No wildcards.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    confirm: bool | None = Field(
        default=None,
        description="Must be true: the requester's word that the data of these tasks may be deleted for good.",
    )
    force: bool = Field(
        default=False,
        description="Skip the check that a task is finished. The cutoff and all other checks still hold. Data that a"
        " running task writes meanwhile may be lost.",
    )
    delete_database_records: bool = Field(
        default=False,
        description="Also delete the rows of the tasks (steps, then task), last, once everything else is gone."
        " By default the rows stay and say that the directory does not exist any more. State keys of a Redis catalog"
        " always go.",
    )
    continue_on_error: bool = Field(
        default=True,
        description="Go on with other tasks when one fails. When false, tasks are worked on one at a time in the given"
        " order, and after the first failure the rest is NotAttempted.",
    )
    dry_run: bool = Field(
        default=False,
        description="Walk the same path and count what would be deleted, but delete nothing.",
    )
    not_found_policy: Literal["Fail", "Ignore"] = Field(
        default="Fail",
        description="What a task id that the catalog does not know means: Fail counts it as not done, Ignore as done."
        " Nothing is touched either way, except with force and Ignore together, which clean what it left behind.",
    )
    tasks_created_before: Time | None = Field(
        default=None,
        json_schema_extra=with_rules(
            rule(
                "self >= timestamp('1970-01-01T00:00:00Z') && self < timestamp('9999-01-01T00:00:00Z')",
                "write a full time between the years 1970 and 9998, such as 2025-07-31T00:00:00Z",
            )
        ),
        description="Only tasks created before this time may go; newer ones are refused. Default: the creation of this"
        " TaskDeletion. Always set it in manifests kept in git: task ids are reused, and a manifest can be re-applied.",
    )
    statuses: Annotated[list[StatusWord], Field(min_length=1, max_length=32)] | None = Field(
        default=None,
        description="Only tasks in one of these statuses may go; others are refused, also with force. Of a task whose"
        " states in Redis differ, each has to be among them. Default: any terminal status of the TaskStore.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = Field(
        default=6,
        description="How many times an attempt that failed in a way that may pass is repeated, with growing delays."
        " Waiting for an unavailable dependency uses no attempt.",
    )
    active_deadline_seconds: Annotated[int, Field(ge=1, le=INT32_MAX)] | None = Field(
        default=None,
        description="Seconds after the start when the request stops (at a safe boundary) and is Failed; waiting counts,"
        " and the clock begins anew after a suspension. Default: none.",
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = Field(
        default=None,
        description="Seconds after completion when this TaskDeletion itself is deleted. Default: it stays.",
    )
    suspend: bool = Field(
        default=False,
        description="Begin no further task while true. Tasks already claimed are finished first.",
    )


class ResourceStatus(Model):
    """What became of one resource of one task."""

    resource: Resource = Field(description="Which residue of the task.")
    outcome: Outcome = Field(
        description="Deleted, WouldDelete (dry run), Skipped (nothing to do), Retained (object lock), Failed, or"
        " NotAttempted."
    )
    reason: Reason | None = Field(default=None, description="Why, as one CamelCase word.")
    message: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="Why, for people; shortened where the status would grow too large."
    )
    retriable: bool | None = Field(default=None, description="True when the failure may pass and is tried again.")
    count: Count | None = Field(
        default=None,
        description="Files, keys, objects (versions) or rows that were (dry run: would be) deleted.",
    )
    bytes: Count | None = Field(default=None, description="Bytes that were (dry run: would be) freed.")
    at_least: bool | None = Field(
        default=None, description="True when a crash made the counts uncertain: at least this many."
    )


class TaskStatus(Model):
    """What became of one task."""

    task_id: Annotated[str, Field(max_length=MAX_TASK_ID_LENGTH)] = Field(description="The task.")
    state: TaskState = Field(description="Where the task stands.")
    reason: Reason | None = Field(default=None, description="Why, as one CamelCase word.")
    message: Annotated[str, Field(max_length=256)] | None = Field(
        default=None, description="Why, for people; shortened where the status would grow too large."
    )
    version: Annotated[str, Field(max_length=256)] | None = Field(
        default=None,
        description="The task's version in the catalog as it was announced: created|status|updated. The claim, and"
        " every later effect, accepts this version only.",
    )
    claimed: bool | None = Field(
        default=None, description="True once the claim was confirmed. Nothing is purged before."
    )
    directory_deleted: bool | None = Field(
        default=None, description="True when nothing of the task's directory is there any more."
    )
    database_records_deleted: bool | None = Field(
        default=None, description="True when the rows were asked to go, or the catalog is in Redis, and they are gone."
    )
    deleted_files_count: Count | None = Field(default=None, description="Files deleted from the directory.")
    deleted_size: Annotated[str, Field(max_length=32)] | None = Field(
        default=None, description="Bytes freed in the directory, for people (SI units)."
    )
    deleted_at: Time | None = Field(
        default=None, description="When the task was found to be gone, or the last of it that could go was."
    )
    resources: Annotated[list[ResourceStatus], Field(max_length=8)] | None = Field(
        default=None,
        description="What became of each resource.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class Summary(Model):
    """Sums over all tasks. A dry run counts in the wouldFree fields only."""

    requested: Count = Field(default=0, description="Tasks named by the spec.")
    deleted: Count = Field(default=0, description="Tasks of which nothing is left (rows kept unless asked).")
    skipped: Count = Field(default=0, description="Tasks not attempted.")
    refused: Count = Field(default=0, description="Tasks that may not be deleted.")
    failed: Count = Field(default=0, description="Tasks that failed, wholly or in part.")
    not_found: Count = Field(default=0, description="Tasks that the catalog does not know.")
    files_deleted: Count = Field(default=0, description="Files deleted.")
    bytes_freed: Count = Field(default=0, description="Bytes freed in directories and object stores.")
    size_freed: Annotated[str, Field(max_length=32)] = Field(
        default="0 B", description="bytesFreed for people (SI units)."
    )
    redis_keys_deleted: Count = Field(default=0, description="Redis keys deleted.")
    objects_deleted: Count = Field(default=0, description="Objects (versions) deleted.")
    records_deleted: Count = Field(default=0, description="Database rows, or state keys of a Redis catalog, deleted.")
    would_delete: Count | None = Field(default=None, description="Dry run: tasks that would be deleted.")
    would_free_files: Count | None = Field(default=None, description="Dry run: files that would be deleted.")
    would_free_bytes: Count | None = Field(default=None, description="Dry run: bytes that would be freed.")
    would_free_redis_keys: Count | None = Field(default=None, description="Dry run: keys that would be deleted.")
    would_free_objects: Count | None = Field(default=None, description="Dry run: objects that would be deleted.")
    would_free_records: Count | None = Field(default=None, description="Dry run: rows that would be deleted.")


class TaskDeletionStatus(Model):
    """What became of the request. Written by the operator only."""

    observed_generation: Annotated[int, Field(ge=-1)] = Field(
        default=-1,
        description="metadata.generation that this status was computed from; -1 before the first look.",
    )
    phase: Phase | None = Field(default=None, description="One word for people; conditions are for programs.")
    requested_by: Annotated[str, Field(max_length=MAX_REQUESTER_LENGTH)] | None = Field(
        default=None,
        description="Name of the user who created the request, or last wrote the policy that it is of; unknown where"
        " the API server did not see to it that this is true.",
    )
    start_time: Time | None = Field(default=None, description="When work began, by the API server's clock.")
    completion_time: Time | None = Field(default=None, description="When the request ended, however it ended.")
    attempts: Count | None = Field(default=None, description="Attempts begun.")
    next_attempt_time: Time | None = Field(default=None, description="When the next attempt is due.")
    progress: Annotated[str, Field(max_length=16)] | None = Field(
        default=None, description="Tasks in a final state, of all."
    )
    cutoff: Time | None = Field(
        default=None, description="Tasks created at or after this time (the catalog's clock) are refused."
    )
    store_uid: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="uid of the TaskStore that this request began with; it works on no other."
    )
    summary: Summary | None = Field(default=None, description="Sums over all tasks.")
    tasks: Annotated[list[TaskStatus], Field(max_length=MAX_TASK_IDS)] | None = Field(
        default=None,
        description="Every task in the order of work.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        default=None,
        description="Accepted, Reconciling, Stalled, Ready, FailureTarget, Complete, Failed.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class TaskDeletion(Kind):
    """A request to delete what finished tasks of a data pipeline left behind."""

    KIND: ClassVar[str] = "TaskDeletion"
    PLURAL: ClassVar[str] = "taskdeletions"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("td",)
    PRINTER_COLUMNS: ClassVar[tuple[dict[str, Any], ...]] = (
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "Progress", "type": "string", "jsonPath": ".status.progress"},
        {"name": "Failed", "type": "integer", "jsonPath": ".status.summary.failed"},
        {"name": "Freed", "type": "string", "jsonPath": ".status.summary.sizeFreed"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Store", "type": "string", "jsonPath": ".spec.storeRef.name", "priority": 1},
        {"name": "Dry-Run", "type": "boolean", "jsonPath": ".spec.dryRun", "priority": 1},
        {"name": "Force", "type": "boolean", "jsonPath": ".spec.force", "priority": 1},
        {
            "name": "Message",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
            "priority": 1,
        },
    )

    spec: TaskDeletionSpec = Field(
        description="What may be deleted, and how. Immutable, except suspend and ttlSecondsAfterFinished."
    )
    status: TaskDeletionStatus | None = Field(
        default=None,
        description="What became of it.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )
