"""What a retention policy would take of 200,000 tasks: reading the catalog and selecting, against one plain SELECT.

Ours is the survey and the selection as a run does them: one snapshot in pages, with the steps looked at, and rules that
keep the newest. The peer fetches the finished rows that are old enough, all at once, and decides nothing.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
import redis

from bench.line import OURS, Line
from dev.pipeline import SCHEMA
from dev.stack import start_stack
from taskdeletion.api.retention_policy import TaskRetentionPolicySpec
from taskdeletion.backends.postgres import CatalogTables, PostgresCatalog, PostgresConnection, read_migration
from taskdeletion.backends.redis import RedisCatalog, RedisConnection, StateKeys
from taskdeletion.domain.catalog import Catalog
from taskdeletion.domain.retention import Retention, Selected, Selection

TASKS: Final = 200_000
STEPS: Final = 5
KEEP_LAST: Final = 20
MEMORY_ROUNDS: Final = 6
PLAIN_SELECT: Final = "psycopg, one plain SELECT"
STATUSES: Final = ("completed", "failed")
NAMES: Final = CatalogTables("data_pipeline_tasks", "data_pipeline_task_steps", "UTC", ("running",))
KEYS: Final = StateKeys(
    key_pattern="{taskId}:node:*",
    status_field="status",
    created_field="created_at",
    updated_field="updated_at",
    ttl_seconds=None,
    settle_seconds=300,
    time_zone="UTC",
    terminal_statuses=frozenset(STATUSES),
)
POLICY: Final = TaskRetentionPolicySpec.model_validate(
    {
        "schedule": "@daily",
        "rules": [
            {"statuses": ["completed"], "olderThan": "30d", "keepLast": KEEP_LAST},
            {"statuses": ["failed"], "olderThan": "7d"},
            {"taskIdPattern": "task_*_0000??", "olderThan": "30d"},
        ],
    }
)
#: One task every four minutes, the youngest 40 days old; every fifth one failed.
FILL_ROWS: Final = """
INSERT INTO data_pipeline_tasks (task_id, status, created_at)
    SELECT to_char(created_at, '"task_"YYYYMMDD_HH24MISS'),
           CASE WHEN number %% 5 = 0 THEN 'failed' ELSE 'completed' END, created_at
    FROM generate_series(1, %(tasks)s) number,
         LATERAL (SELECT timezone('UTC', now()) - interval '40 days' - (%(tasks)s - number) * interval '4 minutes')
             AS times(created_at);
INSERT INTO data_pipeline_task_steps (task_id, name, status)
    SELECT task_id, 'step-' || number, 'completed' FROM data_pipeline_tasks, generate_series(1, %(steps)s) number
"""
FILL_KEYS: Final = """
for number = ARGV[1], ARGV[2] do
    local state = string.format(
        '{"status": "%s", "created_at": %d, "updated_at": %d}', number % 5 == 0 and 'failed' or 'completed',
        ARGV[3] + number, ARGV[3] + number)
    for _, node in ipairs({'extract', 'load', 'transform'}) do
        redis.call('SET', string.format('task_20250702_%06d:node:%s', number, node), state)
    end
end
"""
FILL_BATCH: Final = 2_000


class WorkNotDoneError(Exception):
    """A contestant has read or selected something else than there was to be."""


def select_tasks(catalog: Catalog) -> Selected:
    """What the policy takes of the catalog."""
    retention = Retention.of(POLICY)
    with catalog.survey(STATUSES, with_gone=retention.with_gone) as survey:
        selection = Selection(retention, survey.now)
        for page in survey.pages():
            for task in page:
                selection.offer(task)
        return selection.result(with_files=survey.with_files)


def require_exact(selected: Selected) -> None:
    """WorkNotDoneError unless all tasks were seen, and those that stay are those that should."""
    found = (selected.evaluated, selected.matched, selected.protected, len(selected.task_ids))
    expected = (TASKS, TASKS, KEEP_LAST, POLICY.limits.max_tasks_per_run)
    if found != expected:
        raise WorkNotDoneError(f"evaluated, matched, protected and selected are {found}, expected {expected}")


# --- time -------------------------------------------------------------------------------------------------------------
@dataclass
class SelectionContest:
    """The rows of 200,000 finished tasks. Nobody changes them."""

    url: str
    catalog: PostgresCatalog
    oldest: Sequence[str]
    contestants: Sequence[str] = (OURS, PLAIN_SELECT)

    def prepare(self, contestant: str) -> None:
        """Nothing: reading leaves everything as it is."""

    def run(self, contestant: str) -> float:
        """Seconds until the last row is decided upon, or fetched."""
        return self._select() if contestant == OURS else self._fetch()

    def _select(self) -> float:
        begun = time.perf_counter()
        selected = select_tasks(self.catalog)
        seconds = time.perf_counter() - begun
        require_exact(selected)
        if list(selected.task_ids) != self.oldest:
            raise WorkNotDoneError("the selected tasks are not the oldest")
        return seconds

    def _fetch(self) -> float:
        statement = (
            "SELECT task_id, status, created_at FROM data_pipeline_tasks WHERE status = ANY(%s) AND created_at < %s"
        )
        cutoff = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=30)
        begun = time.perf_counter()
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(statement, [list(STATUSES), cutoff]).fetchall()
        seconds = time.perf_counter() - begun
        if len(rows) != TASKS:
            raise WorkNotDoneError(f"{PLAIN_SELECT}: {len(rows)} rows, expected {TASKS}")
        return seconds


@contextmanager
def open_selection() -> Iterator[SelectionContest]:
    """A server of its own with the tables of a pipeline."""
    with open_rows() as url:
        catalog = open_postgres(url)
        oldest = "SELECT task_id FROM data_pipeline_tasks ORDER BY created_at LIMIT %s"
        with psycopg.connect(url) as connection:
            rows = connection.execute(oldest, [POLICY.limits.max_tasks_per_run]).fetchall()
        try:
            yield SelectionContest(url, catalog, [task_id for (task_id,) in rows])
        finally:
            catalog.close()


# --- memory -----------------------------------------------------------------------------------------------------------
@dataclass
class GrowthContest:
    """The memory that survey and selection take, on top of what a process has that is connected."""

    url: str
    connect: Callable[[str], Catalog]
    contestants: Sequence[str] = (OURS,)

    def prepare(self, contestant: str) -> None:
        """Nothing: reading leaves everything as it is."""

    def run(self, contestant: str) -> float:  # noqa: ARG002 - there is one
        """MB (10^6 bytes), in a new process."""
        grown_bytes, selected = measure_growth(self.connect, self.url)
        require_exact(selected)
        return grown_bytes / 1e6


def measure_growth(connect: Callable[[str], Catalog], url: str) -> tuple[int, Selected]:
    """Bytes that a new process grows by while it selects, and what it selected."""
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as process:
        return process.submit(_weigh, connect, url).result()


def _weigh(connect: Callable[[str], Catalog], url: str) -> tuple[int, Selected]:
    catalog = connect(url)
    try:
        catalog.now()
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak begins anew
        before = _read_status("VmRSS")
        selected = select_tasks(catalog)
        return _read_status("VmHWM") - before, selected
    finally:
        catalog.close()


def _read_status(word: str) -> int:
    """A size of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{word}:"))


def open_postgres(url: str) -> PostgresCatalog:
    """The catalog of the rows."""
    return PostgresCatalog(PostgresConnection(url), NAMES)


def open_redis(url: str) -> RedisCatalog:
    """The catalog of the keys."""
    return RedisCatalog(RedisConnection(url), KEYS)


@contextmanager
def open_rows() -> Iterator[str]:
    """The url of a server with the rows."""
    with start_stack(services=("postgres",)) as stack:
        with psycopg.connect(stack.postgres.url, autocommit=True) as connection:
            connection.execute(SCHEMA)
            connection.execute(read_migration().encode())
            with psycopg.ClientCursor(connection) as cursor:
                cursor.execute(FILL_ROWS, {"tasks": TASKS, "steps": STEPS})
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        yield stack.postgres.url


@contextmanager
def open_keys() -> Iterator[str]:
    """The url of a server with the keys, three of each task."""
    with start_stack(services=("redis",)) as stack:
        client = redis.Redis.from_url(stack.redis.url)
        youngest = int((datetime.now(UTC) - timedelta(days=40)).timestamp())
        for first in range(1, TASKS + 1, FILL_BATCH):
            client.eval(FILL_KEYS, 0, *map(str, (first, first + FILL_BATCH - 1, youngest - TASKS)))
        client.close()
        yield stack.redis.url


@contextmanager
def open_growth(
    open_server: Callable[[], AbstractContextManager[str]], connect: Callable[[str], Any]
) -> Iterator[GrowthContest]:
    """A server of its own."""
    with open_server() as url:
        yield GrowthContest(url, connect)


LINES: Final = [
    Line(
        name="retention-selection",
        work=f"a policy of three rules over {TASKS:,} rows of PostgreSQL with {STEPS} steps each: what goes",
        peer=PLAIN_SELECT,
        target=10.0,
        aim=3.0,
        open=open_selection,
        note="the peer looks at no step, at no rule and in no snapshot, and holds all rows in memory",
    ),
    Line(
        name="retention-memory",
        work=f"memory that the same takes, {TASKS:,} tasks in PostgreSQL",
        peer=None,
        target=50.0,
        aim=None,
        open=partial(open_growth, open_rows, open_postgres),
        rounds=MEMORY_ROUNDS,
        unit="MB",
        note="in a new process: its peak (VmHWM) less its resident size before the survey",
    ),
    Line(
        name="retention-memory-redis",
        work=f"memory that the same takes, {TASKS:,} tasks in Redis, three keys each",
        peer=None,
        target=50.0,
        aim=None,
        open=partial(open_growth, open_keys, open_redis),
        rounds=MEMORY_ROUNDS,
        unit="MB",
        note="in a new process: its peak (VmHWM) less its resident size before the survey",
    ),
]
