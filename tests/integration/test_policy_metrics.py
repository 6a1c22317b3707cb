"""What a policy tells monitoring: each run once by its outcome, how late a run is, and since when none ended well."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dev.pipeline import Pipeline
from taskdeletion.kube.objects import Key
from tests.integration.test_policy_runs import Policies
from tests.integration.test_policy_times import NIGHTLY, night
from tests.support.kube import Kube
from tests.support.policies import PolicyProcess
from tests.support.scraping import Scrape


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


def read(process: PolicyProcess) -> Scrape:
    return Scrape(process.policies.metrics.expose().decode())


def test_a_run_that_ends_well_is_counted_when_it_ends_and_leaves_its_time(policies: Policies) -> None:
    policies.fill(3)
    policies.create()
    process = policies.start()
    process.look("nightly")
    assert read(process).values("taskdeletion_policy_runs_total") == []
    status = process.finish_run("nightly")
    process.look("nightly")
    page = read(process)
    where = {"object_namespace": policies.namespace}
    assert page.total("taskdeletion_policy_runs_total", outcome="Succeeded", reason="Succeeded", **where) >= 1
    assert page.total("taskdeletion_policy_runs_total", **where) == page.total(
        "taskdeletion_policy_runs_total", outcome="Succeeded"
    )
    ended = datetime.fromisoformat(status["lastSuccessfulTime"]).timestamp()
    assert page.values("taskdeletion_policy_last_success_timestamp_seconds", policy="nightly") >= [ended]


def test_a_run_that_is_refused_is_counted_and_the_policy_says_why(policies: Policies) -> None:
    policies.fill(10)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2), limits={"maxPercentage": 50})
    process = policies.start()
    process.look("nightly")
    process.look("nightly")
    page = read(process)
    assert page.values("taskdeletion_policy_runs_total", outcome="Refused", reason="LimitExceeded") == [1]
    assert page.values("taskdeletion_policy_ready", policy="nightly", reason="LimitExceeded") == [0]
    assert page.values("taskdeletion_policy_last_success_timestamp_seconds") == []


def test_a_run_that_is_skipped_is_counted_once_and_is_late_no_more(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=3), startingDeadlineSeconds=600)
    process = policies.start()
    with process.at(night(3, minutes=11)):
        process.look("nightly")
        process.look("nightly")
    page = read(process)
    assert page.values("taskdeletion_policy_runs_total", outcome="Skipped", reason="RunSkipped") == [1]
    assert page.values("taskdeletion_policy_lag_seconds", policy="nightly") == [0]


def test_a_run_that_cannot_begin_is_late_until_it_begins(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=3))
    process = policies.start()
    policies.kube.patch_secret(policies.namespace, "pipeline-redis", {"url": "redis://127.0.0.1:1"})
    process.look("nightly")
    due = max(moment for moment in (night(0), night(-1)) if moment <= datetime.now(UTC))
    page = read(process)
    assert page.values("taskdeletion_policy_lag_seconds") == [pytest.approx(time.time() - due.timestamp(), abs=30)]
    assert page.values("taskdeletion_policy_ready", reason="DependencyUnavailable") == [0]

    policies.kube.patch_secret(policies.namespace, "pipeline-redis", {"url": policies.pipeline.stack.redis.url})
    process.look("nightly")
    page = read(process)
    assert page.values("taskdeletion_policy_lag_seconds") == [0]
    assert page.values("taskdeletion_policy_ready") == [1]


def test_a_suspended_policy_is_never_late(policies: Policies) -> None:
    policies.fill(3)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=3), suspend=True)
    process = policies.start()
    process.look("nightly")
    page = read(process)
    assert page.values("taskdeletion_policy_lag_seconds", policy="nightly") == [0]
    assert page.values("taskdeletion_policy_next_schedule_timestamp_seconds") == []


@pytest.mark.parametrize("schedule", ["0 0 31 2 *", 5], ids=["never comes", "not read by this version"])
def test_a_policy_that_makes_no_sense_is_not_ready(
    policies: Policies, schedule: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies.create(due=False)
    process = policies.start()
    live = process.set_cluster.read(Key("TaskRetentionPolicy", policies.namespace, "nightly"))
    assert live is not None
    odd = replace(live, spec={**live.spec, "schedule": schedule})
    monkeypatch.setattr(process.set_cluster, "read", lambda _: odd)
    process.look("nightly")
    assert read(process).values("taskdeletion_policy_ready", policy="nightly", reason="InvalidSpec") == [0]
