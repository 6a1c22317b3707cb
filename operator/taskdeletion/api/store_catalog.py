"""The catalog of a TaskStore: what knows the tasks, as rows of PostgreSQL or as state keys in Redis.

Part of the kind TaskStore. Holds no behaviour.
"""

from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, model_validator

from taskdeletion.api.common import Model, ObjectReference, StatusWord, TimeZone, matching, rule, with_rules
from taskdeletion.api.places import REDIS_REFERENCE, KeyPattern, fixed_choice, immutable

_PLAIN: Final = r"[A-Za-z_][A-Za-z0-9_$]{0,62}"
_QUOTED: Final = r'"([^"\x00-\x1f\x7f]|""){1,63}"'
_ONE_KIND: Final = "spec.catalog needs exactly one of postgres and redis: write where your pipeline keeps its tasks"
TABLE_PATTERN: Final = rf"^({_PLAIN}|{_QUOTED})(\.({_PLAIN}|{_QUOTED}))?$"

TableName = Annotated[
    str,
    matching(
        TABLE_PATTERN,
        "a table is named by letters, digits, '_' and '$' (no digit first), at most 63 of them, optionally after its"
        " schema and a dot; write for example public.data_pipeline_tasks. Any other name stands in double quotes, as in"
        ' SQL: "Data-Tasks"',
        min_length=1,
        max_length=257,
    ),
]
FieldName = Annotated[str, Field(min_length=1, max_length=128)]


class PostgresCatalog(Model):
    """The index of tasks, in two tables of a PostgreSQL database."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            immutable("catalog.postgres.tasksTable"), immutable("catalog.postgres.stepsTable")
        ),
    )

    secret_ref: ObjectReference = Field(
        description="Secret with the key `url` (postgresql://user:password@host:port/database) and optional"
        " `ca.crt`, `tls.crt`, `tls.key`. It may rotate at any time."
    )
    tasks_table: TableName = Field(
        default="data_pipeline_tasks",
        description="Table of the tasks, optionally schema-qualified, spelled exactly as the database stores it.",
    )
    steps_table: TableName = Field(
        default="data_pipeline_task_steps",
        description="Table of the steps of the tasks, optionally schema-qualified.",
    )
    time_zone: TimeZone = Field(
        default="UTC",
        description="IANA zone of columns without one (`timestamp without time zone`).",
    )
    terminal_statuses: Annotated[list[StatusWord], Field(min_length=1, max_length=32)] = Field(
        default=["completed", "partial_completed", "failed", "cancelled"],
        description="Statuses of a task that is finished. Every other status counts as running.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    running_step_statuses: Annotated[list[StatusWord], Field(max_length=32)] = Field(
        default=["running"],
        description="A task with a step in one of these statuses counts as running.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class RedisCatalog(Model):
    """The index of tasks, in the keys that hold their state: JSON objects or hashes, one or several per task."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=with_rules(immutable("catalog.redis.keyPattern")))

    secret_ref: ObjectReference = Field(description=REDIS_REFERENCE)
    key_pattern: KeyPattern = Field(
        default="{taskId}:node:*",
        description="Pattern of the state keys of a task: {taskId} exactly once, and behind it the wildcards of Redis'"
        " MATCH. A task exists while one key does.",
    )
    status_field: FieldName = Field(
        default="status", description="Field of the state that holds its status. A state without it counts as running."
    )
    created_field: FieldName = Field(
        default="created_at",
        description="Field with the creation time of the task: ISO 8601, or seconds or milliseconds since 1970. The"
        " latest of all keys counts; where one lacks it, the task goes only with force: true.",
    )
    updated_field: FieldName = Field(
        default="updated_at", description="Field with the time of the last change, in the same forms."
    )
    ttl_seconds: Annotated[int, Field(ge=1, le=315_360_000)] | None = Field(
        default=None,
        description="Time to live that the pipeline gives a key with every change: tells when a state without"
        " updatedField last changed.",
    )
    settle_seconds: Annotated[int, Field(ge=0, le=604_800)] = Field(
        default=300,
        description="A task whose state changed less than this ago counts as running, as does one of which no field"
        " and no time to live says when. 0: no such check.",
    )
    time_zone: TimeZone = Field(default="UTC", description="IANA zone of times without one.")
    terminal_statuses: Annotated[list[StatusWord], Field(min_length=1, max_length=32)] = Field(
        default=["completed", "failed"],
        description="Statuses of a state that is finished. A task is, when all its states are.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class Catalog(Model):
    """The index of tasks: existence, state and creation time."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra=with_rules(
            rule(
                "has(self.postgres) != has(self.redis)",
                _ONE_KIND,
            ),
            fixed_choice("catalog.postgres", "postgres", ".postgres"),
            fixed_choice("catalog.redis", "redis", ".redis"),
        ),
    )

    postgres: PostgresCatalog | None = Field(default=None, description="Tasks are rows of a PostgreSQL database.")
    redis: RedisCatalog | None = Field(
        default=None, description="Tasks have no rows: their state lives in keys of a Redis."
    )

    @model_validator(mode="after")
    def _require_one_kind(self) -> Self:
        if (self.postgres is None) == (self.redis is None):
            raise ValueError(_ONE_KIND)
        return self

    @property
    def terminal_statuses(self) -> list[str]:
        """The statuses of a finished task, whichever kind it is."""
        kind = self.postgres or self.redis
        assert kind is not None
        return kind.terminal_statuses
