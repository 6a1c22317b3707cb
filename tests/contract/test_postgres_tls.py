"""TLS: the server is checked against the Secret's CA, the client shows the Secret's certificate, and nobody else's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskdeletion.backends.postgres import PostgresCatalog, PostgresConnection
from tests.contract.test_postgres_database import (
    QUICK,
    Database,
    DatabaseHome,
    database_home,
    wait_until,
)
from tests.support.certificates import make_pair

SETTINGS = ("ssl_cert_file", "ssl_key_file", "ssl_ca_file", "ssl")


@pytest.fixture(scope="module")
def certificates() -> dict[str, tuple[bytes, bytes]]:
    """Certificates that are their own CA, with their keys."""
    pairs = {name: make_pair(name) for name in ("server", "client", "other")}
    return {name: (pair.cert, pair.key) for name, pair in pairs.items()}


@pytest.fixture(scope="module")
def home(stack: Any) -> Iterator[DatabaseHome]:
    with database_home(stack.postgres) as home:
        yield home


@pytest.fixture
def database(stack: Any, home: DatabaseHome, certificates: dict[str, tuple[bytes, bytes]]) -> Iterator[Database]:
    """A database of a server that speaks TLS for the length of one test."""
    owner = stack.postgres.data_dir.stat()
    certificate, key = certificates["server"]
    files = {"ssl_cert_file": certificate, "ssl_key_file": key, "ssl_ca_file": certificates["client"][0]}
    with home.fresh() as database:
        try:
            for setting, content in files.items():
                path = stack.postgres.data_dir / f"test_{setting}"
                path.write_bytes(content)
                path.chmod(0o600)
                shutil.chown(path, owner.st_uid, owner.st_gid)
                database.execute(f"ALTER SYSTEM SET {setting} = '{path}'")
            database.execute("ALTER SYSTEM SET ssl = on")
            database.execute("SELECT pg_reload_conf()")
            wait_until(lambda: is_encrypted(database))
            yield database
        finally:
            for setting in SETTINGS:
                database.execute(f"ALTER SYSTEM RESET {setting}")
            database.execute("SELECT pg_reload_conf()")
            wait_until(lambda: not is_encrypted(database))


def is_encrypted(database: Database) -> bool:
    return database.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]


def catalog_with(database: Database, *, query: str = "", **material: bytes) -> PostgresCatalog:
    connection = PostgresConnection(database.url + query, **material)
    catalog = PostgresCatalog(connection, database.tables, timeouts=QUICK)
    database.catalogs.append(catalog)
    return catalog


def sessions(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT s.ssl, s.client_dn FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)"
        " WHERE a.application_name = 'task-deletion-operator' AND a.datname = current_database()"
    )


def test_the_ca_of_the_secret_is_enough(database: Database, certificates: dict[str, tuple[bytes, bytes]]) -> None:
    catalog = catalog_with(database, ca=certificates["server"][0])
    assert catalog.probe() == []
    assert sessions(database) == [(True, None)]


def test_a_server_of_another_ca_is_not_talked_to(
    database: Database, certificates: dict[str, tuple[bytes, bytes]]
) -> None:
    problems = catalog_with(database, ca=certificates["other"][0]).probe()
    assert [problem.reason for problem in problems] == ["TlsFailed"]


def test_a_server_under_another_name_is_not_talked_to(
    database: Database, certificates: dict[str, tuple[bytes, bytes]]
) -> None:
    local = Database(database.url.replace("127.0.0.1", "localhost"), catalogs=database.catalogs)
    assert [p.reason for p in catalog_with(local, ca=certificates["server"][0]).probe()] == ["TlsFailed"]
    assert catalog_with(local, query="?sslmode=verify-ca", ca=certificates["server"][0]).probe() == []


def test_without_a_ca_the_system_is_asked_for_a_full_check(database: Database) -> None:
    assert [p.reason for p in catalog_with(database, query="?sslmode=verify-full").probe()] == ["TlsFailed"]


def test_the_certificate_of_the_secret_is_shown(
    database: Database, certificates: dict[str, tuple[bytes, bytes]]
) -> None:
    certificate, key = certificates["client"]
    catalog = catalog_with(database, ca=certificates["server"][0], cert=certificate, key=key)
    assert catalog.probe() == []
    assert sessions(database) == [(True, "/CN=client")]


def test_the_operators_own_certificates_are_neither_shown_nor_trusted(
    database: Database,
    certificates: dict[str, tuple[bytes, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    own = {"postgresql.crt": certificates["client"][0], "postgresql.key": certificates["client"][1]}
    for name, content in {**own, "root.crt": certificates["other"][0]}.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalog_with(database, query="?sslmode=require").probe() == []
    assert sessions(database) == [(True, None)]
