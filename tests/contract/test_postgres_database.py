"""A fresh database per test for the other test_postgres files, and the migration that prepares one."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from taskdeletion.backends.postgres import (
    CatalogTables,
    PostgresCatalog,
    PostgresConnection,
    Timeouts,
    read_migration,
)
from taskdeletion.domain.catalog import Version

CREATED = "2025-07-02 17:39:32.5"
SCHEMA = """
CREATE TABLE data_pipeline_tasks (
    task_id VARCHAR(32) PRIMARY KEY, status VARCHAR(20), created_at TIMESTAMP, completed_at TIMESTAMP);
CREATE TABLE data_pipeline_task_steps (
    id SERIAL PRIMARY KEY, status VARCHAR(20),
    task_id VARCHAR(32) REFERENCES data_pipeline_tasks ON DELETE CASCADE)
"""
QUICK = Timeouts(connect_seconds=2, lock_seconds=0.2, statement_seconds=10, idle_seconds=10)


@dataclass
class Database:
    """A database of its own, with the tables of a pipeline; `execute` connects anew, so that nothing is held."""

    url: str
    tables: CatalogTables = field(
        default_factory=lambda: CatalogTables("data_pipeline_tasks", "data_pipeline_task_steps", "UTC", ("running",))
    )
    catalogs: list[PostgresCatalog] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def execute(self, statement: Any, *parameters: Any) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def catalog(
        self, *, url: str = "", tables: CatalogTables | None = None, timeouts: Timeouts = QUICK
    ) -> PostgresCatalog:
        catalog = PostgresCatalog(PostgresConnection(url or self.url), tables or self.tables, timeouts=timeouts)
        self.catalogs.append(catalog)
        return catalog

    def add_task(self, task_id: str, *, status: str = "completed", steps: tuple[str, ...] = ("completed",)) -> None:
        self.execute(
            "INSERT INTO data_pipeline_tasks (task_id, status, created_at) VALUES (%s, %s, %s)",
            task_id,
            status,
            CREATED,
        )
        for step in steps:
            self.execute("INSERT INTO data_pipeline_task_steps (task_id, status) VALUES (%s, %s)", task_id, step)

    def restart_task(self, task_id: str) -> None:
        self.execute(
            "UPDATE data_pipeline_tasks SET status = 'in_progress', updated_at = now() WHERE task_id = %s", task_id
        )

    def versions(self, *task_ids: str) -> dict[str, Version]:
        catalog = self.catalog()
        try:
            return {task_id: entry.version for task_id, entry in catalog.read(task_ids).items()}
        finally:
            catalog.close()

    def task_ids(self) -> set[str]:
        return {task_id for (task_id,) in self.execute("SELECT task_id FROM data_pipeline_tasks")}

    def step_ids(self) -> set[str]:
        return {task_id for (task_id,) in self.execute("SELECT task_id FROM data_pipeline_task_steps")}

    def marked(self) -> set[str]:
        rows = self.execute("SELECT task_id FROM data_pipeline_tasks WHERE directory_exists = FALSE")
        return {task_id for (task_id,) in rows}

    def add_role(self, *grants: str) -> str:
        """A role that may only what the grants say; returns the URL to connect as it."""
        role = f"role_{uuid.uuid4().hex}"
        self.roles.append(role)
        self.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        for grant in grants:
            self.execute(f"GRANT {grant} TO {role}")
        address = urlsplit(self.url)
        return f"postgresql://{role}:secret@{address.hostname}:{address.port}{address.path}"

    @contextmanager
    def holding(self, *task_ids: str) -> Iterator[psycopg.Connection[Any]]:
        """Another transaction that holds the rows of these tasks."""
        with self.connect() as connection, connection.transaction():
            query = "SELECT 1 FROM data_pipeline_tasks WHERE task_id = ANY(%s) ORDER BY task_id FOR UPDATE"
            connection.execute(query, [list(task_ids)])
            yield connection


@dataclass(frozen=True)
class DatabaseHome:
    """A database for the tests of one module, emptied for each of them: making one takes long on a busy machine."""

    server_url: str
    name: str

    @contextmanager
    def fresh(self, *, schema: str = SCHEMA, migrated: bool = True) -> Iterator[Database]:
        """The database with nothing in it but `schema`, and nothing afterwards."""
        database = Database(f"{self.server_url.rpartition('/')[0]}/{self.name}")
        try:
            if schema:
                database.execute(schema)
            if migrated:
                database.execute(read_migration())
            yield database
        finally:
            for catalog in database.catalogs:
                catalog.close()
            self.empty(database)

    def empty(self, database: Database) -> None:
        main = Database(self.server_url)
        main.execute(f"ALTER DATABASE {self.name} RESET ALL")
        main.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", self.name)
        schemas = "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'"
        for (schema,) in database.execute(schemas):
            database.execute(f"DROP SCHEMA {schema} CASCADE")
        database.execute("CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO public")
        for role in database.roles:
            main.execute(f"DROP ROLE {role}")


@contextmanager
def database_home(server: Any) -> Iterator[DatabaseHome]:
    """A database for one module."""
    home = DatabaseHome(server.url, f"db_{uuid.uuid4().hex}")
    main = Database(server.url)
    main.execute(f"CREATE DATABASE {home.name}")
    try:
        yield home
    finally:
        main.execute(f"DROP DATABASE {home.name} WITH (FORCE)")


def wait_until(condition: Callable[[], Any], *, seconds: float = 10) -> None:
    """Ask again until it is so; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "did not become true in time"
        pause.wait(0.02)


class Proxy:
    """A way to the server that can fall silent, or be cut at a COMMIT: before the server has it, or before its reply.

    `loses_commits`, `drops_commits`: how many of the next ones lose their reply, or never arrive.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._server = (address.hostname, address.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = url.replace(f"{address.hostname}:{address.port}", f"127.0.0.1:{port}")
        self.loses_commits = 0
        self.drops_commits = 0
        self.is_silent = False
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        for each in [self._listener, *self._sockets]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            for target in (self._forward_requests, self._forward_replies):
                thread = threading.Thread(target=target, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data and not self._pass_commit(client):
                    break
                server.sendall(data)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _pass_commit(self, client: socket.socket) -> bool:
        """Whether the server gets to see this COMMIT; where it is to be lost, the client is cut off first."""
        is_dropped, is_lost = self.drops_commits > 0, self.loses_commits > 0
        if is_dropped or is_lost:
            client.shutdown(socket.SHUT_RDWR)
        if is_dropped:
            self.drops_commits -= 1
        elif is_lost:
            self.loses_commits -= 1
        return not is_dropped

    def _forward_replies(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if not self.is_silent:
                    client.sendall(data)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """A proxy for one test."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def bare(home: DatabaseHome) -> Iterator[Database]:
    with home.fresh(migrated=False) as database:
        database.add_task("task_1")
        yield database


def test_the_migration_makes_a_pipelines_tables_usable(bare: Database) -> None:
    assert [problem.reason for problem in bare.catalog().probe()] == ["SchemaMissing"]
    bare.execute(read_migration())
    assert bare.catalog().probe() == []


def test_the_migration_can_be_applied_twice_and_keeps_every_value(bare: Database) -> None:
    bare.execute(read_migration())
    bare.execute("UPDATE data_pipeline_tasks SET directory_exists = FALSE, updated_at = '2025-01-01'")
    before = bare.execute("SELECT * FROM data_pipeline_tasks")
    bare.execute(read_migration())
    assert bare.execute("SELECT * FROM data_pipeline_tasks") == before


def test_rows_from_before_the_migration_have_a_directory_and_no_update(bare: Database) -> None:
    bare.execute(read_migration())
    assert bare.execute("SELECT directory_exists, updated_at FROM data_pipeline_tasks") == [(True, None)]
