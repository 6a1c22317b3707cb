"""The rules of the purge, one by one: what is compared, what goes last, and what a changed entry means.

Each test is the shortest sequence that ends wrongly without its rule, played on the real services.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.client import KubeUnavailable
from taskdeletion.kube.objects import Cluster
from taskdeletion.workflow.finishing import Finish
from tests.support.harness import World, task_of
from tests.support.kube import Kube, resource
from tests.support.runs import (
    FILES,
    KEYS,
    OBJECTS,
    run_again,
    write_directory,
)
from tests.support.seams import crash, interpose, says_claimed

ROWS: dict[str, Any] = {"deleteDatabaseRecords": True}


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        yield found


def refuse_objects(*_: object, **__: object) -> None:
    """The object store fails at this moment."""
    raise Fault("retriable", reasons.SERVER_ERROR, "the object store answered 500")


def outcome_of(task: dict[str, Any], name: str) -> tuple[str, str | None]:
    """Outcome and reason of one resource."""
    found = resource(task, name)
    return found["outcome"], found.get("reason")


# --- mark_last: the mark changes the row, so nothing is compared after it --------------------------------------------
def test_a_row_is_not_marked_while_something_of_its_task_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_1")
    before = world.look().row
    world.request("a")
    interpose(monkeypatch, Objects, "purge", before=refuse_objects)
    process = world.start()
    process.reconcile("a")
    left = world.look()
    assert (left.directory, left.keys, left.objects, left.row) == (None, 0, 2, before)
    task = task_of(process.finish("a"))
    assert (task["state"], resource(task, "MinIO")["count"]) == ("Deleted", 2)
    marked = world.look().row
    assert marked is not None
    assert marked["directory_exists"] is False


def test_a_mark_that_a_crash_followed_is_no_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_1")
    world.request("a")
    interpose(monkeypatch, PostgresCatalog, "mark", after=crash)
    world.start().crash("a")
    marked = world.look().row
    task, left = task_of(world.start().finish("a")), world.look()
    assert task["state"] == "Deleted"
    assert left.is_gone
    assert left.row == marked


# --- no effect for a request goes on beside, or after, the attempt that began it --------------------------------------
def test_an_attempt_that_is_cut_short_leaves_no_purge_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_1")
    world.request("a")
    cut_short, returned, went_on = threading.Event(), threading.Event(), []

    def be_away(*_: object) -> None:
        cut_short.set()
        raise KubeUnavailable("the API server is away")

    def purge_slowly(*_: object, **__: object) -> None:
        interpose(monkeypatch, Cluster, "write_status", before=be_away)
        assert cut_short.wait(30), "no progress was written"
        went_on.append(returned.wait(1))

    interpose(monkeypatch, Objects, "purge", before=purge_slowly)
    process = world.start()
    with pytest.raises(KubeUnavailable):
        process.reconcile("a")
    returned.set()
    wait_until(lambda: went_on, what="the end of the purge")
    assert went_on == [False]
    status = process.finish("a")
    assert (task_of(status)["state"], status["attempts"]) == ("Deleted", 1)
    assert world.look().is_gone


# --- missing_keeps: where the entry is missing, only the sibling is finished -----------------------------------------
def test_a_missing_entry_protects_what_a_later_run_wrote(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_1")
    world.request("a")

    def run_and_expire(*_: object) -> None:
        run_again(world.pipeline, "task_1")
        world.pipeline.remove_entry("task_1")

    interpose(monkeypatch, Cluster, "write_status", after=run_and_expire, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.CATALOG_ENTRY_GONE)
    assert (left.directory, left.siblings, left.keys, left.objects) == (FILES, 0, KEYS, OBJECTS)


@pytest.mark.parametrize("spec", [pytest.param({}, id="rows-kept"), pytest.param(ROWS, id="rows-deleted")])
def test_a_missing_entry_is_no_failure_where_nothing_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    world.pipeline.add_task("task_1", keys=0, objects=0)
    world.request("a", **spec)
    interpose(
        monkeypatch,
        Cluster,
        "write_status",
        after=lambda *_: world.pipeline.remove_entry("task_1"),
        when=says_claimed,
    )
    task = task_of(world.start().finish("a"))
    assert (task["state"], outcome_of(task, "Directory")) == ("Deleted", ("Deleted", None))
    assert world.look().is_gone


# --- a restart is found by the compare before every batch ------------------------------------------------------------
@pytest.mark.parametrize("spec", [pytest.param({}, id="rows-kept"), pytest.param(ROWS, id="rows-deleted")])
def test_only_the_sibling_is_finished_of_a_task_that_ran_again_after_the_claim(
    world: World, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any]
) -> None:
    world.pipeline.add_task("task_1")
    world.request("a", **spec)
    interpose(
        monkeypatch, Cluster, "write_status", after=lambda *_: run_again(world.pipeline, "task_1"), when=says_claimed
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (FILES, 0, KEYS, OBJECTS)
    assert left.row is not None
    assert (left.row["status"], left.row["directory_exists"], left.steps) == ("completed", True, 2)


def test_a_second_run_whose_row_says_what_it_said_before_is_a_restart_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = world.pipeline
    pipeline.add_task("task_1")
    world.request("a")

    def run_again_without_times(*_: object) -> None:
        with pipeline.connect() as connection:
            connection.execute("UPDATE data_pipeline_tasks SET status = 'in_progress'")
            write_directory(pipeline, "task_1")
            pipeline.add_keys("task_1", KEYS)
            pipeline.add_objects("task_1", OBJECTS)
            connection.execute("UPDATE data_pipeline_tasks SET status = 'completed'")

    interpose(monkeypatch, Cluster, "write_status", after=run_again_without_times, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (FILES, 0, KEYS, OBJECTS)


# --- force_identity: with force only created_at says which run it is -------------------------------------------------
def test_a_forced_task_may_end_meanwhile_without_counting_as_restarted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.add_task("task_1", status="in_progress")
    world.request("a", force=True)
    interpose(
        monkeypatch, Cluster, "write_status", after=lambda *_: world.pipeline.complete_run("task_1"), when=says_claimed
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert task["state"] == "Deleted"
    assert left.is_gone
    assert left.row is not None
    assert left.row["directory_exists"] is False


def test_a_forced_task_that_writes_on_is_reported_as_reappeared_not_as_restarted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.add_task("task_1", status="in_progress")
    world.request("a", force=True)

    def write_on(*_: object) -> None:
        write_directory(world.pipeline, "task_1")
        world.pipeline.complete_run("task_1")

    interpose(monkeypatch, Cluster, "write_status", after=write_on, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("PartiallyFailed", reasons.DIRECTORY_REAPPEARED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (FILES, 0, 0, 0)


def test_a_forced_task_that_was_created_anew_is_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.pipeline.add_task("task_1", status="in_progress")
    world.request("a", force=True)

    def create_anew(*_: object) -> None:
        world.pipeline.begin_run("task_1", renews_created_at=True)
        world.pipeline.add_keys("task_1", KEYS)
        world.pipeline.add_objects("task_1", OBJECTS)

    interpose(monkeypatch, Cluster, "write_status", after=create_anew, when=says_claimed)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reasons.TASK_RESTARTED)
    assert (left.siblings, left.keys, left.objects) == (0, KEYS, OBJECTS)


# --- look_again: rows go only after a fresh look found everything else absent ----------------------------------------
def write_keys(pipeline: Pipeline) -> None:
    """The forced task writes keys."""
    pipeline.add_keys("task_1", KEYS)


def write_objects(pipeline: Pipeline) -> None:
    """The forced task writes objects."""
    pipeline.add_objects("task_1", OBJECTS)


def leave_sibling(pipeline: Pipeline) -> None:
    """A sibling of a request that is gone turns up."""
    (pipeline.root / ".deleting-00000000-0000-4000-8000-000000000000-task_1").mkdir()


@pytest.mark.parametrize(
    ("write", "name"),
    [
        pytest.param(write_keys, "Redis", id="keys"),
        pytest.param(write_objects, "MinIO", id="objects"),
        pytest.param(leave_sibling, "Directory", id="sibling"),
    ],
)
def test_rows_stay_while_a_fresh_look_finds_something_and_go_when_it_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch, write: Callable[[Pipeline], None], name: str
) -> None:
    world.pipeline.add_task("task_1", status="in_progress")
    world.request("a", force=True, **ROWS)
    interpose(monkeypatch, Finish, "perform", before=lambda *_: write(world.pipeline))
    process = world.start()
    process.reconcile("a")
    task, left = task_of(process.status("a")), world.look()
    assert outcome_of(task, name) == ("Failed", reasons.NOT_EMPTY)
    assert outcome_of(task, "DatabaseRecords") == ("NotAttempted", reasons.NOT_EMPTY)
    assert left.row is not None
    assert left.steps == 2
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert world.look().is_gone
    assert world.look().row is None


def test_rows_stay_where_the_directory_appears_after_it_was_read_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.add_task("task_1", status="in_progress")
    world.request("a", force=True, **ROWS)
    looks: list[int] = []

    def is_last_look(*_: object) -> bool:
        looks.append(1)
        return len(looks) == 2  # to read back, and once more before the rows

    interpose(
        monkeypatch,
        DirectoryRoot,
        "look",
        before=lambda *_: write_directory(world.pipeline, "task_1"),
        when=is_last_look,
    )
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("PartiallyFailed", reasons.DIRECTORY_REAPPEARED)
    assert (left.directory, left.keys, left.objects, left.steps) == (FILES, 0, 0, 2)
    assert left.row is not None
