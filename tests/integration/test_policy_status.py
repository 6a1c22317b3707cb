"""What people and GitOps tools see of a policy: how its runs go on, what keeps it from them, what stays the same."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from dev.pipeline import Pipeline
from dev.state_pipeline import StatePipeline
from taskdeletion.api.common import format_time
from tests.integration.test_policy_runs import Policies, named, ready
from tests.support.kube import Kube, condition
from tests.support.policies import PLURAL

NIGHTLY = "0 2 * * *"


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


@pytest.fixture
def state_policies(kube: Kube, state_pipeline: StatePipeline) -> Iterator[Policies]:
    found = Policies(kube, state_pipeline)
    yield found
    found.close()


def end_run(policies: Policies, name: str, *, verdict: str, **summary: Any) -> None:
    """Write the end of a TaskDeletion as the operator would."""
    now = format_time(datetime.now(UTC))
    ended = {
        "type": verdict,
        "status": "True",
        "reason": "Succeeded" if verdict == "Complete" else "TasksNotDeleted",
        "message": "",
        "lastTransitionTime": now,
    }
    status = {"startTime": now, "completionTime": now, "conditions": [ended], "summary": summary}
    path = f"/apis/datapipeline.dev/v1beta1/namespaces/{policies.namespace}/taskdeletions/{name}/status"
    policies.kube.api.request("PATCH", path, body={"status": status}, content_type="application/merge-patch+json")


# --- a run goes on --------------------------------------------------------------------------------------------------
def test_the_run_shows_what_was_freed_so_far_and_ends_with_its_last_taskdeletion(policies: Policies) -> None:
    policies.fill(700)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2))
    process = policies.start()
    process.look("nightly")
    first, second = (child["metadata"]["name"] for child in policies.children())
    end_run(policies, first, verdict="Complete", requested=500, deleted=500, bytesFreed=5_000_000)
    process.look("nightly")
    run = policies.run()
    assert (run["phase"], run["active"], run["deleted"], run["sizeFreed"]) == ("Active", [second], 500, "5.0 MB")
    end_run(policies, second, verdict="Failed", requested=200, deleted=150, bytesFreed=1_000_000)
    process.look("nightly")
    status = policies.status()
    run = status["lastRun"]
    assert (run["phase"], run["failures"], run["deleted"], run["failed"]) == ("Failed", 1, 650, 50)
    assert (run["bytesFreed"], run["active"]) == (6_000_000, [])
    assert ready(status) == ("False", "RunFailed")
    assert "lastSuccessfulTime" not in status


def test_a_taskdeletion_that_somebody_deleted_makes_the_run_fail_and_its_sums_lower_bounds(policies: Policies) -> None:
    policies.fill(700)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2))
    process = policies.start()
    process.look("nightly")
    first, second = (child["metadata"]["name"] for child in policies.children())
    policies.kube.delete(policies.namespace, first)
    end_run(policies, second, verdict="Complete", requested=200, deleted=200)
    process.look("nightly")
    run = policies.run()
    assert (run["phase"], run["failures"], run["atLeast"], run["deleted"]) == ("Failed", 1, True, 200)


def test_a_taskdeletion_whose_end_was_seen_may_go_before_the_run_has_ended(policies: Policies) -> None:
    policies.fill(700)
    policies.create(schedule=NIGHTLY, overdue=timedelta(days=2))
    process = policies.start()
    process.look("nightly")
    first, second = (child["metadata"]["name"] for child in policies.children())
    end_run(policies, first, verdict="Complete", requested=500, deleted=500, bytesFreed=10)
    process.look("nightly")
    policies.kube.delete(policies.namespace, first)
    end_run(policies, second, verdict="Complete", requested=200, deleted=200, bytesFreed=10)
    process.look("nightly")
    run = policies.run()
    assert (run["phase"], run["failures"], run["atLeast"]) == ("Succeeded", 0, True)


def test_history_limits_remove_the_oldest_that_ended_but_nothing_of_the_last_run(policies: Policies) -> None:
    policies.create(schedule=NIGHTLY, successfulDeletionsHistoryLimit=1, failedDeletionsHistoryLimit=0, due=False)
    process = policies.start()
    for days, verdict in ((1, "Complete"), (2, "Failed"), (3, "Complete"), (4, "Failed")):
        policies.pipeline.add_rows(f"task_{days}")
        with process.at(night(days)):
            process.look("nightly")
        newest = max(policies.children(), key=lambda child: str(child["metadata"]["labels"]["datapipeline.dev/run"]))
        end_run(policies, newest["metadata"]["name"], verdict=verdict, requested=1)
        with process.at(night(days) + timedelta(minutes=5)):
            process.look("nightly")
    left = [child["metadata"]["labels"]["datapipeline.dev/run"] for child in policies.children()]
    assert sorted(left) == [run_label(3), run_label(4)]


def night(days: int) -> datetime:
    """A minute after two o'clock, so many days from today."""
    today = datetime.now(UTC).replace(hour=2, minute=1, second=0, microsecond=0)
    return today + timedelta(days=days)


def run_label(days: int) -> str:
    """The label of the run of that night."""
    return str(int(night(days).timestamp()) // 60 - 1)


# --- what keeps it from running -------------------------------------------------------------------------------------
def test_a_run_whose_store_is_down_waits_says_so_and_goes_on_when_it_is_back(policies: Policies) -> None:
    policies.fill(2)
    policies.kube.patch_secret(policies.namespace, "pipeline-redis", {"url": "redis://127.0.0.1:1"})
    policies.create()
    process = policies.start()
    process.look("nightly")
    status = policies.status()
    assert ready(status) == ("False", "DependencyUnavailable")
    assert condition(status, "Reconciling")["status"] == "True"
    assert "Unavailable" in condition(status, "Ready")["message"]
    assert "lastScheduleTime" not in status
    policies.kube.patch_secret(policies.namespace, "pipeline-redis", {"url": policies.pipeline.stack.redis.url})
    process.look("nightly")
    assert len(named(policies.children())) == 2


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        pytest.param(
            {"rules": [{"statuses": ["completed", "in_progress"]}]}, "'in_progress' is no terminal", id="status"
        ),
        pytest.param({"timeZone": "Europe/Atlantis"}, "spec.timeZone: 'Europe/Atlantis'", id="zone"),
        pytest.param({"schedule": "0 0 31 2 *"}, "spec.schedule: '0 0 31 2 *'", id="never"),
        pytest.param({"schedule": "0 5-1 * * *"}, "spec.schedule: '0 5-1 * * *'", id="backwards"),
    ],
)
def test_a_policy_that_cannot_be_carried_out_says_what_to_correct(
    policies: Policies, spec: dict[str, Any], told: str
) -> None:
    policies.fill(2)
    policies.create(**spec)
    policies.start().look("nightly")
    status = policies.status()
    assert ready(status) == ("False", "InvalidSpec")
    assert condition(status, "Stalled")["status"] == "True"
    assert told in condition(status, "Ready")["message"]
    assert policies.children() == []


def test_a_policy_of_a_store_without_a_catalog_says_so(policies: Policies) -> None:
    store = policies.pipeline.manifests(store="bare", catalog=None, redis=None, objectStore=None)[-1]
    policies.kube.delete(policies.namespace, "default", "taskstores")
    policies.kube.apply([store])
    policies.create(storeRef={"name": "bare"})
    policies.start().look("nightly")
    assert ready(policies.status()) == ("False", "CatalogRequired")


def test_a_policy_over_rows_that_never_say_that_files_are_gone_is_refused(policies: Policies) -> None:
    store = policies.pipeline.manifests(store="bare", directory=None)[-1]
    policies.kube.delete(policies.namespace, "default", "taskstores")
    policies.kube.apply([store])
    policies.fill(2)
    policies.create(storeRef={"name": "bare"})
    process = policies.start()
    process.look("nightly")
    assert ready(policies.status()) == ("False", "InvalidSpec")
    assert "deleteDatabaseRecords" in condition(policies.status(), "Ready")["message"]
    policies.change(template={"deleteDatabaseRecords": True})
    process.look("nightly")
    assert len(named(policies.children())) == 2


def test_a_policy_whose_store_is_not_there_waits_for_it(policies: Policies) -> None:
    policies.create(storeRef={"name": "elsewhere"})
    delay = policies.start().look("nightly")
    assert ready(policies.status()) == ("False", "DependencyUnavailable")
    assert "StoreNotFound" in condition(policies.status(), "Ready")["message"]
    assert delay is not None


# --- what stays the same --------------------------------------------------------------------------------------------
def test_applying_the_same_policy_again_changes_nothing_and_shows_no_difference(policies: Policies) -> None:
    manifest = yaml.safe_dump(
        {
            "apiVersion": "datapipeline.dev/v1beta1",
            "kind": "TaskRetentionPolicy",
            "metadata": {"name": "nightly", "namespace": policies.namespace},
            "spec": {"schedule": NIGHTLY, "rules": [{"statuses": ["completed"], "olderThan": "30d"}]},
        }
    )
    apply = ("apply", "--server-side", "--field-manager=gitops", "-f", "-")
    policies.kube.kubectl(*apply, stdin=manifest)
    policies.start().look("nightly")
    before = policies.kube.read(policies.namespace, "nightly", PLURAL)
    policies.kube.kubectl(*apply, stdin=manifest)
    difference = policies.kube.kubectl(
        "diff", "--server-side", "--field-manager=gitops", "-f", "-", stdin=manifest, check=False
    )
    assert difference == ""
    policies.start().look("nightly")
    after = policies.kube.read(policies.namespace, "nightly", PLURAL)
    assert before is not None
    assert after is not None
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_looking_again_writes_nothing(policies: Policies) -> None:
    policies.fill(2)
    policies.create(schedule=NIGHTLY, due=False)
    process = policies.start()
    process.look("nightly")
    before = policies.kube.read(policies.namespace, "nightly", PLURAL)
    process.look("nightly")
    assert policies.kube.read(policies.namespace, "nightly", PLURAL) == before


# --- the pipeline without a database --------------------------------------------------------------------------------
def test_a_policy_over_a_redis_catalog_frees_old_tasks_and_their_state(state_policies: Policies) -> None:
    pipeline, now = state_policies.pipeline, datetime.now(UTC)
    for number in range(3):
        pipeline.add_task(f"wf-{number}", created_at=now - timedelta(days=40 + number))
    pipeline.add_task("wf-young", created_at=now - timedelta(days=1))
    pipeline.add_task("wf-running", step_status="running")
    before = {name: pipeline.look(name) for name in ("wf-0", "wf-young", "wf-running")}
    state_policies.create(
        rules=[
            {"statuses": ["completed"], "olderThan": "30d"},
            {"taskIdPattern": "*", "olderThan": "3650d", "keepLast": 2},
        ]
    )
    status = state_policies.start().finish_run("nightly")
    run = status["lastRun"]
    assert (run["phase"], run["selected"], run["protected"], run["evaluated"]) == ("Succeeded", 2, 1, 5)
    assert all(pipeline.look(f"wf-{number}").is_gone and pipeline.look(f"wf-{number}").row is None for number in (1, 2))
    assert {name: pipeline.look(name) for name in before} == before
