"""The kind TaskStore: where the tasks of one namespace live, and whether each place can be worked on.

Source of the CRD, the API reference and the validation in the operator. Read by every room; holds no behaviour.
"""

from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from taskdeletion.api.common import (
    Condition,
    Kind,
    Model,
    ObjectName,
    ObjectReference,
    Time,
    matching,
    rule,
    with_rules,
)
from taskdeletion.api.places import REDIS_REFERENCE, SEPARATOR, KeyPattern, fixed_choice, immutable
from taskdeletion.api.store_catalog import Catalog

PREFIX_PATTERN = rf"^([^*?\[\]\\{{}}]*{SEPARATOR})?\{{taskId\}}({SEPARATOR}[^*?\[\]\\{{}}]*)?/$"
BUCKET_PATTERN = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
SUB_PATH_PATTERN = r"^[^/\x00-\x1f]+(/[^/\x00-\x1f]+)*$"


class PersistentVolumeClaim(Model):
    """A claim of the same namespace."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra=with_rules(immutable("directory.persistentVolumeClaim.claimName"))
    )

    claim_name: ObjectName = Field(description="Name of the PersistentVolumeClaim, in the same namespace.")


class Directory(Model):
    """Directories of the tasks: `<subPath>/<taskId>` on a volume."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            immutable("directory.subPath"),
            rule(
                "!self.subPath.split('/').exists(part, part == '.' || part == '..')",
                "spec.directory.subPath is a path below the volume's root: remove the parts '.' and '..'",
                ".subPath",
            ),
        ),
    )

    persistent_volume_claim: PersistentVolumeClaim = Field(description="The volume.")
    sub_path: Annotated[
        str,
        matching(
            SUB_PATH_PATTERN,
            "a path below the volume's root has no '/' at its beginning or end, none twice, and no control characters;"
            " write for example data_pipeline/training_data",
            min_length=1,
            max_length=512,
        ),
    ] = Field(
        default="data_pipeline/training_data",
        description="Folder on the volume that holds one directory per task. It must exist.",
    )


class Redis(Model):
    """Redis keys of the tasks."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=with_rules(immutable("redis.keyPatterns")))

    secret_ref: ObjectReference = Field(description=REDIS_REFERENCE)
    key_patterns: Annotated[
        list[KeyPattern],
        Field(min_length=1, max_length=16),
    ] = Field(
        default=["task:{taskId}", "task:{taskId}:*"],
        description="Patterns of the keys of a task: {taskId} exactly once, and behind it the wildcards of Redis'"
        " MATCH.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class ObjectStore(Model):
    """Objects of the tasks in a bucket of MinIO or another S3."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(immutable("objectStore.bucket"), immutable("objectStore.prefixes")),
    )

    secret_ref: ObjectReference = Field(
        description="Secret with the keys `endpoint` (http(s)://host:port), `accessKey`, `secretKey` and optional"
        " `sessionToken`, `region`, `ca.crt`, `tls.crt`, `tls.key`."
    )
    bucket: Annotated[
        str,
        matching(
            BUCKET_PATTERN,
            "a bucket's name has lower-case letters, digits, '-' and '.', and begins and ends with a letter or a digit;"
            " copy it from the object store",
            min_length=3,
            max_length=63,
        ),
    ] = Field(description="Name of the bucket.")
    prefixes: Annotated[
        list[
            Annotated[
                str,
                Field(
                    min_length=9,
                    max_length=512,
                    json_schema_extra=with_rules(
                        rule("self.split('{taskId}').size() == 2", "a prefix holds {taskId} exactly once"),
                        rule(
                            f"self.matches(r'{PREFIX_PATTERN}')",
                            "this prefix could match the objects of another task: on both sides of {taskId} stands"
                            " nothing, or a character that is no letter, digit, '_', '-' or '.', and it ends with '/';"
                            " write for example tasks/{taskId}/",
                        ),
                    ),
                ),
            ]
        ],
        Field(min_length=1, max_length=16),
    ] = Field(
        default=["tasks/{taskId}/"],
        description="Prefixes of the objects of a task: {taskId} exactly once, '/' at the end, no wildcards.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class TaskStoreSpec(Model):
    """Where the tasks of this namespace live. Locations are immutable; Secrets may rotate."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            rule(
                "has(self.directory) || has(self.redis) || has(self.objectStore)",
                "spec needs at least one of directory, redis and objectStore",
            ),
            *(fixed_choice(part, part, f".{part}") for part in ("catalog", "directory", "redis", "objectStore")),
        ),
    )

    catalog: Catalog | None = Field(
        default=None,
        description="The index of tasks. Without one nothing can be checked, so a TaskDeletion needs force: true.",
    )
    directory: Directory | None = Field(default=None, description="Directories of the tasks on a volume.")
    redis: Redis | None = Field(default=None, description="Redis keys of the tasks.")
    object_store: ObjectStore | None = Field(default=None, description="Objects of the tasks in a bucket.")


class Leftovers(Model):
    """Siblings of task directories that no live request owns. They are shown, and go only when a task is named."""

    claimed: Annotated[int, Field(ge=0)] = Field(default=0, description="Whole directories that were moved aside.")
    deleting: Annotated[int, Field(ge=0)] = Field(default=0, description="Directories that were begun to be purged.")
    examples: Annotated[list[Annotated[str, Field(max_length=255)]], Field(max_length=10)] = Field(
        default=[],
        description="Names of the first ones.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class TaskStoreStatus(Model):
    """Whether the store can be worked on, from a real probe of each backend."""

    observed_generation: Annotated[int, Field(ge=-1)] = Field(
        default=-1,
        description="metadata.generation that this status was computed from; -1 before the first look.",
    )
    last_probe_time: Time | None = Field(default=None, description="When the status last changed, by a probe.")
    leftovers: Leftovers | None = Field(default=None, description="Siblings that no live request owns.")
    conditions: Annotated[list[Condition], Field(max_length=16)] | None = Field(
        default=None,
        description="Ready, and one per backend: CatalogReady, DirectoryReady, RedisReady, ObjectStoreReady.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )


class TaskStore(Kind):
    """Where the tasks of one namespace live: the catalog that knows them, and the places they leave residue in."""

    KIND: ClassVar[str] = "TaskStore"
    PLURAL: ClassVar[str] = "taskstores"
    SHORT_NAMES: ClassVar[tuple[str, ...]] = ("tst",)
    PRINTER_COLUMNS: ClassVar[tuple[dict[str, Any], ...]] = (
        {"name": "Ready", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].status'},
        {"name": "Reason", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {
            "name": "Message",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
            "priority": 1,
        },
    )

    spec: TaskStoreSpec = Field(
        description="Where the tasks of this namespace live. Locations are immutable; Secrets may rotate."
    )
    status: TaskStoreStatus | None = Field(
        default=None,
        description="Whether the store can be worked on.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )
