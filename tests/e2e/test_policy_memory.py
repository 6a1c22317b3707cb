"""The memory of a real operator process while it evaluates a policy over 200,000 finished tasks, in either catalog."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis

from dev.pipeline import Pipeline
from dev.stack import Stack
from dev.state_pipeline import SETTLED, TTL_SECONDS, StatePipeline
from tests.conftest import new_pipeline
from tests.support.kube import Kube, condition, operator_environment
from tests.support.policies import PLURAL, create_policy
from tests.support.process import OperatorProcess, running_operator

Catalog = Callable[[Stack, Kube], AbstractContextManager[Pipeline]]
TASKS = 200_000
SELECTED = 10_000
KEPT = 1_000
LIMIT_BYTES = 50 * 2**20
CREATED = datetime(2024, 1, 1, tzinfo=UTC)
#: A database of Redis that no other test uses: so many keys would slow down every sweep.
DATABASE = 12
#: Set by the server itself: to send so many keys takes long. One state each, a minute younger than the one before.
FILL = """
for number = ARGV[2], ARGV[3] do
    local created = ARGV[4] + number * 60
    redis.call('SET', ARGV[1] .. string.format('task_%06d:node:extract', number), string.format(
        '{"status": "completed", "created_at": %d, "updated_at": %d}', created, created), 'EX', ARGV[5])
end
"""
FILL_BATCH = 5_000


@contextmanager
def postgres_pipeline(stack: Stack, kube: Kube) -> Iterator[Pipeline]:
    """A pipeline whose table has all the tasks."""
    pipeline = new_pipeline(stack, kube, Pipeline)
    with pipeline.connect() as connection:
        connection.execute(
            "INSERT INTO data_pipeline_tasks (task_id, status, created_at) SELECT 'task_' || lpad(n::text, 6, '0'),"
            " 'completed', %s + n * interval '1 minute' FROM generate_series(0, %s) n",
            (CREATED.replace(tzinfo=None), TASKS - 1),
        )
    yield pipeline
    with pipeline.connect() as connection:
        connection.execute("TRUNCATE data_pipeline_tasks CASCADE")


class RoomyPipeline(StatePipeline):
    """A pipeline without a database whose states have a Redis database of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.state_url = urlunsplit(urlsplit(self.stack.redis.url)._replace(path=f"/{DATABASE}"))
        self.states = redis.Redis.from_url(self.state_url)


@contextmanager
def redis_pipeline(stack: Stack, kube: Kube) -> Iterator[Pipeline]:
    """A pipeline whose states are those of all the tasks."""
    pipeline = new_pipeline(stack, kube, RoomyPipeline)
    pipeline.states.flushdb()
    left = TTL_SECONDS - int(SETTLED.total_seconds())
    for first in range(0, TASKS, FILL_BATCH):
        arguments = (pipeline.prefix or "", first, first + FILL_BATCH - 1, int(CREATED.timestamp()), left)
        pipeline.states.eval(FILL, 0, *map(str, arguments))
    yield pipeline
    pipeline.states.flushdb()


@pytest.mark.parametrize("catalog", [postgres_pipeline, redis_pipeline], ids=["postgres", "redis"])
def test_a_policy_over_200_000_finished_tasks_takes_little_memory(
    stack: Stack, kube: Kube, catalog: Catalog, tmp_path: Path
) -> None:
    """Its preview evaluates what a run evaluates, and creates nothing. The limits are the defaults: 10,000 tasks."""
    with catalog(stack, kube) as pipeline:
        environment = operator_environment(stack, TASKDELETION_NAMESPACES=pipeline.namespace)
        with running_operator(environment, tmp_path / "operator.log") as operator:
            kube.wait_for(pipeline.namespace, "default", is_ready, plural="taskstores")
            before_bytes = resident_bytes(operator, "VmRSS")
            rule = {"olderThan": "1d", "keepLast": KEPT}
            create_policy(kube, pipeline.namespace, "nightly", schedule="@yearly", rules=[rule])
            status = kube.wait_for(pipeline.namespace, "nightly", has_preview, plural=PLURAL, seconds=120)
            grown_bytes = resident_bytes(operator, "VmHWM") - before_bytes
    found = status["preview"]
    assert (found["evaluated"], found["matched"], found["protected"]) == (TASKS, TASKS, KEPT)
    assert (found["selected"], found["refused"]) == (SELECTED, TASKS - KEPT - SELECTED)
    assert found["taskIds"] == [f"task_{number:06}" for number in range(10)]
    assert grown_bytes <= LIMIT_BYTES


def resident_bytes(operator: OperatorProcess, name: str) -> int:
    """Physical memory of the process: VmRSS now, VmHWM at its peak."""
    lines = Path(f"/proc/{operator.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def is_ready(status: dict[str, Any]) -> bool:
    return bool(condition(status, "Ready").get("status") == "True")


def has_preview(status: dict[str, Any]) -> bool:
    return "preview" in status
