"""The rules of who owns what, one by one: one request at a time, adoption, and what the sweep puts back.

Each test is the shortest sequence that ends wrongly without its rule, played on the real services.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from dev.pipeline import Pipeline
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.objects import Cluster
from tests.support.harness import Harness, World, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import (
    end_sessions,
    is_second_run,
    run_again,
    siblings_of,
    write_directory,
)
from tests.support.seams import Act, crash, interpose, says_claimed, says_deleting
from tests.support.stopping import stop_purges

STOPPED = Fault("retriable", reasons.BUSY, "a file is in use")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        pipeline.add_task("task_1")
        yield found


def refuse_objects(*_: object, **__: object) -> None:
    """The object store fails at this moment."""
    raise Fault("retriable", reasons.SERVER_ERROR, "the object store answered 500")


def require_waiting(process: Harness, name: str) -> None:
    """The request waits for another one: nothing is announced, no attempt is used."""
    status = process.status(name)
    task = task_of(status)
    assert (task["state"], task["reason"]) == ("Pending", reasons.CLAIMED_BY_OTHER)
    assert "version" not in task
    assert condition(status, "Reconciling")["reason"] == reasons.CLAIMED_BY_OTHER
    assert status.get("attempts", 0) == 0


# --- one_at_a_time: a task belongs to the live request that says Deleting, or that a worker still finishes -----------
def test_a_second_request_waits_while_the_first_has_something_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, Objects, "purge", before=refuse_objects)
    process = world.start()
    process.reconcile("a")
    world.request("b")
    before = world.look()
    process.reconcile("b")
    require_waiting(process, "b")
    assert world.look() == before
    assert task_of(process.finish("a"))["state"] == "Deleted"
    assert process.key("b") in process.woken
    assert task_of(process.finish("b"))["state"] == "Deleted"
    assert process.status("b")["attempts"] == 1


def test_a_second_request_waits_after_a_restart_of_the_operator(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    world.request("b")
    process = world.start()
    process.reconcile("b")
    require_waiting(process, "b")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert task_of(process.finish("a"))["state"] == "Deleted"


def test_a_second_request_waits_for_a_worker_that_finishes_for_a_request_that_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    world.request("b")
    process = world.start()

    def look_at_b(*_: object, **__: object) -> None:
        process.reconcile("b")

    interpose(monkeypatch, Cluster, "write_status", before=lambda *_: world.withdraw("a"), when=says_claimed)
    interpose(monkeypatch, Objects, "purge", before=look_at_b)
    process.reconcile("a")
    require_waiting(process, "b")
    assert world.look().is_gone
    assert process.key("b") in process.woken
    assert task_of(process.finish("b"))["state"] == "Deleted"


def test_of_two_requests_that_say_deleting_the_claimed_one_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    world.request("b")
    die_after(world, monkeypatch, "a", says_deleting)
    die_after(world, monkeypatch, "b", says_claimed)
    process = world.start()
    process.reconcile("a")
    assert task_of(process.status("a"))["reason"] == reasons.CLAIMED_BY_OTHER
    assert process.status("a")["attempts"] == 1
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert task_of(process.finish("b"))["state"] == "Deleted"
    assert process.key("a") in process.woken


def test_of_two_requests_that_say_deleting_the_older_one_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = {name: world.request(name) for name in ("a", "b")}
    for name in uids:
        die_after(world, monkeypatch, name, says_deleting)
    process = world.start()
    older, younger = sorted(uids, key=lambda name: (process.live(name).created_at, uids[name]))
    process.reconcile(younger)
    assert task_of(process.status(younger))["reason"] == reasons.CLAIMED_BY_OTHER
    assert world.look().directory == 3
    assert task_of(process.finish(older))["state"] == "Deleted"
    assert process.key(younger) in process.woken


def die_after(world: World, monkeypatch: pytest.MonkeyPatch, name: str, when: Act) -> None:
    """A process that knows of no other request dies after one of its status writes."""
    with monkeypatch.context() as moment:
        interpose(moment, Cluster, "write_status", after=crash, when=lambda *arguments: bool(when(*arguments)))
        world.start(is_seeded=False).crash(name)


# --- adoption: a sibling of a request that ended or is gone is finished by the next one that names the task ----------
def test_a_begun_sibling_of_a_request_that_is_gone_is_adopted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_half_purged(world, monkeypatch)
    world.withdraw("a")
    world.request("b")
    task = task_of(world.start().finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 2)
    assert world.look().is_gone


def test_a_begun_sibling_of_a_request_that_has_ended_is_adopted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_half_purged(world, monkeypatch)
    world.request("b")
    task = task_of(world.start().finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 2)
    assert world.look().is_gone


def test_a_sibling_is_adopted_beside_the_directory_of_a_later_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_half_purged(world, monkeypatch)
    run_again(world.pipeline, "task_1")
    world.request("b")
    task = task_of(world.start().finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 2 + 5)
    assert world.look().is_gone


def leave_half_purged(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has ended for its limit and left a part of a sibling."""
    world.request("a", backoffLimit=0)
    with monkeypatch.context() as moment:
        stop_purges(moment, STOPPED)
        status = world.start().finish("a")
    task = task_of(status)
    assert (task["state"], task["reason"]) == ("PartiallyFailed", reasons.BACKOFF_LIMIT_EXCEEDED)
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 2}


# --- whole_goes_back: a whole sibling goes back where its request is gone and no live request names the task ---------
def test_the_sweep_puts_a_whole_sibling_of_a_request_that_is_gone_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")

    def lose_lock(*_: object) -> None:
        end_sessions(world.pipeline)
        run_again(world.pipeline, "task_1")

    interpose(monkeypatch, DirectoryRoot, "claim", before=lose_lock, after=crash)
    world.start().crash("a")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 5}
    world.withdraw("a")
    assert leftovers(world.start()) == (0, 0)
    assert is_second_run(world.look())


def test_the_sweep_puts_a_confirmed_but_whole_sibling_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_claimed)
    world.start().crash("a")
    world.withdraw("a")
    assert leftovers(world.start()) == (0, 0)
    left = world.look()
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def test_the_sweep_never_puts_back_what_a_live_request_names(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    move_aside_and_withdraw(world, monkeypatch)
    world.request("b")
    process = world.start()
    assert leftovers(process) == (1, 0)
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    task = task_of(process.finish("b"))
    assert (task["state"], resource(task, "Directory")["count"]) == ("Deleted", 3)
    assert leftovers(process) == (0, 0)
    assert world.look().is_gone


def test_the_sweep_touches_nothing_of_a_live_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    process = world.start()
    assert leftovers(process) == (0, 0)
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    assert task_of(process.finish("a"))["state"] == "Deleted"


def test_the_sweep_touches_nothing_that_a_worker_finishes_for_a_request_that_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    process, seen = world.start(), []

    def sweep(*_: object, **__: object) -> None:
        seen.append((leftovers(process), siblings_of(world.pipeline, "task_1")))

    interpose(monkeypatch, Cluster, "write_status", before=lambda *_: world.withdraw("a"), when=says_claimed)
    interpose(monkeypatch, DirectoryRoot, "begin_purge", before=sweep)
    process.reconcile("a")
    assert seen == [((0, 0), {"claimed": 3})]
    assert world.look().is_gone


def test_the_sweep_puts_nothing_back_while_the_request_that_moved_it_is_there(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    interpose(monkeypatch, DirectoryRoot, "claim", after=crash)
    world.start().crash("a")
    world.pipeline.begin_run("task_1")
    write_directory(world.pipeline, "task_1")
    process = world.start()
    assert task_of(process.finish("a"))["reason"] == reasons.RENAME_NOT_UNDONE
    shutil.rmtree(world.pipeline.root / "task_1")
    assert leftovers(process) == (1, 0)
    assert world.look().directory is None
    world.withdraw("a")
    assert leftovers(process) == (0, 0)
    assert (world.look().directory, world.look().siblings) == (3, 0)


def test_the_sweep_never_replaces_a_directory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    move_aside_and_withdraw(world, monkeypatch)
    write_directory(world.pipeline, "task_1")
    assert leftovers(world.start()) == (1, 0)
    assert world.look().directory == 5
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}


def test_the_sweep_shows_a_begun_sibling_and_leaves_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_half_purged(world, monkeypatch)
    world.withdraw("a")
    process = world.start()
    assert leftovers(process) == (0, 1)
    assert siblings_of(world.pipeline, "task_1") == {"deleting": 2}
    assert world.look().directory is None


def move_aside_and_withdraw(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies between rename and commit, and the request is deleted."""
    world.request("a")
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", after=crash)
        world.start().crash("a")
    world.withdraw("a")


def leftovers(process: Harness) -> tuple[int, int]:
    """Probe and sweep the store; the whole and the begun siblings that its status shows."""
    shown: dict[str, Any] = process.look_at_store()["leftovers"]
    return shown["claimed"], shown["deleting"]
