"""How the Redis catalog finds the keys of tasks: by their pattern, and in one pass for all who wait."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisCatalog, RedisServer
from taskdeletion.backends.redis.scan import Scan
from taskdeletion.backends.redis.state_search import StateSearch, build_match
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.key_patterns import KeyPattern
from tests.support.catalogs import RedisTasks, redis_tasks, state
from tests.support.seams import failing, interpose


@pytest.fixture
def tasks(stack: Stack) -> Iterator[RedisTasks]:
    with redis_tasks(stack) as found:
        yield found


# --- patterns ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("pattern", "mine", "others"),
    [
        ("{taskId}:node:*", ["t:node:", "t:node:a:b"], ["t:nodes:a", "t:node", "xt:node:a", "t.:node:a", "T:node:a"]),
        ("state:{taskId}", ["state:t"], ["state:t:a", "state:tt", "astate:t"]),
        ("[a]:{taskId}:[xy]", [], ["[a]:t:x", "a:t:x"]),
        ("s:{taskId}:[xy]", ["s:t:x", "s:t:y"], ["s:t:z", "s:t:xy", "s:t:[xy]"]),
        ("{{taskId}}:node:?", ["{t}:node:1"], ["t:node:1", "{t}:node:12", "{tt}:node:1"]),
    ],
)
def test_a_key_belongs_to_a_task_by_its_pattern_and_never_by_more(
    tasks: RedisTasks, pattern: str, mine: list[str], others: list[str]
) -> None:
    for key in (*mine, *others):
        tasks.write(key, state())
    if not mine:
        with pytest.raises(ValueError, match="is not a key pattern"):
            tasks.catalog_of(key_pattern=pattern)
        return
    catalog = tasks.catalog_of(key_pattern=pattern)
    assert catalog.count_records(["t", "none"]) == {"t": len(mine)}
    assert catalog.count_records(["t"]) == {"t": len(mine)}
    versions = {task_id: entry.version for task_id, entry in catalog.read(["t"]).items()}
    assert catalog.delete_records(versions, force=False)["t"].count == len(mine)
    assert tasks.left() == {key.encode() for key in others}


def test_a_pattern_without_wildcards_needs_no_search(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks.write("state:task_1", state())
    catalog = tasks.catalog_of(key_pattern="state:{taskId}")
    monkeypatch.setattr(RedisServer, "scan", failing(AssertionError("the whole database was searched")))
    entry = catalog.read(["task_1", "task_2"])["task_1"]
    assert catalog.count_records(["task_1", "task_2"]) == {"task_1": 1}
    assert catalog.delete_records({"task_1": entry.version}, force=False)["task_1"].count == 1


@pytest.mark.parametrize(
    ("task_ids", "match"),
    [
        ({"run-1"}, rb"run-1:node:*"),
        ({"run-1", "run-12"}, rb"run-1*:node:*"),
        ({"run-1", "run-27"}, rb"run-*:node:*"),
        ({"run-1", "other"}, rb"*:node:*"),
    ],
)
def test_what_ids_have_in_common_narrows_the_search(task_ids: set[str], match: bytes) -> None:
    assert build_match(KeyPattern.parse("{taskId}:node:*"), task_ids) == match


def test_what_is_no_task_id_is_never_made_a_name_of(tasks: RedisTasks) -> None:
    with pytest.raises(ValueError, match="is not a task id"):
        tasks.catalog().read(["task_1", "*"])


# --- a search for all -------------------------------------------------------------------------------------------------
class Scans:
    """Counts the passes of a server, and holds the first one until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.has_begun, self.may_go_on = threading.Event(), threading.Event()
        scan = RedisServer.scan

        def wait_and_scan(server: RedisServer, match: bytes | None) -> Scan:
            self.number += 1
            if self.number == 1:
                self.has_begun.set()
                assert self.may_go_on.wait(20)
            return scan(server, match)

        monkeypatch.setattr(RedisServer, "scan", wait_and_scan)


def waiting(catalog: RedisCatalog) -> int:
    """How many reads wait for the next pass."""
    return len(catalog._search._waiting)


def read_together(tasks: RedisTasks, scans: Scans, *task_ids: str) -> tuple[Future[Any], list[Future[Any]]]:
    """One read whose pass has begun, and one of each task that arrived meanwhile; all are over on return."""
    catalog = tasks.catalog_of()
    with ThreadPoolExecutor(1 + len(task_ids)) as pool:
        first = pool.submit(catalog.read, ["task_0"])
        assert scans.has_begun.wait(20)
        later = [pool.submit(catalog.read, [task_id]) for task_id in task_ids]
        try:
            wait_until(lambda: waiting(catalog) == len(task_ids), what="all reads waiting")
        finally:
            scans.may_go_on.set()
    return first, later


def test_reads_that_wait_share_one_pass_and_each_gets_its_own(
    tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"task_{number}" for number in range(1, 7)]
    tasks.put("task_0", *ids[:-1])
    scans = Scans(monkeypatch)
    first, later = read_together(tasks, scans, *ids)
    assert set(first.result()) == {"task_0"}
    assert [set(read.result()) for read in later] == [*({task_id} for task_id in ids[:-1]), set()]
    assert scans.number == 2


def test_a_fault_of_a_shared_pass_is_everybodys(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = Scans(monkeypatch)
    fault = Fault("waiting", reasons.UNAVAILABLE, "Redis cannot be reached")
    interpose(monkeypatch, StateSearch, "_scan", before=failing(fault), when=lambda _, ids: "task_1" in ids)
    first, later = read_together(tasks, scans, "task_1", "task_2")
    assert first.result() == {}
    assert [read.exception() for read in later] == [fault, fault]


def test_an_error_that_nobody_foresaw_leaves_nobody_waiting(tasks: RedisTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    scans = Scans(monkeypatch)
    interpose(monkeypatch, StateSearch, "_scan", before=failing(KeyError()), when=lambda _, ids: "task_1" in ids)
    _, later = read_together(tasks, scans, "task_1", "task_2")
    errors = sorted((read.exception() for read in later), key=lambda error: isinstance(error, Fault))
    assert isinstance(errors[0], KeyError)
    assert isinstance(errors[1], Fault)
    assert (errors[1].kind, errors[1].reason) == ("retriable", reasons.INTERNAL_ERROR)
