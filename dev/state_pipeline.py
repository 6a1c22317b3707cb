"""A pipeline without a database: the state of its tasks lives in Redis, as JSON under `<taskId>:node:<name>`.

The second kind of system that the operator serves, on the dev stack. Used by the demo and the tests, not by the
operator.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import redis

from dev.pipeline import OLD, Pipeline, Residue

STATE_DATABASE = 3
TTL_SECONDS = 86_400
NODES = ("extract", "transform")
#: How long ago a finished task last changed: longer than any `settleSeconds` in use here.
SETTLED = timedelta(hours=2)


class StatePipeline(Pipeline):
    """A `Pipeline` whose catalog is its state in Redis. Statuses: pending, running, completed, failed.

    `row` of a Residue is the state of the first node; `steps` is the number of state keys.
    """

    CLAIM: ClassVar[str] = "shared-files"
    SUB_PATH: ClassVar[str] = "workflows"
    OBJECT_PREFIX: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.stack.redis.url)
        self.state_url = urlunsplit(parts._replace(path=f"/{STATE_DATABASE}"))
        self.states = redis.Redis.from_url(self.state_url)

    # --- set up -----------------------------------------------------------------------------------------------------
    def create_catalog(self, *, migrated: bool = True) -> None:
        """Redis needs nothing to be created."""

    def catalog_secret(self) -> dict[str, dict[str, str]]:
        """The Secret of the catalog, by name."""
        return {"pipeline-state": {"url": self.state_url}}

    def catalog_spec(self) -> dict[str, Any]:
        """`spec.catalog` of the TaskStore."""
        state = {"keyPattern": self.state_key("{taskId}", "*"), "ttlSeconds": TTL_SECONDS}
        return {"redis": {"secretRef": {"name": "pipeline-state"}, **state}}

    def key_of(self, task_id: str) -> str:
        """The plain data key of a task: its pattern can match no state key."""
        return f"data/{self.prefix}{task_id}"

    def state_key(self, task_id: str, node: str) -> str:
        """The state key of one node of a task."""
        return f"{self.prefix}{task_id}:node:{node}"

    # --- put there --------------------------------------------------------------------------------------------------
    def add_rows(
        self,
        task_id: str,
        *,
        status: str = "completed",
        steps: int = 2,
        created_at: datetime | None = None,
        step_status: str = "completed",
    ) -> None:
        """The state of a task: one key per node, with a TTL. `status` is that of the first node."""
        created = created_at or datetime.now(UTC) - OLD
        for number, node in enumerate(NODES[:steps] or NODES[:1]):
            self.write_state(task_id, node, status if number == 0 else step_status, created, age=SETTLED)

    def write_state(
        self, task_id: str, node: str, status: str, created_at: datetime, *, age: timedelta = timedelta()
    ) -> None:
        """Write one node's state, as if it were done `age` ago."""
        now = datetime.now(UTC) - age
        state = {"status": status, "created_at": created_at.isoformat(), "finished_at": now.isoformat()}
        left = TTL_SECONDS - int(age.total_seconds())
        self.states.set(self.state_key(task_id, node), json.dumps(state), ex=left)

    # --- change -----------------------------------------------------------------------------------------------------
    def begin_run(self, task_id: str, *, renews_created_at: bool = False) -> None:
        """The state of a task says that it runs again."""
        self._rewrite(task_id, "running", renews_created_at=renews_created_at, age=timedelta())

    def complete_run(self, task_id: str) -> None:
        """The state of a task says that it has ended, long enough ago."""
        self._rewrite(task_id, "completed", renews_created_at=False, age=SETTLED)

    def _rewrite(self, task_id: str, status: str, *, renews_created_at: bool, age: timedelta) -> None:
        state, _ = self.look_at_entry(task_id)
        known = datetime.fromisoformat(state["created_at"]) if state else None
        created = datetime.now(UTC) if known is None or renews_created_at else known
        self.write_state(task_id, NODES[0], status, created, age=age)

    def remove_entry(self, task_id: str) -> None:
        """The state of a task expires, or somebody else removes it."""
        if keys := self._state_keys(task_id):
            self.states.delete(*keys)

    # --- look -------------------------------------------------------------------------------------------------------
    def count_records(self, found: Residue) -> int:
        """How many state keys a task has."""
        return found.steps

    def look_at_entry(self, task_id: str) -> tuple[Mapping[str, Any] | None, int]:
        """The state of the first node that has one, and the number of state keys."""
        keys = self._state_keys(task_id)
        values = [value for key in keys if (value := self.states.get(key)) is not None]
        return (json.loads(values[0]) if values else None), len(values)

    def _state_keys(self, task_id: str) -> list[bytes]:
        return sorted(self.states.scan_iter(self.state_key(task_id, "*"), count=1000))
