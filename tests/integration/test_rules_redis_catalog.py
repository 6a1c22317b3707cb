"""The rules of a catalog in Redis, one by one: nothing is locked, entries expire, and the state goes last of all.

Each test is a sequence that ends wrongly without its rule: the shortest counterexample of the protocol's model with a
Redis catalog, played on the real services in exactly that order. Rules of the claim that hold for both catalogs alike
(announced version, confirmation, undo) are in `test_rules_claim.py`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.pipeline import Residue
from dev.state_pipeline import NODES, TTL_SECONDS, StatePipeline
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.redis import RedisCatalog
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.objects import Cluster
from tests.support.harness import World, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import FILES, KEYS, OBJECTS, is_second_run, run_again, write_directory
from tests.support.seams import crash, interpose, says_claimed

FIRST_RUN = (3, 0, 2, 2)
STATE_KEYS = len(NODES)
TTL = timedelta(seconds=TTL_SECONDS)


@pytest.fixture
def states(state_pipeline: StatePipeline) -> StatePipeline:
    state_pipeline.add_task("task_1")
    return state_pipeline


@pytest.fixture
def world(kube: Kube, states: StatePipeline) -> Iterator[World]:
    with World(kube, states) as found:
        yield found


def amounts(left: Residue) -> tuple[int | None, int, int, int]:
    """Files, siblings, keys, objects."""
    return left.directory, left.siblings, left.keys, left.objects


def records_of(task: dict[str, Any]) -> Mapping[str, Any]:
    """What status says of the state keys."""
    return resource(task, "DatabaseRecords")


# --- the whole way ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("asked", [False, True], ids=["records-not-asked-for", "records-asked-for"])
def test_the_state_goes_with_everything_else(world: World, *, asked: bool) -> None:
    world.pipeline.add_task("task_10")
    before = world.look("task_10")
    world.request("a", deleteDatabaseRecords=asked)
    status = world.start().finish("a")
    task, left = task_of(status), world.look()
    assert (task["state"], task["databaseRecordsDeleted"]) == ("Deleted", True)
    assert (records_of(task)["outcome"], records_of(task)["count"]) == ("Deleted", STATE_KEYS)
    assert status["summary"]["recordsDeleted"] == STATE_KEYS
    assert left.is_gone
    assert (left.row, left.steps) == (None, 0)
    assert world.look("task_10") == before


def test_a_dry_run_counts_the_state_and_leaves_everything(world: World) -> None:
    before = world.look()
    world.request("a", dryRun=True)
    task = task_of(world.start().finish("a"))
    assert task["state"] == "WouldDelete"
    assert (records_of(task)["outcome"], records_of(task)["count"]) == ("WouldDelete", STATE_KEYS)
    assert world.look() == before


def test_data_patterns_that_reach_for_state_keys_make_the_store_unusable(
    world: World, states: StatePipeline, kube: Kube
) -> None:
    before = world.look()
    redis = {"secretRef": {"name": "pipeline-redis"}, "keyPatterns": [f"{states.prefix}{{taskId}}:*"]}
    kube.delete(states.namespace, "default", "taskstores")
    kube.apply(states.manifests(redis=redis))
    process = world.start()
    ready = condition(process.look_at_store(), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reasons.STORE_INVALID)
    assert "can match state keys of the catalog" in ready["message"]
    world.request("a")
    process.reconcile("a")
    assert "completionTime" not in process.status("a")
    assert world.look() == before


# --- what may not go --------------------------------------------------------------------------------------------------
def test_a_task_with_one_state_that_is_not_terminal_counts_as_running(world: World, states: StatePipeline) -> None:
    states.write_state("task_1", "load", "pending", datetime.now(UTC) - timedelta(days=9), age=timedelta(hours=3))
    before = world.look()
    world.request("a")
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_RUNNING)
    assert "task is pending" in task["message"]
    assert world.look() == before


def test_a_task_whose_state_changed_just_now_counts_as_running(world: World, states: StatePipeline) -> None:
    states.write_state("task_1", NODES[0], "completed", datetime.now(UTC) - timedelta(days=9))
    before = world.look()
    world.request("a")
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_RUNNING)
    assert "settleSeconds is 300" in task["message"]
    assert world.look() == before


def test_a_task_with_one_state_that_is_newer_than_the_request_is_refused(world: World, states: StatePipeline) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    states.write_state("task_1", NODES[1], "completed", tomorrow, age=timedelta(hours=3))
    before = world.look()
    world.request("a")
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_NEWER_THAN_REQUEST)
    assert world.look() == before


def test_a_task_without_a_creation_time_goes_only_with_force(world: World, states: StatePipeline) -> None:
    states.states.set(states.state_key("task_1", NODES[1]), '{"status": "completed"}', ex=3600)
    before = world.look()
    world.request("a")
    process = world.start()
    task = task_of(process.finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.CREATION_TIME_UNKNOWN)
    assert world.look() == before
    world.request("b", force=True)
    assert task_of(process.finish("b"))["state"] == "Deleted"
    assert world.look().is_gone


def test_state_that_expired_while_files_remain_is_not_in_the_catalog(world: World, states: StatePipeline) -> None:
    states.remove_entry("task_1")
    before = world.look()
    world.request("a")
    process = world.start()
    task = task_of(process.finish("a"))
    assert (task["state"], task["reason"]) == ("NotFound", reasons.NOT_IN_CATALOG)
    assert world.look() == before
    world.request("b", force=True, notFoundPolicy="Ignore")
    assert task_of(process.finish("b"))["state"] == "Deleted"
    assert world.look().is_gone


# --- confirm: no lock held the state, so it is read again after the rename --------------------------------------------
def test_a_run_between_the_claims_look_and_its_rename_gets_its_directory_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", before=lambda *_: run_again(world.pipeline, "task_1"))
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert is_second_run(world.look())


def test_a_worker_that_adds_a_state_during_the_rename_makes_the_claim_fail(
    world: World, states: StatePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = datetime.now(UTC) - timedelta(days=30)
    world.request("a")
    interpose(
        monkeypatch,
        DirectoryRoot,
        "claim",
        after=lambda *_: states.write_state("task_1", "load", "running", created),
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert amounts(left) == FIRST_RUN
    assert left.steps == STATE_KEYS + 1


def test_state_that_expires_during_the_rename_leaves_everything_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=lambda *_: world.pipeline.remove_entry("task_1"))
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("NotFound", reasons.NOT_IN_CATALOG)
    assert amounts(world.look()) == FIRST_RUN


# --- whole_goes_back --------------------------------------------------------------------------------------------------
def test_the_sweep_puts_a_whole_sibling_of_a_cancelled_request_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    world.withdraw("a")
    assert world.start().look_at_store()["leftovers"]["claimed"] == 0
    assert amounts(world.look()) == FIRST_RUN


# --- missing_keeps ----------------------------------------------------------------------------------------------------
def test_a_missing_entry_protects_what_a_later_run_wrote(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")

    def run_and_expire(*_: object) -> None:
        run_again(world.pipeline, "task_1")
        world.pipeline.remove_entry("task_1")

    interpose(monkeypatch, Cluster, "write_status", after=run_and_expire, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.CATALOG_ENTRY_GONE)
    assert amounts(left) == (FILES, 0, KEYS, OBJECTS)


def test_a_missing_entry_is_no_failure_where_nothing_is_left(
    world: World, states: StatePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    states.add_task("task_2", keys=0, objects=0)
    world.request("a", "task_2")
    interpose(monkeypatch, Cluster, "write_status", after=lambda *_: states.remove_entry("task_2"), when=says_claimed)
    task = task_of(world.start().finish("a"), "task_2")
    assert (task["state"], records_of(task)["reason"]) == ("Deleted", reasons.ABSENT)
    assert world.look("task_2").is_gone


# --- the compare before every batch -----------------------------------------------------------------------------------
def test_only_the_sibling_is_finished_of_a_task_that_ran_again_after_the_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(
        monkeypatch, Cluster, "write_status", after=lambda *_: run_again(world.pipeline, "task_1"), when=says_claimed
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert amounts(left) == (FILES, 0, KEYS, OBJECTS)
    assert left.steps == STATE_KEYS


def write_without_times(states: StatePipeline, node: str, status: str, *, age: timedelta = timedelta()) -> None:
    """As a pipeline writes it that keeps no time of change: the TTL alone tells how long ago that was."""
    state = {"status": status, "created_at": "2025-07-02T17:39:32Z"}
    states.states.set(states.state_key("task_1", node), json.dumps(state), px=round((TTL - age).total_seconds() * 1000))


@pytest.mark.parametrize("when", ["claimed", "everything else is gone"])
def test_a_second_run_whose_state_says_what_it_said_before_is_a_restart_all_the_same(
    world: World, states: StatePipeline, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    for node in NODES:
        write_without_times(states, node, "completed", age=timedelta(hours=2))

    def run_again_without_times(*_: object, **__: object) -> None:
        write_without_times(states, NODES[0], "running")
        write_directory(states, "task_1")
        states.add_keys("task_1", KEYS)
        states.add_objects("task_1", OBJECTS)
        write_without_times(states, NODES[0], "completed")

    world.request("a")
    if when == "claimed":
        interpose(monkeypatch, Cluster, "write_status", after=run_again_without_times, when=says_claimed)
    else:
        interpose(monkeypatch, RedisCatalog, "delete_records", before=run_again_without_times)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert amounts(left) == (FILES, 0, KEYS, OBJECTS)
    assert left.steps == STATE_KEYS


def test_a_state_key_that_expires_meanwhile_is_no_restart(
    world: World, states: StatePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(
        monkeypatch,
        Cluster,
        "write_status",
        after=lambda *_: states.states.delete(states.state_key("task_1", NODES[0])),
        when=says_claimed,
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.CATALOG_ENTRY_GONE)
    assert amounts(left) == (None, 0, *FIRST_RUN[2:])
    assert left.steps == STATE_KEYS - 1


# --- force_identity ---------------------------------------------------------------------------------------------------
def test_a_forced_task_may_end_meanwhile_without_counting_as_restarted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.begin_run("task_1")
    world.request("a", force=True)
    interpose(
        monkeypatch, Cluster, "write_status", after=lambda *_: world.pipeline.complete_run("task_1"), when=says_claimed
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert task["state"] == "Deleted"
    assert left.is_gone
    assert left.steps == 0


def test_a_forced_task_that_was_created_anew_is_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.begin_run("task_1")
    world.request("a", force=True)

    def create_anew(*_: object) -> None:
        world.pipeline.begin_run("task_1", renews_created_at=True)
        world.pipeline.add_keys("task_1", KEYS)
        world.pipeline.add_objects("task_1", OBJECTS)

    interpose(monkeypatch, Cluster, "write_status", after=create_anew, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert (left.siblings, left.keys, left.objects, left.steps) == (0, KEYS, OBJECTS, STATE_KEYS)


# --- look_again: the state is the index, so it goes last, and only when nothing else is there -------------------------
def test_the_state_stays_while_objects_are_left_so_that_a_retry_finds_the_task(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise Fault("retriable", reasons.SERVER_ERROR, "the object store answered 500")

    world.request("a")
    interpose(monkeypatch, Objects, "purge", before=refuse)
    process = world.start()
    process.reconcile("a")
    left = world.look()
    assert (amounts(left), left.steps) == ((None, 0, 0, 2), STATE_KEYS)
    assert records_of(task_of(process.status("a")))["outcome"] == "NotAttempted"
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert (world.look().is_gone, world.look().steps) == (True, 0)


def write_keys(pipeline: StatePipeline) -> None:
    """The forced task writes keys."""
    pipeline.add_keys("task_1", KEYS)


def write_objects(pipeline: StatePipeline) -> None:
    """The forced task writes objects."""
    pipeline.add_objects("task_1", OBJECTS)


@pytest.mark.parametrize(
    ("write", "name"),
    [pytest.param(write_keys, "Redis", id="keys"), pytest.param(write_objects, "MinIO", id="objects")],
)
def test_the_state_stays_while_a_fresh_look_finds_something(
    world: World,
    states: StatePipeline,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[StatePipeline], None],
    name: str,
) -> None:
    states.begin_run("task_1")
    world.request("a", force=True)
    interpose(monkeypatch, DirectoryRoot, "look", before=lambda *_: write(states), when=second_call())
    process = world.start()
    process.reconcile("a")
    task = task_of(process.status("a"))
    assert (resource(task, name)["outcome"], resource(task, name)["reason"]) == ("Failed", reasons.NOT_EMPTY)
    assert world.look().steps == STATE_KEYS
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert (world.look().is_gone, world.look().steps) == (True, 0)


def second_call() -> Callable[..., bool]:
    """The look before the state goes: after the one that reads back."""
    calls: list[int] = []

    def is_second(*_: object, **__: object) -> bool:
        calls.append(1)
        return len(calls) == 2

    return is_second


def test_a_state_that_is_rewritten_after_everything_else_went_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, RedisCatalog, "delete_records", before=lambda *_, **__: world.pipeline.begin_run("task_1"))
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], records_of(task)["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert (left.is_gone, left.steps) == (True, STATE_KEYS)


# --- crashes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_around_the_end_of_the_state_ends_as_deleted(
    world: World, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    world.request("a")
    if moment == "before":
        interpose(monkeypatch, RedisCatalog, "delete_records", before=crash)
    else:
        interpose(monkeypatch, RedisCatalog, "delete_records", after=crash)
    world.start().crash("a")
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["databaseRecordsDeleted"]) == ("Deleted", True)
    assert (left.is_gone, left.steps) == (True, 0)


# --- one_at_a_time ----------------------------------------------------------------------------------------------------
def test_a_second_request_waits_while_the_first_has_something_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_claimed)
    world.start().crash("a")
    world.request("b")
    process = world.start()
    process.reconcile("b")
    assert task_of(process.status("b"))["reason"] == reasons.CLAIMED_BY_OTHER
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert task_of(process.finish("b"))["state"] == "NotFound"
    assert world.look().is_gone
