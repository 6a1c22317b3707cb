"""The operator looks again (ADR 0016): taking the admission policy away, or weakening it, opens nothing.

Chart, API server, users and the operator's account are real; the operator's work is done step by step.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.domain.admission import STAMP
from taskdeletion.kube.client import MERGE_PATCH
from taskdeletion.kube.objects import Cluster
from tests.support.kube import Kube, condition
from tests.support.policies import PLURAL, PolicyProcess, children_of, make_due, policy_status
from tests.support.roles import Release, User, policy, request, wait_for_next_second
from tests.support.seams import crash, interpose, says_deleting

RECORDS = "deleteDatabaseRecords"
_NUMBERS = count(1)


@pytest.fixture
def release(kube: Kube, pipeline: Pipeline) -> Iterator[Release]:
    """A release that serves the namespace of the pipeline."""
    found = Release(kube, f"enforced-{os.getpid()}-{next(_NUMBERS)}", (pipeline.namespace,))
    found.install()
    yield found
    found.uninstall()


@pytest.fixture
def operator(release: Release, pipeline: Pipeline) -> Iterator[PolicyProcess]:
    """The operator's work, as its account."""
    found = release.start_operator(pipeline.namespace)
    yield found
    found.close()


@pytest.fixture
def carol(release: Release, pipeline: Pipeline) -> User:
    """May do everything but edit TaskStores."""
    roles = ("requester", "policy-author", "force", "delete-records")
    return release.user("carol", *roles, namespace=pipeline.namespace)


@pytest.fixture
def bob(release: Release, pipeline: Pipeline) -> User:
    """May request and write policies, and nothing that needs a verb of its own."""
    return release.user("bob", "requester", "policy-author", namespace=pipeline.namespace)


def create(user: User, manifest: dict[str, Any]) -> None:
    answer = user.create(manifest)
    assert answer.returncode == 0, answer.stderr


def ready_of(status: dict[str, Any]) -> tuple[str, str]:
    found = condition(status, "Ready")
    return found["reason"], found["message"]


@pytest.mark.parametrize("option", ["force", RECORDS])
def test_without_the_policy_what_it_guards_waits_and_comes_to_nothing(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, bob: User, option: str
) -> None:
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    release.remove_admission()
    options: dict[str, Any] = {option: True}
    create(bob, request(pipeline.namespace, **options))
    assert operator.reconcile("x") is not None
    reason, message = ready_of(operator.status("x"))
    assert reason == reasons.DEPENDENCY_UNAVAILABLE
    assert message.startswith(
        f"{reasons.ADMISSION_NOT_ENFORCED}: {option}: the ValidatingAdmissionPolicy {release.name}"
    )
    wait_for_next_second()
    release.install_admission()
    status = operator.finish("x")
    assert (status["phase"], *ready_of(status)[:1]) == ("Failed", reasons.NOT_ADMITTED)
    assert "create it again" in ready_of(status)[1]
    assert pipeline.look("task_1") == before


def test_without_the_policy_other_requests_go_on(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, bob: User
) -> None:
    pipeline.add_task("task_1")
    release.remove_admission()
    create(bob, request(pipeline.namespace))
    status = operator.finish("x")
    assert (status["phase"], status["requestedBy"]) == ("Succeeded", "unknown")


@pytest.mark.parametrize(
    ("plural", "change"),
    [
        pytest.param("policybindings", {"validationActions": ["Audit"]}, id="only audited"),
        pytest.param(
            "policybindings",
            {
                "matchResources": {
                    "excludeResourceRules": [
                        {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
                    ]
                }
            },
            id="binding narrowed",
        ),
        pytest.param("policies", {"failurePolicy": "Ignore"}, id="failures ignored"),
        pytest.param("policies", {"matchConditions": [{"name": "never", "expression": "false"}]}, id="never asked"),
        pytest.param("policies", {"validations": [{"expression": "true"}]}, id="everything is right"),
        pytest.param(
            "policies", {"matchConstraints": {"namespaceSelector": {"matchLabels": {"a": "b"}}}}, id="elsewhere"
        ),
    ],
)
def test_a_policy_that_was_weakened_is_none(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, carol: User, plural: str, change: dict[str, Any]
) -> None:
    pipeline.add_task("task_1", status="in_progress")
    create(carol, request(pipeline.namespace, force=True))
    path = f"/apis/admissionregistration.k8s.io/v1/validatingadmission{plural}/{release.name}"
    release.kube.api.request("PATCH", path, body={"spec": change}, content_type=MERGE_PATCH)
    operator.reconcile("x")
    assert "is not as the chart made it" in ready_of(operator.status("x"))[1]
    assert not pipeline.look("task_1").is_gone


def test_with_the_policy_in_force_who_may_force_forces(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, carol: User
) -> None:
    pipeline.add_task("task_1", status="in_progress")
    create(carol, request(pipeline.namespace, force=True, deleteDatabaseRecords=True))
    status = operator.finish("x")
    assert (status["phase"], status["requestedBy"]) == ("Succeeded", "carol")
    assert pipeline.look("task_1").is_gone


def test_what_has_begun_is_finished_without_the_policy(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, carol: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.add_task("task_1", status="in_progress")
    create(carol, request(pipeline.namespace, force=True))
    interpose(monkeypatch, Cluster, "write_status", after=crash, when=says_deleting)
    operator.crash("x")
    release.remove_admission()
    assert operator.finish("x")["phase"] == "Succeeded"
    assert pipeline.look("task_1").is_gone


def test_an_operator_that_may_not_look_does_not_force(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, carol: User
) -> None:
    pipeline.add_task("task_1", status="in_progress")
    create(carol, request(pipeline.namespace, force=True))
    release.kube.kubectl("delete", "clusterrolebinding", f"{release.name}-admission")
    operator_may = User(release.kube, release.account)
    wait_until(
        lambda: (
            "yes"
            not in operator_may.kubectl("auth", "can-i", "get", f"validatingadmissionpolicies/{release.name}").stdout
        ),
        what="the right to look being gone",
    )
    operator.reconcile("x")
    assert "the operator cannot see whether the admission policy is in force" in ready_of(operator.status("x"))[1]
    assert not pipeline.look("task_1").is_gone


def test_a_name_from_before_the_policy_is_not_believed(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, bob: User
) -> None:
    pipeline.add_task("task_1")
    release.remove_admission()
    create(bob, request(pipeline.namespace, by="alice"))
    wait_for_next_second()
    release.install_admission()
    assert operator.finish("x")["requestedBy"] == "unknown"


# --- policies ---------------------------------------------------------------------------------------------------------


def test_the_requests_of_a_policy_force_for_its_author(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, carol: User, kube: Kube
) -> None:
    pipeline.add_task("task_1")
    template = {"force": True, "deleteDatabaseRecords": True}
    create(carol, policy(pipeline.namespace, schedule="* * * * *", rules=[{"taskIdPattern": "*"}], template=template))
    make_due(kube, pipeline.namespace, "x", ago=timedelta(minutes=5))
    assert operator.finish_run("x")["lastRun"]["phase"] == "Succeeded"
    (child,) = children_of(kube, pipeline.namespace, "x")
    assert child["metadata"]["annotations"][STAMP] == child["status"]["requestedBy"] == "carol"
    assert pipeline.look("task_1").is_gone


def test_without_the_admission_policy_a_retention_policy_that_forces_creates_nothing(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, bob: User, kube: Kube
) -> None:
    pipeline.add_task("task_1")
    release.remove_admission()
    forcing = policy(pipeline.namespace, schedule="* * * * *", rules=[{"taskIdPattern": "*"}], template={"force": True})
    create(bob, forcing)
    make_due(kube, pipeline.namespace, "x", ago=timedelta(minutes=5))
    operator.look("x")
    reason, message = ready_of(policy_status(kube, pipeline.namespace, "x"))
    assert (reason, message.partition(":")[0]) == (reasons.DEPENDENCY_UNAVAILABLE, reasons.ADMISSION_NOT_ENFORCED)
    wait_for_next_second()
    release.install_admission()
    operator.look("x")
    assert ready_of(policy_status(kube, pipeline.namespace, "x"))[0] == reasons.NOT_ADMITTED
    assert not children_of(kube, pipeline.namespace, "x")
    assert kube.read(pipeline.namespace, "x", PLURAL) is not None


def test_a_policy_whose_author_is_unknown_creates_requests_of_unknown_author(
    pipeline: Pipeline, release: Release, operator: PolicyProcess, bob: User, kube: Kube
) -> None:
    pipeline.add_task("task_1")
    release.remove_admission()
    create(bob, policy(pipeline.namespace, by="alice", schedule="* * * * *", rules=[{"taskIdPattern": "*"}]))
    wait_for_next_second()
    release.install_admission()
    make_due(kube, pipeline.namespace, "x", ago=timedelta(minutes=5))
    operator.finish_run("x")
    (child,) = children_of(kube, pipeline.namespace, "x")
    assert STAMP not in child["metadata"]["annotations"]
    assert child["status"]["requestedBy"] == "unknown"
