"""Two catalogs with the same tasks in them: the hands of a pipeline on PostgreSQL and on Redis, and what they left.

Used by the contract suite that both catalogs pass, and by the tests of the Redis catalog alone. Nothing here goes
through the product but `open`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

import redis

from dev.stack import Stack
from taskdeletion.backends.postgres import PostgresCatalog, PostgresConnection
from taskdeletion.backends.redis import RedisCatalog, RedisConnection, StateKeys
from taskdeletion.domain.catalog import Catalog, Version
from tests.contract.test_postgres_database import QUICK, Database

CREATED: Final = datetime(2025, 7, 2, 17, 39, 32, 500000, tzinfo=UTC)
#: Long before any `settle_seconds` of a test.
UPDATED: Final = CREATED + timedelta(hours=1)
#: Records of one task: a row and its steps, or keys.
RECORDS: Final = 3
DATABASE: Final = 14
NODES: Final = ("extract", "load", "transform")
KEYS: Final = StateKeys(
    key_pattern="{taskId}:node:*",
    status_field="status",
    created_field="created_at",
    updated_field="updated_at",
    ttl_seconds=None,
    settle_seconds=300,
    time_zone="UTC",
    terminal_statuses=frozenset({"completed", "failed"}),
)
#: Set by the server itself: to send 200,000 keys takes long.
FILL: Final = """
for number = ARGV[1], ARGV[2] do
    local created = ARGV[3] + number * 60
    redis.call('SET', string.format('task_%06d:node:extract', number), string.format(
        '{"status": "completed", "created_at": %d, "updated_at": %d}', created, created))
end
"""
FILL_BATCH: Final = 5000


@dataclass
class Tasks(ABC):
    """The tasks of one catalog. `url`: of its server, as a user who may do everything."""

    url: str
    closing: ExitStack = field(default_factory=ExitStack)

    def catalog(self, url: str = "") -> Catalog:
        """A catalog of our own, closed at the end."""
        opened = self.open(url or self.url)
        self.closing.callback(opened.close)
        return opened

    def versions(self, *task_ids: str) -> dict[str, Version]:
        """The versions of these tasks now."""
        return {task_id: entry.version for task_id, entry in self.catalog().read(task_ids).items()}

    def with_password(self, password: str) -> str:
        """The url with another password."""
        parts = urlsplit(self.url)
        user = f"{parts.username or ''}:{password}"
        return urlunsplit(parts._replace(netloc=f"{user}@{parts.hostname}:{parts.port}"))

    def unreachable(self) -> str:
        """The url of a server that nobody started."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=f"{parts.username or ''}:{parts.password}@127.0.0.1:1"))

    @abstractmethod
    def open(self, url: str) -> Catalog:
        """A new catalog."""

    @abstractmethod
    def put(self, *task_ids: str, status: str = "completed", created_at: datetime | None = CREATED) -> None:
        """Tasks with three records each, of a run that ended long ago."""

    @abstractmethod
    def fill(self, count: int) -> None:
        """So many tasks, task_000001 and so on, each created a minute after the one before; one record each."""

    @abstractmethod
    def change(self, task_id: str) -> None:
        """The smallest change of a task that ended: it says of itself a later time, and nothing else."""

    @abstractmethod
    def restart(self, task_id: str, *, renews_created_at: bool) -> None:
        """The pipeline runs the task again."""

    @abstractmethod
    def remove(self, task_id: str) -> None:
        """Somebody else removes the task."""

    @abstractmethod
    def records(self) -> Mapping[str, int]:
        """Every task that is there, with the number of its records."""

    @abstractmethod
    def content(self) -> object:
        """Everything that is there, to be compared with itself."""

    @abstractmethod
    def clock(self) -> datetime:
        """The server's clock."""


@dataclass
class PostgresTasks(Tasks):
    """Tasks as rows: one of the task, two of its steps."""

    database: Database = field(kw_only=True)

    def open(self, url: str) -> PostgresCatalog:
        return PostgresCatalog(PostgresConnection(url), self.database.tables, timeouts=QUICK)

    def put(self, *task_ids: str, status: str = "completed", created_at: datetime | None = CREATED) -> None:
        values = {"ids": list(task_ids), "status": status, "created": _naive(created_at), "updated": _naive(UPDATED)}
        with self.database.connect() as connection:
            connection.execute(
                "INSERT INTO data_pipeline_tasks (task_id, status, created_at, updated_at)"
                " SELECT unnest(%(ids)s::text[]), %(status)s, %(created)s, %(updated)s",
                values,
            )
            for _ in range(RECORDS - 1):
                connection.execute(
                    "INSERT INTO data_pipeline_task_steps (task_id, status)"
                    " SELECT unnest(%(ids)s::text[]), 'completed'",
                    values,
                )

    def fill(self, count: int) -> None:
        self.database.execute(
            "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT 'task_' || lpad(n::text, 6, '0'),"
            " 'completed', %s + n * interval '1 minute' FROM generate_series(1, %s) n",
            _naive(CREATED),
            count,
        )
        self.database.execute("ANALYZE data_pipeline_tasks")

    def change(self, task_id: str) -> None:
        self._set(task_id, "updated_at", UPDATED + timedelta(microseconds=1))

    def restart(self, task_id: str, *, renews_created_at: bool) -> None:
        self.database.restart_task(task_id)
        if renews_created_at:
            self._set(task_id, "created_at", CREATED + timedelta(days=1))

    def remove(self, task_id: str) -> None:
        self.database.execute("DELETE FROM data_pipeline_tasks WHERE task_id = %s", task_id)

    def records(self) -> Mapping[str, int]:
        steps = "SELECT count(*) FROM data_pipeline_task_steps s WHERE s.task_id = t.task_id"
        return dict(self.database.execute(f"SELECT t.task_id, 1 + ({steps}) FROM data_pipeline_tasks t"))

    def content(self) -> object:
        tasks, steps = "SELECT * FROM data_pipeline_tasks", "SELECT * FROM data_pipeline_task_steps"
        return sorted(map(str, self.database.execute(tasks))), sorted(map(str, self.database.execute(steps)))

    def clock(self) -> datetime:
        ((now,),) = self.database.execute("SELECT clock_timestamp()")
        return cast("datetime", now).astimezone(UTC)

    def _set(self, task_id: str, column: str, value: datetime | None) -> None:
        statement = f"UPDATE data_pipeline_tasks SET {column} = %s WHERE task_id = %s"
        self.database.execute(statement, _naive(value), task_id)


@dataclass
class RedisTasks(Tasks):
    """Tasks as JSON strings below `{taskId}:node:`, one per node. `client`: of the database that they are in."""

    client: redis.Redis = field(kw_only=True)
    keys: StateKeys = KEYS

    def open(self, url: str) -> RedisCatalog:
        return RedisCatalog(RedisConnection(url), self.keys)

    def catalog_of(self, url: str = "", *, timeout_seconds: float = 10.0, **keys: Any) -> RedisCatalog:
        """A catalog whose TaskStore says something else of its keys."""
        opened = RedisCatalog(
            RedisConnection(url or self.url), replace(self.keys, **keys), timeout_seconds=timeout_seconds
        )
        self.closing.callback(opened.close)
        return opened

    def put(self, *task_ids: str, status: str = "completed", created_at: datetime | None = CREATED) -> None:
        value = json.dumps(state(status, created_at=created_at))
        self.client.mset({key_of(task_id, node): value for task_id in task_ids for node in NODES})

    def fill(self, count: int) -> None:
        for first in range(1, count + 1, FILL_BATCH):
            last = min(first + FILL_BATCH - 1, count)
            self.client.eval(FILL, 0, str(first), str(last), str(int(CREATED.timestamp())))

    def write(self, key: str, value: object) -> None:
        """One key: bytes as they are, anything else as JSON."""
        self.client.set(key, value if isinstance(value, bytes) else json.dumps(value))

    def change(self, task_id: str) -> None:
        self.write(key_of(task_id), state("completed", updated_at=UPDATED + timedelta(microseconds=1)))

    def restart(self, task_id: str, *, renews_created_at: bool) -> None:
        created = CREATED + timedelta(days=1) if renews_created_at else CREATED
        self.write(key_of(task_id), state("running", created_at=created, updated_at=datetime.now(UTC)))

    def remove(self, task_id: str) -> None:
        self.client.delete(*(key_of(task_id, node) for node in NODES))

    def records(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for key in self.left():
            task_id = key.decode().partition(":node:")[0]
            found[task_id] = found.get(task_id, 0) + 1
        return found

    def left(self) -> set[bytes]:
        """Every key of the database."""
        return set(cast("list[bytes]", self.client.keys()))

    def content(self) -> object:
        return {key: self.client.dump(key) for key in sorted(self.left())}

    def clock(self) -> datetime:
        seconds, microseconds = self.client.time()
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)


def _naive(value: datetime | None) -> datetime | None:
    """As the columns have it: in UTC, without a zone."""
    return value and value.replace(tzinfo=None)


def key_of(task_id: str, node: str = NODES[0]) -> str:
    """The key of one node of a task."""
    return f"{task_id}:node:{node}"


def state(
    status: str = "completed", *, created_at: datetime | None = CREATED, updated_at: datetime = UPDATED, **more: object
) -> dict[str, object]:
    """What one key says."""
    created = {} if created_at is None else {"created_at": created_at.isoformat()}
    return {"status": status, **created, "updated_at": updated_at.isoformat(), **more}


@contextmanager
def postgres_tasks(database: Database) -> Iterator[PostgresTasks]:
    """A catalog in a fresh database."""
    tasks = PostgresTasks(database.url, database=database)
    with tasks.closing:
        yield tasks


@contextmanager
def redis_tasks(stack: Stack) -> Iterator[RedisTasks]:
    """A catalog in an empty database of the stack's Redis, and an empty one afterwards."""
    url = urlunsplit(urlsplit(stack.redis.url)._replace(path=f"/{DATABASE}"))
    client = redis.Redis.from_url(url)
    client.flushdb()
    tasks = RedisTasks(url, client=client)
    with tasks.closing:
        tasks.closing.callback(client.close)
        tasks.closing.callback(client.flushdb)
        yield tasks
