"""Redis keys: a sweep of one task, of a thousand, and of a hundred requests at once, against redis-cli's one search.

Ours is the backend as the operator runs it, in this process, with its guard and its counts. The peer looks for the keys
of one task only, as a shell script would. A real sweep makes one more pass, which finds nothing: redis-confirming-pass.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import redis

from bench.line import OURS, Line
from dev.stack import Stack, start_stack
from taskdeletion.backends.redis import RedisConnection, RedisKeys
from taskdeletion.domain.results import StepResult, never_halt
from taskdeletion.executors.sweeps import SharedSweep

TASKS: Final = 10_000
KEYS: Final = 100
NAMED: Final = 1_000
REQUESTS: Final = 100
CLI: Final = "redis-cli --scan | xargs redis-cli unlink"
ONE_PASS: Final = "ours, one pass"
IN_PROCESS: Final = "ours runs in this process, its start is not counted"
#: Every tenth task: what their ids have in common narrows nothing.
TASK_IDS: Final = [f"task_{number:05}" for number in range(0, TASKS, TASKS // NAMED)]
PATTERNS: Final = ("task:{taskId}", "task:{taskId}:*")
FILL: Final = """
for _, task in ipairs(ARGV) do
    for key = 1, {keys} do redis.call('SET', 'task:' .. task .. ':' .. key, 'x') end
end
""".replace("{keys}", str(KEYS))
FILL_BATCH: Final = 200


class WorkNotDoneError(Exception):
    """A contestant left keys, removed others, or counted something else than it removed."""


@dataclass(frozen=True)
class Way:
    """One contestant: removes the keys of `task_ids`, and returns how many it says that it removed."""

    remove: Callable[[Server, Sequence[str]], int]
    task_ids: Sequence[str]


@dataclass(frozen=True)
class Server:
    """A million keys, 100 of each of 10,000 tasks, and the backend on them."""

    stack: Stack
    client: redis.Redis
    keys: RedisKeys

    def fill(self, task_ids: Sequence[str]) -> None:
        """The keys of these tasks, set by the server itself."""
        for start in range(0, len(task_ids), FILL_BATCH):
            self.client.eval(FILL, 0, *task_ids[start : start + FILL_BATCH])
        self.require_left(TASKS * KEYS)

    def require_left(self, expected: int) -> None:
        """WorkNotDoneError unless so many keys are there."""
        left = self.client.dbsize()
        if left != expected:
            raise WorkNotDoneError(f"{left} keys are there, expected {expected}")


class KeysContest:
    """The same server for all contestants, in turn."""

    def __init__(self, server: Server, ways: Mapping[str, Way]) -> None:
        self.contestants: Sequence[str] = list(ways)
        self._server = server
        self._ways = ways

    def prepare(self, _: str) -> None:
        """All keys are there again, whoever has removed them."""
        self._server.fill(TASK_IDS)

    def run(self, contestant: str) -> float:
        """Seconds until the last key has gone, and is counted."""
        way = self._ways[contestant]
        begun = time.perf_counter()
        removed = way.remove(self._server, way.task_ids)
        seconds = time.perf_counter() - begun
        if removed != len(way.task_ids) * KEYS:
            raise WorkNotDoneError(f"{contestant}: {removed} keys were counted")
        self._server.require_left((TASKS - len(way.task_ids)) * KEYS)
        return seconds


def sweep_once(server: Server, task_ids: Sequence[str]) -> int:
    """The pass that removes."""
    sweep = server.keys.begin(task_ids, delete=True, guard=lambda _: {}, halt=never_halt)
    if not server.keys.run_pass(sweep):
        raise WorkNotDoneError("the pass was not whole")
    return count(sweep.results())


def sweep_whole(server: Server, task_ids: Sequence[str]) -> int:
    """The pass that removes, and the one that finds nothing."""
    return count(server.keys.sweep(task_ids, delete=True, guard=lambda _: {}, halt=never_halt))


def sweep_shared(server: Server, task_ids: Sequence[str]) -> int:
    """A hundred requests at once, each with its share of the tasks and in a thread of its own: as the operator does."""
    shared = SharedSweep(server.keys)
    gate = threading.Barrier(REQUESTS)

    def request(number: int) -> int:
        gate.wait()
        return count(shared.sweep(task_ids[number::REQUESTS], guard=lambda _: {}, halt=never_halt))

    with ThreadPoolExecutor(REQUESTS) as threads:
        return sum(threads.map(request, range(REQUESTS)))


def count(results: Mapping[str, StepResult]) -> int:
    """The keys that were removed for certain."""
    return sum(found.count for found in results.values() if found.outcome == "Deleted" and not found.at_least)


def unlink_with_cli(server: Server, task_ids: Sequence[str]) -> int:
    """What anybody types for one task; each of its commands says how many keys it removed."""
    (task_id,) = task_ids
    program = server.stack.settings.binaries["redis-server"].with_name("redis-cli")
    cli = f"{shlex.quote(str(program))} -p {server.stack.redis.port}"
    search = f"{cli} --scan --pattern {shlex.quote(f'task:{task_id}:*')} | xargs {cli} unlink"
    environment = os.environ | {"REDISCLI_AUTH": server.stack.redis.password}
    done = subprocess.run(["sh", "-c", search], env=environment, check=True, capture_output=True, text=True)
    return sum(int(line) for line in done.stdout.split())


@contextmanager
def open_contest(ways: Mapping[str, Way]) -> Iterator[KeysContest]:
    """A server of its own, full of keys. It writes no snapshots, which would disturb one contestant and not another."""
    with start_stack(services=("redis",)) as stack, ExitStack() as on_exit:
        client = redis.Redis(port=stack.redis.port, password=stack.redis.password)
        on_exit.callback(client.close)
        client.config_set("save", "")
        keys = RedisKeys(RedisConnection(stack.redis.url), PATTERNS)
        on_exit.callback(keys.close)
        server = Server(stack, client, keys)
        server.fill([f"task_{number:05}" for number in range(TASKS)])
        yield KeysContest(server, ways)


def against_cli(ours: Way) -> Callable[[], AbstractContextManager[KeysContest]]:
    """The contest of our way against redis-cli's search for one task."""
    return partial(open_contest, {OURS: ours, CLI: Way(unlink_with_cli, TASK_IDS[:1])})


LINES: Final = [
    Line(
        name="redis-one-task",
        work="Redis, 1M keys, 100 of them of the task: one pass",
        peer=CLI,
        target=0.25,
        aim=0.20,
        open=against_cli(Way(sweep_once, TASK_IDS[:1])),
        note=IN_PROCESS,
    ),
    Line(
        name="redis-many-tasks",
        work="Redis, 1M keys, 100,000 of them of 1,000 tasks: one pass",
        peer=CLI,
        target=2.5,
        aim=1.5,
        open=against_cli(Way(sweep_once, TASK_IDS)),
        note=f"redis-cli removes one task only; {IN_PROCESS}",
    ),
    Line(
        name="redis-shared-sweep",
        work="Redis, 1M keys, 100 requests at once with 10 tasks each: all passes",
        peer=CLI,
        target=2.5,
        aim=1.5,
        open=against_cli(Way(sweep_shared, TASK_IDS)),
        note=f"ours with the passes that find nothing; redis-cli removes one task only; {IN_PROCESS}",
    ),
    Line(
        name="redis-confirming-pass",
        work="Redis, 1M keys, 1,000 tasks: the whole sweep against its first pass",
        peer=ONE_PASS,
        target=None,
        aim=None,
        open=partial(open_contest, {OURS: Way(sweep_whole, TASK_IDS), ONE_PASS: Way(sweep_once, TASK_IDS)}),
        note="a sweep ends with a pass that finds nothing: keys may have been written behind the one before",
    ),
]
