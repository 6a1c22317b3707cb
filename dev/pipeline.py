"""A data pipeline's residue on the dev stack: one namespace with its database, keys, objects, volume, and TaskStore.

Used by the demo, the tests and the benchmarks to put tasks there and to look at what is left. Not by the operator.
`dev.state_pipeline` has the other kind, which keeps its tasks in Redis.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import minio
import psycopg
import redis
from psycopg import sql

from dev.stack import Stack

CLAIM = "training-data"
SUB_PATH = "data_pipeline/training_data"
OLD = timedelta(days=30)
_COMPLETE = sql.SQL("status = 'completed', updated_at = timezone('UTC', clock_timestamp())")
_BEGIN = sql.SQL("status = 'in_progress', updated_at = timezone('UTC', clock_timestamp()), directory_exists = TRUE")
_BEGIN_ANEW = sql.SQL("{}, created_at = timezone('UTC', now())").format(_BEGIN)
SCHEMA = """
CREATE TABLE data_pipeline_tasks (
    task_id VARCHAR(128) PRIMARY KEY, status VARCHAR(32) NOT NULL,
    created_at TIMESTAMP NOT NULL DEFAULT now(), completed_at TIMESTAMP NULL
);
CREATE TABLE data_pipeline_task_steps (
    id SERIAL PRIMARY KEY,
    task_id VARCHAR(128) NOT NULL REFERENCES data_pipeline_tasks (task_id) ON DELETE CASCADE,
    name VARCHAR(64) NOT NULL, status VARCHAR(32) NOT NULL
);
CREATE INDEX ON data_pipeline_task_steps (task_id);
"""


@dataclass(frozen=True)
class Residue:
    """What is there of one task. `directory` counts non-directories, None: no such directory; `siblings`: moved aside.

    `row` and `steps`: what the catalog holds; of a pipeline without a database one state, and the number of state keys.
    """

    directory: int | None
    siblings: int
    keys: int
    objects: int
    row: Mapping[str, Any] | None
    steps: int

    @property
    def is_gone(self) -> bool:
        """Nothing is left but, perhaps, the rows."""
        return self.directory is None and not (self.siblings or self.keys or self.objects)


@dataclass
class Pipeline:
    """The stores of one namespace. `database` and `bucket` are this pipeline's own; keys carry a prefix of its own."""

    CLAIM: ClassVar[str] = CLAIM
    SUB_PATH: ClassVar[str] = SUB_PATH
    OBJECT_PREFIX: ClassVar[str] = "tasks/"

    stack: Stack
    namespace: str
    bucket: str = ""
    prefix: str | None = None
    database_url: str = field(init=False)
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.prefix = f"{self.namespace}:" if self.prefix is None else self.prefix
        self.bucket = self.bucket or f"bucket-{self.namespace}"
        self.root = self.stack.volumes_root / self.namespace / self.CLAIM / self.SUB_PATH
        parts = urlsplit(self.stack.postgres.url)
        self.database_url = urlunsplit(parts._replace(path=f"/{self.namespace.replace('-', '_')}"))
        self.redis = redis.Redis.from_url(self.stack.redis.url)
        self.s3 = minio.Minio(
            urlsplit(self.stack.minio.endpoint).netloc,
            access_key=self.stack.minio.access_key,
            secret_key=self.stack.minio.secret_key,
            secure=False,
        )

    # --- set up -----------------------------------------------------------------------------------------------------
    def create(self, *, migrated: bool = True, object_lock: bool = False) -> None:
        """Create the catalog, the bucket and the folder on the volume."""
        self.create_catalog(migrated=migrated)
        self.s3.make_bucket(self.bucket, object_lock=object_lock)
        self.root.mkdir(parents=True)

    def create_catalog(self, *, migrated: bool = True) -> None:
        """Create the database and its tables."""
        name = self.namespace.replace("-", "_")
        with psycopg.connect(self.stack.postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with self.connect() as connection:
            connection.execute(SCHEMA)
        if migrated:
            self.migrate()

    def migrate(self) -> None:
        """Apply the migrations that the operator ships."""
        folder = Path(__file__).parents[1] / "operator" / "taskdeletion" / "migrations"
        with self.connect() as connection:
            for path in sorted(folder.glob("*.sql")):
                connection.execute(path.read_bytes())

    def connect(self) -> "psycopg.Connection[Any]":
        """A connection to this pipeline's database, committing at the end of each `with`."""
        return psycopg.connect(self.database_url)

    def manifests(self, *, store: str = "default", **store_spec: Any) -> list[dict[str, Any]]:
        """Secrets and TaskStore, as Kubernetes objects."""
        secrets = {
            **self.catalog_secret(),
            "pipeline-redis": {"url": self.stack.redis.url},
            "pipeline-minio": {
                "endpoint": self.stack.minio.endpoint,
                "accessKey": self.stack.minio.access_key,
                "secretKey": self.stack.minio.secret_key,
            },
        }
        spec: dict[str, Any] = {
            "catalog": self.catalog_spec(),
            "directory": {"persistentVolumeClaim": {"claimName": self.CLAIM}, "subPath": self.SUB_PATH},
            "redis": {
                "secretRef": {"name": "pipeline-redis"},
                "keyPatterns": [self.key_of("{taskId}"), self.key_of("{taskId}") + ":*"],
            },
            "objectStore": {
                "secretRef": {"name": "pipeline-minio"},
                "bucket": self.bucket,
                "prefixes": [f"{self.OBJECT_PREFIX}{{taskId}}/"],
            },
            **store_spec,
        }
        given = {name: part for name, part in spec.items() if part is not None}
        return [
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": name, "namespace": self.namespace},
                "stringData": data,
            }
            for name, data in secrets.items()
        ] + [
            {
                "apiVersion": "datapipeline.dev/v1beta1",
                "kind": "TaskStore",
                "metadata": {"name": store, "namespace": self.namespace},
                "spec": given,
            }
        ]

    def catalog_secret(self) -> dict[str, dict[str, str]]:
        """The Secret of the catalog, by name."""
        return {"pipeline-db": {"url": self.database_url}}

    def catalog_spec(self) -> dict[str, Any]:
        """`spec.catalog` of the TaskStore."""
        return {"postgres": {"secretRef": {"name": "pipeline-db"}}}

    def key_of(self, task_id: str) -> str:
        """The plain data key of a task; the others begin with it and a colon."""
        return f"{self.prefix}task:{task_id}"

    # --- put there --------------------------------------------------------------------------------------------------
    def add_task(
        self,
        task_id: str,
        *,
        status: str = "completed",
        files: int = 3,
        file_bytes: int = 1000,
        keys: int = 2,
        objects: int = 2,
        steps: int = 2,
        created_at: datetime | None = None,
        step_status: str = "completed",
        row: bool = True,
    ) -> None:
        """One task with its residue. By default it is finished and a month old."""
        if row:
            self.add_rows(task_id, status=status, steps=steps, created_at=created_at, step_status=step_status)
        self.add_directory(task_id, files=files, file_bytes=file_bytes)
        self.add_keys(task_id, keys)
        self.add_objects(task_id, objects)

    def add_rows(
        self,
        task_id: str,
        *,
        status: str = "completed",
        steps: int = 2,
        created_at: datetime | None = None,
        step_status: str = "completed",
    ) -> None:
        """The row of a task and those of its steps."""
        created = (created_at or datetime.now(UTC) - OLD).astimezone(UTC).replace(tzinfo=None)
        with self.connect() as connection:
            connection.execute(
                "INSERT INTO data_pipeline_tasks (task_id, status, created_at) VALUES (%s, %s, %s)",
                (task_id, status, created),
            )
            for number in range(steps):
                connection.execute(
                    "INSERT INTO data_pipeline_task_steps (task_id, name, status) VALUES (%s, %s, %s)",
                    (task_id, f"step-{number}", step_status),
                )

    def add_directory(self, task_id: str, *, files: int = 3, file_bytes: int = 1000) -> None:
        """The directory of a task: files at two levels."""
        directory = self.root / task_id
        (directory / "nested").mkdir(parents=True)
        for number in range(files):
            place = directory if number % 2 else directory / "nested"
            (place / f"part-{number}.bin").write_bytes(b"x" * file_bytes)

    def add_keys(self, task_id: str, keys: int) -> None:
        """Redis keys of a task: the plain one, then numbered ones."""
        for number in range(keys):
            suffix = "" if number == 0 else f":part-{number}"
            self.redis.set(self.key_of(task_id) + suffix, json.dumps({"number": number}))

    def add_objects(self, task_id: str, objects: int, size_bytes: int = 500) -> None:
        """Objects of a task."""
        for number in range(objects):
            content = BytesIO(b"y" * size_bytes)
            self.s3.put_object(self.bucket, f"{self.OBJECT_PREFIX}{task_id}/object-{number}", content, size_bytes)

    # --- change -----------------------------------------------------------------------------------------------------
    def begin_run(self, task_id: str, *, renews_created_at: bool = False) -> None:
        """The entry of a task says that it runs again."""
        self._update(task_id, _BEGIN_ANEW if renews_created_at else _BEGIN)

    def complete_run(self, task_id: str) -> None:
        """The entry of a task says that it has ended."""
        self._update(task_id, _COMPLETE)

    def remove_entry(self, task_id: str) -> None:
        """Somebody else removes the entry of a task."""
        with self.connect() as connection:
            connection.execute("DELETE FROM data_pipeline_tasks WHERE task_id = %s", (task_id,))

    def _update(self, task_id: str, changes: sql.Composable) -> None:
        statement = sql.SQL("UPDATE data_pipeline_tasks SET {} WHERE task_id = %s").format(changes)
        with self.connect() as connection:
            connection.execute(statement, (task_id,))

    # --- look -------------------------------------------------------------------------------------------------------
    def look(self, task_id: str) -> Residue:
        """What is there of a task now."""
        directory = self.root / task_id
        siblings = list(self.root.glob(f".claimed-*-{task_id}")) + list(self.root.glob(f".deleting-*-{task_id}"))
        wanted = self.key_of(task_id).encode()
        keys = list(self.redis.scan_iter(wanted + b"*", count=1000))
        objects = self.s3.list_objects(self.bucket, prefix=f"{self.OBJECT_PREFIX}{task_id}/", recursive=True)
        row, steps = self.look_at_entry(task_id)
        return Residue(
            directory=sum(not path.is_dir() for path in directory.rglob("*")) if directory.exists() else None,
            siblings=len(siblings),
            keys=sum(key == wanted or key.startswith(wanted + b":") for key in keys),
            objects=sum(1 for _ in objects),
            row=row,
            steps=steps,
        )

    def count_records(self, found: Residue) -> int:
        """How many rows (of a pipeline without a database: state keys) a task has."""
        return (1 if found.row else 0) + found.steps

    def look_at_entry(self, task_id: str) -> tuple[Mapping[str, Any] | None, int]:
        """The row of a task, and how many steps it has."""
        with self.connect() as connection:
            cursor = connection.execute("SELECT * FROM data_pipeline_tasks WHERE task_id = %s", (task_id,))
            found = cursor.fetchone()
            names = [column.name for column in cursor.description or ()]
            counted = connection.execute(
                "SELECT count(*) FROM data_pipeline_task_steps WHERE task_id = %s", (task_id,)
            ).fetchone()
        return (dict(zip(names, found, strict=True)) if found else None), counted[0] if counted else 0


def wait_until(check: Any, *, seconds: float = 30.0, what: str = "the condition") -> Any:
    """Poll until `check()` is true, and return what it returned; TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true within {seconds:.0f} s")
        time.sleep(0.02)
    return found
