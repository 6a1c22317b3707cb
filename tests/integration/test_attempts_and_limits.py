"""What counts as an attempt, how long is waited, and what a request says that ends for one of its limits.

What passes by itself uses no attempt, whoever it was that went away; a limit is named by what it is.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
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
from tests.support.harness import Harness, World, states_of, task_of
from tests.support.kube import Kube, condition, resource
from tests.support.runs import siblings_of
from tests.support.seams import When, crash, failing, interpose, says_claimed, says_deleting, says_ended

BUSY = Fault("retriable", reasons.BUSY, "a file is in use")
AWAY = Fault("waiting", reasons.UNAVAILABLE, "the service is away")
API_AWAY = KubeUnavailable("the API server is away")


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        pipeline.add_task("task_1")
        yield found


# --- the API server goes away ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(
    "when",
    [
        pytest.param(says_deleting, id="announcement"),
        pytest.param(says_claimed, id="confirmation"),
        pytest.param(says_ended, id="end"),
    ],
)
def test_an_attempt_that_an_outage_of_the_api_server_cuts_short_is_the_same_attempt_when_it_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, when: When, moment: str
) -> None:
    world.request("a", backoffLimit=0)
    process = world.start()
    cut_short(process, monkeypatch, when, moment)
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)
    assert world.look().is_gone


def test_a_repeated_attempt_that_ends_by_waiting_is_given_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a", backoffLimit=0)
    process = world.start()
    cut_short(process, monkeypatch, says_claimed)
    interpose(monkeypatch, Objects, "purge", before=failing(AWAY))
    process.reconcile("a")
    assert (states_of(process.status("a")), process.status("a")["attempts"]) == (["Deleting"], 0)
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


def test_an_attempt_that_was_cut_short_is_still_to_be_repeated_after_waiting_for_another_request(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0, force=True)
    world.request("b", force=True)
    process = world.start(is_seeded=False)
    cut_short(process, monkeypatch, says_deleting, moment="after")
    with monkeypatch.context() as moment:
        interpose(moment, Cluster, "write_status", after=crash, when=says_claimed)
        world.start(is_seeded=False).crash("b")
    process.seed()
    process.reconcile("a")
    assert task_of(process.status("a"))["reason"] == reasons.CLAIMED_BY_OTHER
    assert task_of(process.finish("b"))["state"] == "Deleted"
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


def test_an_outage_that_cuts_every_attempt_short_uses_one_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0)
    process = world.start()
    for when in (says_deleting, says_claimed, says_ended):
        cut_short(process, monkeypatch, when)
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


def cut_short(process: Harness, monkeypatch: pytest.MonkeyPatch, when: When, moment: str = "before") -> None:
    """One look, in which the API server goes away around one of the writes."""
    outage: dict[str, Any] = {moment: failing(API_AWAY)}
    with monkeypatch.context() as patched:
        interpose(patched, Cluster, "write_status", when=when, **outage)
        with pytest.raises(KubeUnavailable):
            process.reconcile("a")


# --- the process dies -----------------------------------------------------------------------------------------------
def test_a_crash_in_the_last_attempt_leaves_lower_bounds_and_never_zero(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0)
    interpose(monkeypatch, Cluster, "write_status", before=crash, when=says_ended)
    world.start().crash("a")
    assert world.look().is_gone
    status = world.start().finish("a")
    task = task_of(status)
    assert (status["phase"], task["state"], task["reason"]) == (
        "PartiallyFailed",
        "PartiallyFailed",
        reasons.BACKOFF_LIMIT_EXCEEDED,
    )
    directory = resource(task, "Directory")
    assert (directory["outcome"], directory["reason"], directory["atLeast"]) == ("Failed", reasons.INTERRUPTED, True)


def test_a_crash_before_the_claim_of_the_last_attempt_is_no_deletion(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0)
    before = world.look()
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_deleting)
    world.start().crash("a")
    task = task_of(world.start().finish("a"))
    assert (task["state"], task["reason"]) == ("Failed", reasons.BACKOFF_LIMIT_EXCEEDED)
    assert "deletedAt" not in task
    assert world.look() == before


# --- attempts -------------------------------------------------------------------------------------------------------
def test_a_catalog_that_cannot_be_read_uses_attempts_until_the_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=1)
    before = world.look()
    slow = Fault("retriable", reasons.TIMEOUT, "the statement took too long")
    monkeypatch.setattr(PostgresCatalog, "read", failing(slow))
    process = world.start()
    assert process.reconcile("a") is not None
    assert (process.status("a")["attempts"], states_of(process.status("a"))) == (1, ["Pending"])
    process.reconcile("a")
    status = process.status("a")
    assert (status["phase"], status["attempts"]) == ("Failed", 2)
    assert condition(status, "Failed")["reason"] == reasons.BACKOFF_LIMIT_EXCEEDED
    assert world.look() == before


def test_a_catalog_that_is_away_when_it_is_first_read_uses_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0)
    interpose(monkeypatch, PostgresCatalog, "read", before=failing(AWAY))
    process = world.start()
    process.reconcile("a")
    assert process.status("a").get("attempts", 0) == 0
    status = process.finish("a")
    assert (status["phase"], status["attempts"]) == ("Succeeded", 1)


# --- delays ---------------------------------------------------------------------------------------------------------
EVEN = 0.5  # the jitter that leaves delays as they are


def test_delays_grow_while_nothing_goes_on_and_start_over_after_progress(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    process = world.start()
    process.deletions.jitter = lambda: EVEN
    with monkeypatch.context() as moment:
        moment.setattr(PostgresCatalog, "claim", failing(AWAY))
        delays = [process.reconcile("a") for _ in range(7)]
    assert delays == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    monkeypatch.setattr(Objects, "purge", failing(AWAY))
    assert [process.reconcile("a") for _ in range(3)] == pytest.approx([1, 2, 4])
    assert process.status("a")["attempts"] == 0


def test_delays_grow_while_another_request_has_the_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a")
    process = world.start()
    interpose(monkeypatch, Objects, "purge", before=failing(BUSY))
    process.reconcile("a")
    world.request("b")
    process.deletions.jitter = lambda: EVEN
    assert [process.reconcile("b") for _ in range(6)] == pytest.approx([1, 2, 4, 8, 16, 30])


def test_delays_grow_while_the_store_is_missing(world: World) -> None:
    world.request("a", storeRef={"name": "missing"})
    process = world.start()
    process.deletions.jitter = lambda: EVEN
    assert [process.reconcile("a") for _ in range(4)] == pytest.approx([1, 2, 4, 8])


def test_the_next_attempt_is_not_planned_past_the_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.request("a", activeDeadlineSeconds=2)
    monkeypatch.setattr(DirectoryRoot, "claim", failing(BUSY))
    process = world.start()
    process.deletions.jitter = lambda: EVEN
    delay = process.reconcile("a")
    assert delay is not None
    assert 0 < delay <= 3.1  # the server's clock has whole seconds
    status = process.status("a")
    planned = datetime.fromisoformat(status["nextAttemptTime"]) - datetime.fromisoformat(status["startTime"])
    assert planned <= timedelta(seconds=3)
    assert condition(process.finish("a"), "Failed")["reason"] == reasons.DEADLINE_EXCEEDED


# --- the end --------------------------------------------------------------------------------------------------------
LIMITS = [
    pytest.param({"backoffLimit": 0}, reasons.BACKOFF_LIMIT_EXCEEDED, id="backoff-limit"),
    pytest.param({"activeDeadlineSeconds": 1}, reasons.DEADLINE_EXCEEDED, id="deadline"),
    pytest.param({}, reasons.STORE_REPLACED, id="store-replaced"),
]


def move_aside(world: World, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], reason: str) -> Harness:
    """The process dies after the rename; the next one finds the request at its limit."""
    world.request("a", **limits)
    with monkeypatch.context() as moment:
        interpose(moment, DirectoryRoot, "claim", after=crash)
        world.start().crash("a")
    assert siblings_of(world.pipeline, "task_1") == {"claimed": 3}
    process = world.start()
    started = datetime.fromisoformat(process.status("a")["startTime"])
    if reason == reasons.DEADLINE_EXCEEDED:
        wait_until(lambda: datetime.now(UTC) > started + timedelta(seconds=2), what="the deadline")
    if reason == reasons.STORE_REPLACED:
        world.kube.delete(world.pipeline.namespace, "default", "taskstores")
        world.kube.apply(world.pipeline.manifests())
    return process


@pytest.mark.parametrize(("limits", "reason"), LIMITS)
def test_a_request_that_may_not_end_yet_says_for_which_limit_as_long_as_it_lasts(
    world: World, monkeypatch: pytest.MonkeyPatch, limits: dict[str, Any], reason: str
) -> None:
    process = move_aside(world, monkeypatch, limits, reason)
    with monkeypatch.context() as moment:
        moment.setattr(DirectoryRoot, "undo", failing(BUSY))
        process.reconcile("a")
        require_stopping(process, reason)
    root = world.pipeline.root
    root.rename(root.with_name("away"))
    for _ in range(3):
        process.reconcile("a")
        require_stopping(process, reason)
    root.with_name("away").rename(root)
    status = process.finish("a")
    assert (task_of(status)["state"], task_of(status)["reason"]) == ("Failed", reason)
    assert condition(status, "Failed")["reason"] == reason
    left = world.look()
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def require_stopping(process: Harness, reason: str) -> None:
    """The request has not ended, and says that it will, and why."""
    status = process.status("a")
    assert "completionTime" not in status
    target = condition(status, "FailureTarget")
    assert (target.get("status"), target.get("reason")) == ("True", reason)


@pytest.mark.parametrize("secret", ["pipeline-db", "pipeline-redis", "pipeline-minio"])
def test_only_the_directories_are_needed_to_end_a_request_past_its_deadline(
    world: World, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    process = move_aside(world, monkeypatch, {"activeDeadlineSeconds": 1}, reasons.DEADLINE_EXCEEDED)
    path = f"/api/v1/namespaces/{world.pipeline.namespace}/secrets/{secret}"
    world.kube.api.request("DELETE", path)
    process.reconcile("a")
    status, left = process.status("a"), world.look()
    assert condition(status, "Failed")["reason"] == reasons.DEADLINE_EXCEEDED
    assert (left.directory, left.siblings, left.keys, left.objects) == (3, 0, 2, 2)


def test_nothing_of_the_store_is_needed_to_end_a_request_that_has_moved_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a", backoffLimit=0)
    with monkeypatch.context() as moment:
        interpose(moment, Cluster, "write_status", before=crash, when=says_ended)
        world.start().crash("a")
    world.kube.delete(world.pipeline.namespace, "default", "taskstores")
    process = world.start()
    process.reconcile("a")
    assert condition(process.status("a"), "Failed")["reason"] == reasons.BACKOFF_LIMIT_EXCEEDED
