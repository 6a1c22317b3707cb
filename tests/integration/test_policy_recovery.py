"""How a policy goes on by itself: behind a refusal, a failure, a crash, a draft that stays, and edits by other hands.

The delays that a look returns are part of the promise: nobody else wakes a policy.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.kube.children import Children
from taskdeletion.kube.client import KubeForbidden, KubeRejected
from taskdeletion.workflow.drafting import ABANDONED_AFTER, Drafting
from tests.integration.test_policy_faults import AT_NIGHT
from tests.integration.test_policy_runs import DRAFT, Policies, assert_whole, creation, named, ready
from tests.integration.test_policy_status import end_run
from tests.integration.test_policy_times import night, runs_of
from tests.support.kube import GROUP_PATH, Kube, condition
from tests.support.policies import PLURAL
from tests.support.seams import Crash, crash, interpose

#: A minute behind the time of one run, until a moment behind that of the next.
UNTIL_NEXT = pytest.approx(24 * 3600 - 60, abs=1)
DEADLINE = 30


@pytest.fixture
def policies(kube: Kube, pipeline: Pipeline) -> Iterator[Policies]:
    found = Policies(kube, pipeline)
    yield found
    found.close()


def die_while_creating(policies: Policies, *, part: int, at: datetime | None = None) -> None:
    """A process begins the run that is due, and dies before it creates this part."""
    process = policies.start()
    process.set_cluster.moment = at
    with pytest.MonkeyPatch.context() as patch:
        interpose(patch, Children, "create", before=crash, when=creation(part))
        with pytest.raises(Crash):
            process.look("nightly")


# --- a policy that came to a stop -----------------------------------------------------------------------------------
def test_a_refused_policy_looks_again_at_its_next_time_and_runs_when_the_share_is_small_enough(
    policies: Policies,
) -> None:
    policies.fill(10)
    policies.create(**AT_NIGHT, limits={"maxPercentage": 50})
    process = policies.start()
    with process.at(night(3, minutes=1)):
        assert process.look("nightly") == UNTIL_NEXT
    assert ready(policies.status()) == ("False", "LimitExceeded")
    for number in range(10):
        policies.pipeline.add_rows(f"young_{number}", created_at=datetime.now(UTC))
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    assert ready(policies.status()) == ("True", "RunActive")
    assert len(named(policies.children())) == 10


def test_a_policy_whose_run_failed_looks_again_at_its_next_time_and_runs(policies: Policies) -> None:
    policies.fill(3)
    policies.create(**AT_NIGHT)
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
        end_run(policies, policies.children()[0]["metadata"]["name"], verdict="Failed", requested=3)
        assert process.look("nightly") == UNTIL_NEXT
    assert ready(policies.status()) == ("False", "RunFailed")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
    assert ready(policies.status()) == ("True", "RunActive")
    assert len(runs_of(policies)) == 2


def test_a_policy_whose_preview_is_over_a_limit_looks_again_at_its_next_time(policies: Policies) -> None:
    policies.fill(10)
    policies.create(**AT_NIGHT, due=False, limits={"maxPercentage": 50})
    process = policies.start()
    since = datetime.now(UTC)
    with process.at(since):
        delay = process.look("nightly")
    status = policies.status()
    assert ready(status) == ("False", "LimitExceeded")
    assert "lastRun" not in status
    next_time = datetime.fromisoformat(status["nextScheduleTime"])
    assert delay == pytest.approx((next_time - since).total_seconds(), abs=1)


# --- a crash behind the decision ------------------------------------------------------------------------------------
ALL = ["task_000000", "task_000001", "task_000002"]


@pytest.mark.parametrize(
    ("concurrency", "left"),
    [
        pytest.param("Forbid", {3: ALL}, id="forbid"),
        pytest.param("Allow", {3: ALL, 4: ["later"]}, id="allow"),
        pytest.param("Replace", {4: [*ALL, "later"]}, id="replace"),
    ],
)
def test_a_decided_run_is_released_first_and_counts_as_live_when_the_next_is_due(
    policies: Policies, monkeypatch: pytest.MonkeyPatch, concurrency: str, left: dict[int, list[str]]
) -> None:
    policies.fill(3)
    policies.create(**AT_NIGHT, concurrencyPolicy=concurrency)
    process = policies.start()
    with monkeypatch.context() as patch, process.at(night(3, minutes=1)):
        interpose(patch, Children, "release", before=crash)
        with pytest.raises(Crash):
            process.look("nightly")
    policies.pipeline.add_rows("later")
    restarted = policies.start()
    with restarted.at(night(4, minutes=1)):
        restarted.look("nightly")
    children = policies.children()
    found = {child["metadata"]["labels"]["datapipeline.dev/run"]: child["spec"]["taskIds"] for child in children}
    assert found == {str(int(night(day).timestamp()) // 60): task_ids for day, task_ids in left.items()}
    assert [child["spec"]["suspend"] for child in children] == [False] * len(children)
    assert [DRAFT in child["metadata"].get("annotations", {}) for child in children] == [False] * len(children)
    assert policies.status()["active"] == len(children)


def test_a_decided_run_is_released_though_the_policy_was_suspended_and_changed_meanwhile(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill()
    policies.create()
    process = policies.start()
    with monkeypatch.context() as patch:
        interpose(patch, Children, "release", before=crash)
        with pytest.raises(Crash):
            process.look("nightly")
    policies.change(suspend=True, rules=[])
    policies.start().look("nightly")
    assert ready(policies.status()) == ("True", "Suspended")
    assert policies.run()["phase"] == "Active"
    assert_whole(policies, wanted)


# --- what the API server refuses ------------------------------------------------------------------------------------
def is_refused(policies: Policies, name: str) -> bool:
    """Whether a TaskDeletion of that name may not be created now; nothing is stored."""
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": "TaskDeletion",
        "metadata": {"name": name},
        "spec": {"confirm": True, "taskIds": ["task_1"], "suspend": True},
    }
    path = f"{GROUP_PATH}/namespaces/{policies.namespace}/taskdeletions"
    try:
        policies.kube.api.request("POST", path, query={"dryRun": "All"}, body=body)
    except (KubeForbidden, KubeRejected):
        return True
    return False


def allow_taskdeletions(policies: Policies, count: int) -> None:
    """A ResourceQuota for so many TaskDeletions, in force."""
    hard = {"count/taskdeletions.datapipeline.dev": str(count)}
    manifest = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few", "namespace": policies.namespace},
        "spec": {"hard": hard},
    }
    policies.kube.apply([manifest])
    path = f"/api/v1/namespaces/{policies.namespace}/resourcequotas/few"

    def is_in_force() -> bool:
        status = policies.kube.api.request("GET", path).body.get("status", {})
        return bool(status.get("hard") == hard and status.get("used")) and is_refused(policies, "probe") == (count == 0)

    wait_until(is_in_force, seconds=DEADLINE, what=f"a quota of {count} TaskDeletions")


def test_a_run_over_a_quota_leaves_nothing_behind_says_so_and_begins_when_the_quota_is_raised(
    policies: Policies,
) -> None:
    wanted = policies.fill(700)
    allow_taskdeletions(policies, 0)
    allow_taskdeletions(policies, 1)
    policies.create(**AT_NIGHT)
    process = policies.start()
    process.set_cluster.moment = night(3, minutes=1)
    for _ in range(2):
        assert process.look("nightly") is not None
        status = policies.status()
        assert ready(status) == ("False", "CreationRefused")
        assert "exceeded quota" in condition(status, "Ready")["message"]
        assert not {"draft", "lastRun", "lastScheduleTime"} & set(status)
        assert policies.children() == []
    allow_taskdeletions(policies, 10)

    def has_begun() -> bool:  # a quota counts what is gone for a moment
        process.look("nightly")
        return "lastRun" in policies.status()

    wait_until(has_begun, seconds=DEADLINE, what="a run within the quota")
    assert_whole(policies, wanted)


@contextmanager
def refusing(policies: Policies, *, operation: str, expression: str) -> Iterator[None]:
    """An admission policy refuses, in this namespace, what the CEL `expression` is true of, and the name "probe"."""
    name = f"refusing-{policies.namespace}"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": policies.namespace}}
    rule = {
        "apiGroups": ["datapipeline.dev"],
        "apiVersions": ["*"],
        "operations": ["CREATE", operation],
        "resources": ["taskdeletions"],
    }
    refused = f"(request.operation == '{operation}' && {expression}) || object.metadata.name == 'probe'"
    api, validation = "admissionregistration.k8s.io/v1", {"expression": f"!({refused})", "message": "not tonight"}
    policy = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [validation]},
    }
    binding = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": selector}},
    }
    policies.kube.apply([policy, binding])
    wait_until(lambda: is_refused(policies, "probe"), seconds=DEADLINE, what="an admission policy")
    try:
        yield
    finally:
        for kind in ("validatingadmissionpolicybinding", "validatingadmissionpolicy"):
            policies.kube.kubectl("delete", kind, name)
        wait_until(lambda: not is_refused(policies, "probe"), seconds=DEADLINE, what="the end of an admission policy")


def test_a_part_that_an_admission_policy_refuses_leaves_nothing_of_the_run_behind(policies: Policies) -> None:
    wanted = policies.fill()
    policies.create(**AT_NIGHT)
    process = policies.start()
    process.set_cluster.moment = night(3, minutes=1)
    with refusing(policies, operation="CREATE", expression="object.metadata.name.endsWith('-3')"):
        process.look("nightly")
        status = policies.status()
        assert ready(status) == ("False", "CreationRefused")
        assert "not tonight" in condition(status, "Ready")["message"]
        assert not {"draft", "lastRun"} & set(status)
        assert policies.children() == []
    process.look("nightly")
    assert_whole(policies, wanted)


def test_a_release_that_is_refused_leaves_the_other_parts_released_and_is_taken_up_again(policies: Policies) -> None:
    wanted = policies.fill()
    policies.create(**AT_NIGHT)
    process = policies.start()
    process.set_cluster.moment = night(3, minutes=1)
    refused = "object.metadata.name.endsWith('-2') && !object.spec.suspend"
    with refusing(policies, operation="UPDATE", expression=refused):
        for _ in range(2):
            process.look("nightly")
            status = policies.status()
            assert ready(status) == ("False", "CreationRefused")
            assert "not tonight" in condition(status, "Ready")["message"]
            assert status["lastRun"]["phase"] == "Releasing"
            assert [child["spec"]["suspend"] for child in policies.children()] == [False, True, False]
    process.look("nightly")
    assert policies.run()["phase"] == "Active"
    assert_whole(policies, wanted)


@pytest.mark.parametrize("number", [1, 2])
def test_a_taskdeletion_of_somebody_else_under_the_name_of_a_part_stops_the_run_and_is_not_touched(
    policies: Policies, number: int
) -> None:
    wanted = policies.fill(700)
    policies.create(**AT_NIGHT)
    policy = policies.kube.read(policies.namespace, "nightly", PLURAL)
    assert policy is not None
    name = f"nightly-{int(night(3).timestamp()) // 60}-{policy['metadata']['uid'][:5]}-{number}"
    policies.kube.create_deletion(policies.namespace, name, taskIds=["task_1"], suspend=True)
    foreign = policies.kube.read(policies.namespace, name)
    process = policies.start()
    with process.at(night(3, minutes=1)):
        for _ in range(2):
            process.look("nightly")
            status = policies.status()
            assert ready(status) == ("False", "CreationRefused")
            assert name in condition(status, "Ready")["message"]
            assert not {"lastRun", "lastScheduleTime", "lastSuccessfulTime", "draft"} & set(status)
            assert policies.children() == []
    assert policies.kube.read(policies.namespace, name) == foreign
    policies.kube.delete(policies.namespace, name)
    with process.at(night(3, minutes=2)):
        process.look("nightly")
    assert_whole(policies, wanted)


# --- TaskDeletions with a time to live ------------------------------------------------------------------------------
def test_ended_taskdeletions_stay_until_the_run_was_followed_to_its_end_and_go_when_their_time_is_over(
    policies: Policies,
) -> None:
    policies.fill(700)
    policies.create(schedule="0 0 1 1 *", overdue=timedelta(days=400), template={"ttlSecondsAfterFinished": 300})
    process = policies.start()
    process.look("nightly")
    first, second = policies.children()
    assert [child["spec"].get("ttlSecondsAfterFinished") for child in (first, second)] == [None, None]
    end_run(policies, first["metadata"]["name"], verdict="Complete", requested=500, deleted=500)
    late = datetime.now(UTC) + timedelta(seconds=1000)
    with process.at(late):
        process.look("nightly")
        assert len(policies.children()) == 2
        end_run(policies, second["metadata"]["name"], verdict="Complete", requested=200, deleted=200)
        assert process.look("nightly") == 2.0
    run = policies.run()
    assert (run["phase"], run["failures"], run["deleted"]) == ("Succeeded", 0, 700)
    assert "atLeast" not in run
    assert len(policies.children()) == 2

    ended = min(datetime.fromisoformat(child["status"]["completionTime"]) for child in policies.children())
    with process.at(ended + timedelta(seconds=100)):
        assert process.look("nightly") == pytest.approx(200, abs=1)
        assert len(policies.children()) == 2
    with process.at(late):
        process.look("nightly")
    assert policies.children() == []
    assert policies.run() == run
    assert ready(policies.status()) == ("True", "Scheduled")


# --- drafts that nobody finishes ------------------------------------------------------------------------------------
def test_a_draft_that_cannot_be_removed_is_looked_at_less_and_less_often(policies: Policies) -> None:
    wanted = policies.fill(600)
    policies.create(**AT_NIGHT)
    die_while_creating(policies, part=2, at=night(3, minutes=1))
    (draft,) = policies.children()
    held = {"metadata": {"finalizers": ["example.com/hold"]}}
    policies.kube.patch(policies.namespace, draft["metadata"]["name"], held)
    process = policies.start()
    process.policies.jitter = lambda: 0.5
    with process.at(night(3, minutes=2)):
        delays = [process.look("nightly") for _ in range(7)]
        assert delays == [0.0, 0.0, 0.0, 1.0, 2.0, 4.0, 8.0]
        policies.kube.patch(policies.namespace, draft["metadata"]["name"], {"metadata": {"finalizers": None}})
        process.look("nightly")
    assert_whole(policies, wanted)


def test_an_abandoned_draft_is_taken_over_though_the_servers_clock_was_put_back(
    policies: Policies, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = policies.fill(600)
    policies.create(**AT_NIGHT)
    die_while_creating(policies, part=2, at=night(4, minutes=1))
    process, now = policies.start(), 1000.0
    drafting = Drafting(process.set_cluster, process.children, process.stopping, clock=lambda: now)
    monkeypatch.setattr(process.policies, "_drafting", drafting)
    patience = ABANDONED_AFTER.total_seconds()
    with process.at(night(3, minutes=1)):
        assert process.look("nightly") == patience
        now += patience - 1
        assert process.look("nightly") == 1.0
        assert [child["spec"]["suspend"] for child in policies.children()] == [True]
        now += 1
        process.look("nightly")
    assert_whole(policies, wanted)
    assert datetime.fromisoformat(policies.run()["scheduledTime"]) == night(3)


# --- labels that somebody took away ---------------------------------------------------------------------------------
@pytest.mark.parametrize("label", ["run", "policy"])
def test_a_taskdeletion_that_lost_a_label_is_followed_to_its_end(policies: Policies, label: str) -> None:
    policies.fill(700)
    policies.create(**AT_NIGHT)
    process = policies.start()
    with process.at(night(3, minutes=1)):
        process.look("nightly")
        first, second = (child["metadata"]["name"] for child in policies.children())
        stripped = {"metadata": {"labels": {f"datapipeline.dev/{label}": None}}}
        policies.kube.patch(policies.namespace, first, stripped)
        process.look("nightly")
        run = policies.run()
        assert (run["phase"], run["active"], run["failures"]) == ("Active", [first, second], 0)
        assert policies.status()["active"] == 2
    policies.pipeline.add_rows("later")
    with process.at(night(4, minutes=1)):
        process.look("nightly")
        assert ready(policies.status()) == ("True", "PreviousRunActive")
    with process.at(night(3, minutes=2)):
        end_run(policies, second, verdict="Complete", requested=200, deleted=200)
        process.look("nightly")
        assert policies.run()["active"] == [first]
        end_run(policies, first, verdict="Complete", requested=500, deleted=500)
        process.look("nightly")
    run = policies.run()
    assert (run["phase"], run["failures"], run["deleted"]) == ("Succeeded", 0, 700)
