"""A real hot standby: it is read-only and says so, and after a failover the work goes on."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from dev.postgres import OPTIONS, Postgres, as_server_user, give_to_server_user, plain_environment
from dev.settings import free_port
from dev.stack import Stack, start_stack
from taskdeletion.backends.postgres import read_migration
from taskdeletion.domain.catalog import CommitUnknown
from taskdeletion.domain.faults import Fault
from tests.contract.test_postgres_database import SCHEMA, Database, wait_until


@dataclass(frozen=True)
class Pair:
    """A primary with the tables of a pipeline, and its standby. `either`: a URL that names both servers."""

    stack: Stack
    primary: Database
    standby: Database

    @property
    def either(self) -> str:
        """Only the one that can be written to is taken."""
        first, second = (urlsplit(database.url).netloc.rpartition("@")[2] for database in (self.primary, self.standby))
        return self.primary.url.replace(first, f"{first},{second}")

    def wait_for_replay(self) -> None:
        """Until the standby has what the primary has."""
        [(position,)] = self.primary.execute("SELECT pg_current_wal_insert_lsn()::text")
        behind = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, FALSE)"
        wait_until(lambda: self.standby.execute(behind, position) == [(True,)], seconds=30)

    def promote(self) -> None:
        """Make the standby a primary."""
        assert self.standby.execute("SELECT pg_promote(TRUE, 30)") == [(True,)]


@contextmanager
def standby_of(primary: Postgres, folder: Path) -> Iterator[str]:
    """The URL of a server that replays what the primary writes."""
    port, url = free_port(), urlsplit(primary.url)
    folder.mkdir(mode=0o700)
    give_to_server_user(folder)
    program = primary.server.resolve().with_name("pg_basebackup")
    if not program.exists():
        pytest.skip("there is no pg_basebackup beside the PostgreSQL server: install all of its programs")
    copy: list[str | Path] = [program, "-D", folder, "-d", primary.url, "-R", "--no-sync", "-c", "fast"]
    subprocess.run(as_server_user(copy), check=True, env=plain_environment(), capture_output=True)
    settings = [word for name, value in {**OPTIONS, "port": str(port)}.items() for word in ("-c", f"{name}={value}")]
    command = as_server_user([primary.server, "-D", folder, *settings])
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=plain_environment())
    try:
        address = primary.url.replace(f":{url.port}/", f":{port}/")
        wait_until(lambda: accepts_connections(address), seconds=30)
        yield address
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown
        process.wait(30)


def accepts_connections(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with start_stack(services=("postgres",)) as stack, standby_of(stack.postgres, tmp_path / "standby") as url:
        found = Pair(stack, Database(stack.postgres.url), Database(url))
        found.primary.execute(SCHEMA)
        found.primary.execute(read_migration())
        for task_id in ("task_1", "task_2"):
            found.primary.add_task(task_id)
        found.wait_for_replay()
        try:
            yield found
        finally:
            for catalog in [*found.primary.catalogs, *found.standby.catalogs]:
                catalog.close()


def test_a_standby_is_read_and_every_change_waits_for_its_promotion(pair: Pair) -> None:
    catalog = pair.standby.catalog()
    [problem] = catalog.probe()
    assert (problem.reason, problem.message) == (
        "ReadOnly",
        "the server is a standby; the url has to name the primary",
    )
    versions = {task_id: entry.version for task_id, entry in catalog.read(["task_1", "task_2"]).items()}
    assert versions == pair.primary.versions("task_1", "task_2")
    with pytest.raises(Fault) as claimed, catalog.claim(versions, with_records=True):
        pass
    with pytest.raises(Fault) as marked:
        catalog.mark(versions, force=False)
    results = catalog.delete_records(versions, force=False)
    assert {(fault.kind, fault.reason) for fault in (claimed.value, marked.value)} == {("waiting", "ReadOnly")}
    assert {(r.outcome, r.kind, r.reason) for r in results.values()} == {("Failed", "waiting", "ReadOnly")}
    pair.promote()
    assert catalog.probe() == []
    assert catalog.mark({"task_1": versions["task_1"]}, force=False).marked == {"task_1"}
    assert catalog.delete_records({"task_2": versions["task_2"]}, force=False)["task_2"].count == 2
    assert (pair.standby.task_ids(), pair.standby.marked()) == ({"task_1"}, {"task_1"})


def test_with_both_servers_in_the_url_the_work_goes_on_after_a_failover(pair: Pair) -> None:
    catalog = pair.primary.catalog(url=pair.either)
    versions = {task_id: entry.version for task_id, entry in catalog.read(["task_1", "task_2"]).items()}
    assert catalog.mark({"task_1": versions["task_1"]}, force=False).marked == {"task_1"}
    pair.wait_for_replay()
    with pytest.raises(CommitUnknown), catalog.claim(["task_2"], with_records=True):
        pair.stack.stop_service("postgres")
    with pytest.raises(Fault) as caught:
        catalog.read(["task_1"])
    assert (caught.value.kind, caught.value.reason) == ("waiting", "ReadOnly")
    pair.promote()
    assert catalog.delete_records({"task_2": versions["task_2"]}, force=False)["task_2"].count == 2
    assert (pair.standby.task_ids(), pair.standby.marked()) == ({"task_1"}, {"task_1"})
