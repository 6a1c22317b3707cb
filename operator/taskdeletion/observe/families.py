"""Every metric of the operator's own, written down once: name, type, labels, and what it says.

`metrics` and `present` fill them, `docs/metrics.md` lists them. Values of labels are words of the API (phases,
reasons), or names of which `bounds` admits a limited number; never ids of tasks, paths or messages. The namespace of an
object is `object_namespace`: `namespace` is what Prometheus calls that of the pod.
"""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram"]

_SHORT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_MEDIUM: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_LONG: Final = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 21600.0, 86400.0)


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `name`: as it is scraped, without a histogram's `_bucket`, `_sum`, `_count`."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


# --- what ended ---------------------------------------------------------------------------------------------------
ENDED_REQUESTS: Final = Family(
    "taskdeletion_ended_requests_total",
    "counter",
    "TaskDeletions that ended, by their last phase (Cancelled: deleted while live) and the reason of their end.",
    ("object_namespace", "phase", "reason", "dry_run"),
)
REQUEST_SECONDS: Final = Family(
    "taskdeletion_request_duration_seconds",
    "histogram",
    "From startTime to the end of a TaskDeletion, waiting included.",
    ("phase", "dry_run"),
    _LONG,
)
TASKS: Final = Family(
    "taskdeletion_tasks_total",
    "counter",
    "Tasks of TaskDeletions that ended, by final state and its reason.",
    ("object_namespace", "state", "reason"),
)
RESOURCES: Final = Family(
    "taskdeletion_resources_total",
    "counter",
    "Resources of those tasks, by outcome and its reason.",
    ("resource", "outcome", "reason"),
)

# --- what was deleted, as it goes ---------------------------------------------------------------------------------
FILES: Final = Family("taskdeletion_deleted_files_total", "counter", "Files that were deleted.", ("object_namespace",))
REDIS_KEYS: Final = Family(
    "taskdeletion_deleted_redis_keys_total", "counter", "Redis keys that were deleted.", ("object_namespace",)
)
OBJECTS: Final = Family(
    "taskdeletion_deleted_objects_total", "counter", "Objects that were deleted.", ("object_namespace",)
)
RECORDS: Final = Family(
    "taskdeletion_deleted_records_total",
    "counter",
    "Rows of the database, or state keys of a Redis catalog, that were deleted.",
    ("object_namespace",),
)
FREED_BYTES: Final = Family(
    "taskdeletion_freed_bytes_total",
    "counter",
    "Bytes that were freed in directories and object stores.",
    ("object_namespace", "resource"),
)

# --- the work -----------------------------------------------------------------------------------------------------
ATTEMPTS: Final = Family("taskdeletion_attempts_total", "counter", "Attempts that were begun.")
ATTEMPT_SECONDS: Final = Family(
    "taskdeletion_attempt_duration_seconds", "histogram", "One attempt at the open tasks of a request.", (), _MEDIUM
)
RETRIES: Final = Family(
    "taskdeletion_retries_total",
    "counter",
    "Attempts that left tasks open and are followed by another one, by the reason of the first such task.",
    ("reason",),
)
CLAIM_SECONDS: Final = Family(
    "taskdeletion_claim_duration_seconds",
    "histogram",
    "The claim of one round (up to 50 tasks): lock, check, rename, commit.",
    (),
    _SHORT,
)
STEP_SECONDS: Final = Family(
    "taskdeletion_step_duration_seconds",
    "histogram",
    "One resource of one round (up to 50 tasks), from the start of its purge until its last result.",
    ("resource",),
    _MEDIUM,
)
RECONCILE_SECONDS: Final = Family(
    "taskdeletion_reconcile_duration_seconds", "histogram", "One look at one object.", ("kind",), _MEDIUM
)
RECONCILE_ERRORS: Final = Family(
    "taskdeletion_reconcile_errors_total",
    "counter",
    "Looks that ended with an error: expected (the API server is away, somebody else wrote) or unforeseen.",
    ("kind", "error"),
)

# --- what is there now --------------------------------------------------------------------------------------------
LIVE_REQUESTS: Final = Family(
    "taskdeletion_live_requests", "gauge", "TaskDeletions that were looked at and have not ended.", ("phase",)
)
WAITING_REQUESTS: Final = Family(
    "taskdeletion_waiting_requests",
    "gauge",
    "TaskDeletions that wait for something that is not there, by what it is.",
    ("object_namespace", "reason"),
)
QUEUE_DEPTH: Final = Family(
    "taskdeletion_queue_depth",
    "gauge",
    "Objects in the work queue: ready (waiting for a worker), delayed (due later).",
    ("state",),
)
QUEUE_SECONDS: Final = Family(
    "taskdeletion_queue_oldest_seconds",
    "gauge",
    "How long the object that waits longest has been waiting for a worker.",
)
WORKERS: Final = Family("taskdeletion_workers", "gauge", "Workers.")
BUSY_WORKERS: Final = Family("taskdeletion_busy_workers", "gauge", "Workers that work on an object.")
LEADER: Final = Family(
    "taskdeletion_leader", "gauge", "1: this process works (it leads, or is alone); 0: it stands by."
)
LAST_SUCCESS: Final = Family(
    "taskdeletion_last_success_timestamp_seconds",
    "gauge",
    "When a TaskDeletion of the store last succeeded (dry runs aside).",
    ("object_namespace", "store"),
)
LAST_FAILURE: Final = Family(
    "taskdeletion_last_failure_timestamp_seconds",
    "gauge",
    "When a TaskDeletion of the store last ended Failed or PartiallyFailed.",
    ("object_namespace", "store"),
)

# --- stores -------------------------------------------------------------------------------------------------------
STORE_READY: Final = Family(
    "taskdeletion_store_ready",
    "gauge",
    "Whether the last probe found every part usable.",
    ("object_namespace", "store"),
)
DEPENDENCY_UP: Final = Family(
    "taskdeletion_dependency_up",
    "gauge",
    "Whether the last probe found this part of the store usable.",
    ("object_namespace", "store", "part"),
)
DEPENDENCY_PROBLEMS: Final = Family(
    "taskdeletion_dependency_problems",
    "gauge",
    "What the last probe found wrong with a part (Store: with the store as a whole), by reason.",
    ("object_namespace", "store", "part", "reason"),
)
PROBE_TIME: Final = Family(
    "taskdeletion_store_probe_timestamp_seconds",
    "gauge",
    "When the store was last probed.",
    ("object_namespace", "store"),
)
LEFTOVERS: Final = Family(
    "taskdeletion_leftovers",
    "gauge",
    "Directories that were moved aside and belong to no live request, as of the last probe.",
    ("object_namespace", "store", "state"),
)

# --- policies -----------------------------------------------------------------------------------------------------
POLICY_RUNS: Final = Family(
    "taskdeletion_policy_runs_total",
    "counter",
    "Runs of TaskRetentionPolicies by their outcome: Succeeded, Failed, Refused, Skipped.",
    ("object_namespace", "outcome", "reason"),
)
POLICY_READY: Final = Family(
    "taskdeletion_policy_ready", "gauge", "Whether the policy is Ready.", ("object_namespace", "policy", "reason")
)
POLICY_NEXT: Final = Family(
    "taskdeletion_policy_next_schedule_timestamp_seconds",
    "gauge",
    "When the next run is due; absent while the policy is suspended.",
    ("object_namespace", "policy"),
)
POLICY_LAG: Final = Family(
    "taskdeletion_policy_lag_seconds",
    "gauge",
    "For how long a run has been due that has not begun.",
    ("object_namespace", "policy"),
)
POLICY_SUCCESS: Final = Family(
    "taskdeletion_policy_last_success_timestamp_seconds",
    "gauge",
    "When a run of the policy last ended well.",
    ("object_namespace", "policy"),
)
HIDDEN: Final = Family(
    "taskdeletion_hidden_objects",
    "gauge",
    "Stores and policies that are not shown one by one, because there are too many.",
    ("kind",),
)

# --- the API server, the program ----------------------------------------------------------------------------------
API_REQUESTS: Final = Family(
    "taskdeletion_api_requests_total",
    "counter",
    "Requests to the API server (without those for the Lease, and the watch) by verb and HTTP status; none: no answer.",
    ("verb", "code"),
)
API_SECONDS: Final = Family(
    "taskdeletion_api_request_duration_seconds", "histogram", "Those requests, each attempt.", ("verb",), _SHORT
)
BUILD: Final = Family("taskdeletion_build_info", "gauge", "1; the version of the operator.", ("version",))

FAMILIES: Final = tuple(family for family in tuple(globals().values()) if isinstance(family, Family))
