"""When the runs of a policy begin: missed, late, concurrent, suspended and edited ones, on a real API server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dev.pipeline import Pipeline
from taskdeletion.kube.children import Children
from tests.integration.test_policy_runs import Policies, creation, named, ready
from tests.support.kube import Kube
from tests.support.seams import interpose

NIGHTLY = "0 2 * * *"


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


def night(days_from_now: int, *, minutes: int = 0) -> datetime:
    """Two o'clock, so many days from today."""
    today = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    return today + timedelta(days=days_from_now, minutes=minutes)


def runs_of(policies: Policies) -> list[str]:
    """The runs that have TaskDeletions."""
    return sorted({child["metadata"]["labels"]["datapipeline.dev/run"] for child in policies.children()})


# --- missed ---------------------------------------------------------------------------------------------------------
def test_runs_missed_while_nobody_looked_are_caught_up_once(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=10))
    process = policies.start()
    with process.at(night(30, minutes=5)):
        process.look("nightly")
        process.look("nightly")
    assert datetime.fromisoformat(policies.status()["lastScheduleTime"]) == night(30)
    assert len(runs_of(policies)) == 1


def test_a_run_begins_at_its_time_and_not_before(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, due=False)
    process = policies.start()
    with process.at(night(3, minutes=-1)):
        process.look("nightly")
        policies_last = policies.status()["lastScheduleTime"]
    with process.at(night(4, minutes=-1)):
        policies.change(concurrencyPolicy="Allow")
        delay = process.look("nightly")
    assert datetime.fromisoformat(policies_last) == night(2)
    assert datetime.fromisoformat(policies.status()["nextScheduleTime"]) == night(4)
    assert delay is not None
    assert delay <= 61


def test_a_clock_that_jumps_back_fires_nothing_twice(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, concurrencyPolicy="Allow")
    process = policies.start()
    with process.at(night(5, minutes=1)):
        process.look("nightly")
    before = policies.status()["lastScheduleTime"]
    for moment in (night(4, minutes=1), night(5, minutes=-30), night(5, minutes=10)):
        with process.at(moment):
            process.look("nightly")
    assert policies.status()["lastScheduleTime"] == before
    assert len(runs_of(policies)) == 1


def test_a_run_that_is_later_than_its_deadline_is_skipped_once_and_said_so(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=3), startingDeadlineSeconds=600)
    process = policies.start()
    with process.at(night(3, minutes=11)):
        process.look("nightly")
        process.look("nightly")
    status = policies.status()
    assert datetime.fromisoformat(status["lastSkipped"]["scheduledTime"]) == night(3)
    assert status["lastSkipped"]["reason"] == "RunSkipped"
    assert "lastRun" not in status
    process.cluster.flush(5)
    process.set_cluster.flush(5)
    events = policies.kube.events(policies.namespace, "nightly")
    assert [event["reason"] for event in events].count("RunSkipped") == 1
    assert policies.children() == []


# --- edited ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [{"schedule": "0 1 * * *"}, {"timeZone": "Asia/Tokyo"}], ids=["schedule", "zone"])
def test_an_edited_schedule_fires_nothing_for_the_past(policies: Policies, change: dict[str, str]) -> None:
    policies.fill(3)
    policies.create(schedule="0 23 * * *", due=False)
    process = policies.start()
    with process.at(night(1)):
        process.look("nightly")  # of the evening before
    first = policies.status()["lastScheduleTime"]
    policies.change(concurrencyPolicy="Allow", **change)
    with process.at(night(1, minutes=12 * 60 + 55)):  # 14:55, in Tokyo 23:55
        process.look("nightly")
    assert policies.status()["lastScheduleTime"] == first
    assert len(runs_of(policies)) == 1


def test_an_edit_in_the_middle_of_a_creation_takes_effect_at_once(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    process = policies.start()
    interpose(
        monkeypatch,
        Children,
        "create",
        before=lambda *_: policies.change(limits={"maxTasksPerRun": 600}),
        when=creation(2),
    )
    assert process.look("nightly") == 0
    assert policies.children() == []
    process.look("nightly")
    assert named(policies.children()) == wanted[:600]


# --- suspended and deleted ------------------------------------------------------------------------------------------
def test_suspending_stops_before_the_next_creation_and_leaves_no_part_of_it(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies.fill()
    policies.create()
    process = policies.start()
    interpose(monkeypatch, Children, "create", before=lambda *_: policies.change(suspend=True), when=creation(2))
    process.look("nightly")
    process.look("nightly")
    status = policies.status()
    assert policies.children() == []
    assert ready(status) == ("True", "Suspended")
    assert "draft" not in status
    assert "nextScheduleTime" not in status


def test_a_policy_deleted_in_the_middle_of_a_creation_leaves_nothing_half_created(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies.fill()
    policies.create()
    process = policies.start()
    interpose(monkeypatch, Children, "create", after=lambda *_: policies.delete(), when=creation(2))
    process.look("nightly")
    process.look("nightly")
    assert policies.children() == []


def test_a_suspended_policy_catches_up_once_when_it_is_resumed(policies: Policies) -> None:
    policies.fill(3)
    policies.create(suspend=True)
    process = policies.start()
    process.look("nightly")
    assert policies.children() == []
    policies.change(suspend=False)
    process.look("nightly")
    assert len(runs_of(policies)) == 1


# --- one run and the next -------------------------------------------------------------------------------------------
def test_forbid_waits_for_the_run_before_and_then_begins(policies: Policies) -> None:
    policies.fill(2)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2))
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    first = policies.children()[0]["metadata"]["name"]
    policies.pipeline.add_rows("later")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
        assert ready(policies.status()) == ("True", "PreviousRunActive")
        assert len(policies.children()) == 1
        process.finish(first)
        process.look("nightly")
    assert len(runs_of(policies)) == 2
    assert datetime.fromisoformat(policies.run()["scheduledTime"]) == night(4)


def test_allow_runs_beside_the_run_before_without_its_tasks(policies: Policies) -> None:
    policies.fill(2)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2), concurrencyPolicy="Allow")
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    policies.pipeline.add_rows("later")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    first, second = policies.children()
    assert (first["spec"]["taskIds"], second["spec"]["taskIds"]) == (["task_000000", "task_000001"], ["later"])
    assert policies.run()["protected"] == 2
    assert policies.status()["active"] == 2


def test_replace_cancels_the_run_before(policies: Policies) -> None:
    policies.fill(2)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2), concurrencyPolicy="Replace")
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    (child,) = policies.children()
    assert child["metadata"]["labels"]["datapipeline.dev/run"] == str(int(night(4).timestamp()) // 60)
    assert policies.status()["active"] == 1
