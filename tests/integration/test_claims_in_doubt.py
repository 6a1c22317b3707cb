"""Claims that no row lock confirms: a task without a row, and a rename whose commit was never answered.

What was moved aside is purged only after one more compare; what may not be purged goes back, or is named.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dev.pipeline import Pipeline
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.postgres import PostgresCatalog
from taskdeletion.backends.postgres import claim as claim_module
from taskdeletion.domain.faults import Fault
from tests.support.harness import World, task_of
from tests.support.kube import Kube
from tests.support.runs import siblings_of, write_directory
from tests.support.seams import failing, interpose

UNKNOWN: dict[str, Any] = {"force": True, "notFoundPolicy": "Ignore"}


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        yield found


# --- a task without a row has nothing to lock -----------------------------------------------------------------------
def test_a_task_that_begins_between_the_look_and_the_rename_is_put_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", **UNKNOWN)
    interpose(monkeypatch, DirectoryRoot, "claim", before=lambda *_: world.pipeline.add_task("task_1"))
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert (left.directory, left.siblings, left.keys, left.objects, left.steps) == (3, 0, 2, 2, 2)
    assert left.row is not None
    assert left.row["directory_exists"] is not False


def test_a_row_that_appears_before_the_rename_of_residue_keeps_all_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.add_task("task_1", row=False)
    world.request("a", **UNKNOWN)
    interpose(monkeypatch, DirectoryRoot, "claim", before=lambda *_: world.pipeline.add_rows("task_1"))
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Refused", reasons.TASK_CHANGED)
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def test_residue_without_a_row_is_not_purged_while_the_catalog_cannot_say_so_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.pipeline.add_task("task_1", row=False)
    world.request("a", **UNKNOWN)
    interpose(
        monkeypatch,
        PostgresCatalog,
        "read",
        before=failing(Fault("waiting", reasons.UNAVAILABLE, "the catalog is away")),
        when=lambda *_: world.look().siblings == 1,
    )
    process = world.start()
    process.reconcile("a")
    left = world.look()
    assert (left.keys, left.objects) == (2, 2)
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert world.look().is_gone


def test_residue_without_a_row_is_cleaned(world: World) -> None:
    world.pipeline.add_task("task_1", row=False)
    world.request("a", **UNKNOWN)
    task = task_of(world.start().finish("a"))
    assert task["state"] == "Deleted"
    assert world.look().is_gone


# --- a rename that nothing confirmed, and then an obstacle ----------------------------------------------------------
def move_aside_in_doubt(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of the claim is not answered, and the catalog is away when it is to be compared once more."""

    def lose_reply(connection: "psycopg.Connection[Any]") -> None:
        connection.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as moment:
        interpose(moment, claim_module, "commit", after=lose_reply)
        interpose(
            moment,
            PostgresCatalog,
            "read",
            before=failing(Fault("waiting", reasons.UNAVAILABLE, "the catalog is away")),
            when=lambda *_: world.look().siblings == 1,
        )
        world.start().reconcile("a")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}


@pytest.mark.parametrize(
    ("is_there_again", "reason", "directory", "siblings"),
    [
        pytest.param(True, reasons.RENAME_NOT_UNDONE, 5, {"claimed": 3}, id="directory-there-again"),
        pytest.param(False, reasons.MOUNT_INSIDE, 3, {}, id="place-free"),
    ],
)
def test_a_task_that_may_not_be_purged_any_more_ends_with_its_rename_undone_or_named(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    is_there_again: bool,
    reason: str,
    directory: int,
    siblings: dict[str, int],
) -> None:
    world.pipeline.add_task("task_1")
    uid = world.request("a")
    move_aside_in_doubt(world, monkeypatch)
    if is_there_again:
        write_directory(world.pipeline, "task_1")
    obstacle = Fault("permanent", reasons.MOUNT_INSIDE, "something is mounted inside the directory")
    monkeypatch.setattr(DirectoryRoot, "check_purgeable", lambda *_: obstacle)
    task, left = task_of(world.start().finish("a")), world.look()
    assert (task["state"], task["reason"]) == ("Failed", reason)
    assert (f".claimed-{uid}-task_1" in task["message"]) is is_there_again
    assert (left.directory, left.keys, left.objects) == (directory, 2, 2)
    assert siblings_of(world.pipeline, "task_1") == siblings
