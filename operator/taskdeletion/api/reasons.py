"""Every reason that a status, a condition, an Event or an audit line can carry: CamelCase, once, here.

Used by all rooms; each constant has a page in `docs/reasons/` (checked by a test). Values are part of the API.
"""

from typing import Final

# --- nothing to do, and why -------------------------------------------------------------------------------------
ABSENT: Final = "Absent"
KEPT_BY_REQUEST: Final = "KeptByRequest"

# --- a task that may not go ---------------------------------------------------------------------------------------
TASK_RUNNING: Final = "TaskRunning"
TASK_NEWER_THAN_REQUEST: Final = "TaskNewerThanRequest"
TASK_CHANGED: Final = "TaskChanged"
OTHER_STATUS: Final = "OtherStatus"
CREATION_TIME_UNKNOWN: Final = "CreationTimeUnknown"
FOREIGN_KEY_REFERENCES: Final = "ForeignKeyReferences"
NOT_IN_CATALOG: Final = "NotInCatalog"

# --- the world changed while the request worked -------------------------------------------------------------------
TASK_RESTARTED: Final = "TaskRestarted"
CATALOG_ENTRY_GONE: Final = "CatalogEntryGone"
RENAME_NOT_UNDONE: Final = "RenameNotUndone"
DIRECTORY_REAPPEARED: Final = "DirectoryReappeared"
NOT_EMPTY: Final = "NotEmpty"
STORE_REPLACED: Final = "StoreReplaced"

# --- dependencies: what passes by itself --------------------------------------------------------------------------
DEPENDENCY_UNAVAILABLE: Final = "DependencyUnavailable"
CLAIMED_BY_OTHER: Final = "ClaimedByOther"
STORE_NOT_FOUND: Final = "StoreNotFound"
STORE_INVALID: Final = "StoreInvalid"
OVERLAPPING_STORE: Final = "OverlappingStore"
SECRET_NOT_FOUND: Final = "SecretNotFound"
SECRET_FORBIDDEN: Final = "SecretForbidden"
SECRET_KEY_MISSING: Final = "SecretKeyMissing"
SECRET_VALUE_INVALID: Final = "SecretValueInvalid"
UNAVAILABLE: Final = "Unavailable"
AUTHENTICATION_FAILED: Final = "AuthenticationFailed"
TLS_FAILED: Final = "TlsFailed"
SCHEMA_MISSING: Final = "SchemaMissing"
BUCKET_MISSING: Final = "BucketMissing"
CLOCK_SKEW: Final = "ClockSkew"
VOLUME_NOT_MOUNTED: Final = "VolumeNotMounted"
STORE_ROOT_MISSING: Final = "StoreRootMissing"
STORE_ROOT_UNSAFE: Final = "StoreRootUnsafe"
ADMISSION_NOT_ENFORCED: Final = "AdmissionNotEnforced"

# --- Jobs that cannot start, or end -------------------------------------------------------------------------------
VOLUME_CLAIM_NOT_FOUND: Final = "VolumeClaimNotFound"
VOLUME_CLAIM_NOT_BOUND: Final = "VolumeClaimNotBound"
VOLUME_MOUNT_FAILED: Final = "VolumeMountFailed"
JOBS_FORBIDDEN: Final = "JobsForbidden"
JOB_NOT_OURS: Final = "JobNotOurs"
JOB_NOT_STARTED: Final = "JobNotStarted"
JOB_STILL_RUNNING: Final = "JobStillRunning"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
IMAGE_PULL_FAILED: Final = "ImagePullFailed"
POD_UNSCHEDULABLE: Final = "PodUnschedulable"
POD_SECURITY_DENIED: Final = "PodSecurityDenied"
ADMISSION_DENIED: Final = "AdmissionDenied"

# --- failures of an effect ----------------------------------------------------------------------------------------
TIMEOUT: Final = "Timeout"
ROW_LOCKED: Final = "RowLocked"
DATABASE_ERROR: Final = "DatabaseError"
SERVER_ERROR: Final = "ServerError"
BUSY: Final = "Busy"
NFS_LEFTOVERS: Final = "NfsLeftovers"
STILL_WRITTEN: Final = "StillWritten"
IO_ERROR: Final = "IoError"
PERMISSION_DENIED: Final = "PermissionDenied"
READ_ONLY: Final = "ReadOnly"
OBJECT_LOCKED: Final = "ObjectLocked"
MOUNT_INSIDE: Final = "MountInside"
CROSSES_DEVICE: Final = "CrossesDevice"
JOB_FAILED: Final = "JobFailed"
JOB_RESULT_INCOMPLETE: Final = "JobResultIncomplete"
INTERRUPTED: Final = "Interrupted"
INTERNAL_ERROR: Final = "InternalError"

# --- the request as a whole ---------------------------------------------------------------------------------------
ACCEPTED: Final = "Accepted"
INVALID_SPEC: Final = "InvalidSpec"
NOT_CONFIRMED: Final = "NotConfirmed"
NOT_ADMITTED: Final = "NotAdmitted"
CATALOG_REQUIRED: Final = "CatalogRequired"
PROGRESSING: Final = "Progressing"
RETRYING: Final = "Retrying"
SUSPENDED: Final = "Suspended"
SUCCEEDED: Final = "Succeeded"
DRY_RUN: Final = "DryRun"
TASKS_NOT_DELETED: Final = "TasksNotDeleted"
STOPPED_ON_ERROR: Final = "StoppedOnError"
BACKOFF_LIMIT_EXCEEDED: Final = "BackoffLimitExceeded"
DEADLINE_EXCEEDED: Final = "DeadlineExceeded"
CANCELLED: Final = "Cancelled"

# --- a store as a whole -------------------------------------------------------------------------------------------
READY: Final = "Ready"

# --- a whole directory that the sweep put back --------------------------------------------------------------------
DIRECTORY_PUT_BACK: Final = "DirectoryPutBack"

# --- a policy and its runs ----------------------------------------------------------------------------------------
SCHEDULED: Final = "Scheduled"
RUN_ACTIVE: Final = "RunActive"
PREVIOUS_RUN_ACTIVE: Final = "PreviousRunActive"
RUN_SKIPPED: Final = "RunSkipped"
RUN_FAILED: Final = "RunFailed"
CREATION_REFUSED: Final = "CreationRefused"
LIMIT_EXCEEDED: Final = "LimitExceeded"
LIMITED: Final = "Limited"
NO_RULES: Final = "NoRules"
NOTHING_MATCHED: Final = "NothingMatched"
