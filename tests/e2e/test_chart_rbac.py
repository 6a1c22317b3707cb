"""The operator with exactly the rights that the chart gives it, and nothing more, does the whole main job."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.helm import rendered_rbac
from dev.pipeline import Pipeline, wait_until
from dev.stack import Stack
from tests.support.kube import Kube, operator_environment
from tests.support.process import running_operator

RELEASE_NAMESPACE = "operator-system"
ACCOUNT = "task-deletion-operator"


def install_rbac(kube: Kube, watch_namespaces: list[str]) -> None:
    """Apply what the chart renders of RBAC; removed again by the caller's fixture."""
    kube.kubectl("create", "namespace", RELEASE_NAMESPACE, check=False)
    kube.kubectl("apply", "-f", "-", stdin=rendered_rbac(RELEASE_NAMESPACE, watch_namespaces))


@pytest.fixture(params=["cluster-wide", "namespaced"])
def namespaces(request: pytest.FixtureRequest, kube: Kube, pipeline: Pipeline) -> Iterator[list[str]]:
    """The namespaces the operator serves; empty: all."""
    served = [] if request.param == "cluster-wide" else [pipeline.namespace]
    install_rbac(kube, served)
    yield served
    kube.kubectl("delete", "-f", "-", stdin=rendered_rbac(RELEASE_NAMESPACE, served))


@pytest.fixture
def service_account_kubeconfig(kube: Kube, stack: Stack, namespaces: list[str], tmp_path: Path) -> Path:
    """A kubeconfig with a token of the chart's ServiceAccount."""
    token = kube.kubectl("create", "token", ACCOUNT, "-n", RELEASE_NAMESPACE).strip()
    return stack.kubernetes.write_kubeconfig(tmp_path / "kubeconfig", token=token, namespace=RELEASE_NAMESPACE)


def test_the_main_job_needs_nothing_beyond_the_charts_rights(
    kube: Kube,
    stack: Stack,
    pipeline: Pipeline,
    namespaces: list[str],
    service_account_kubeconfig: Path,
    tmp_path: Path,
) -> None:
    for number in range(3):
        pipeline.add_task(f"task_{number}")
    settings = {"TASKDELETION_NAMESPACES": ",".join(namespaces)} if namespaces else {}
    settings |= {"TASKDELETION_LEADER_ELECTION": "true", "TASKDELETION_LEASE_NAMESPACE": RELEASE_NAMESPACE}
    environment = operator_environment(stack, service_account_kubeconfig, **settings)
    with running_operator(environment, tmp_path / "operator.log"):
        kube.create_deletion(pipeline.namespace, "rows", taskIds=["task_0"], deleteDatabaseRecords=True)
        kube.create_deletion(pipeline.namespace, "files", taskIds=["task_1", "nobody"])
        kube.create_deletion(pipeline.namespace, "ttl", taskIds=["task_2"], ttlSecondsAfterFinished=1)
        assert kube.wait_for_end(pipeline.namespace, "rows")["phase"] == "Succeeded"
        assert kube.wait_for_end(pipeline.namespace, "files")["phase"] == "PartiallyFailed"
        wait_until(lambda: kube.read(pipeline.namespace, "ttl") is None, what="the time to live")
        wait_until(lambda: kube.events(pipeline.namespace, "rows"), what="Events")
        kube.wait_for(
            pipeline.namespace,
            "default",
            lambda status: {found["type"]: found["status"] for found in status["conditions"]}["Ready"] == "True",
            plural="taskstores",
        )
    assert all(pipeline.look(f"task_{number}").is_gone for number in range(3))


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("list", "secrets"),
        ("delete", "pods"),
        ("update", "taskdeletions.datapipeline.dev"),
        ("deletecollection", "taskdeletions.datapipeline.dev"),
        ("create", "taskretentionpolicies.datapipeline.dev"),
        ("patch", "taskretentionpolicies.datapipeline.dev"),
        ("delete", "taskretentionpolicies.datapipeline.dev"),
        ("delete", "taskstores.datapipeline.dev"),
        ("get", "customresourcedefinitions.apiextensions.k8s.io"),
    ],
)
def test_the_charts_account_may_do_nothing_that_it_need_not(
    kube: Kube, pipeline: Pipeline, namespaces: list[str], verb: str, resource: str
) -> None:
    account = f"system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}"
    answer = kube.kubectl("auth", "can-i", verb, resource, "--as", account, "-n", pipeline.namespace, check=False)
    assert answer.splitlines()[0] == "no"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("watch", "taskretentionpolicies.datapipeline.dev"),
        ("create", "taskdeletions.datapipeline.dev"),
        ("patch", "taskdeletions.datapipeline.dev"),
        ("delete", "taskdeletions.datapipeline.dev"),
    ],
)
def test_the_charts_account_may_do_what_a_policy_needs(
    kube: Kube, pipeline: Pipeline, namespaces: list[str], verb: str, resource: str
) -> None:
    account = f"system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}"
    answer = kube.kubectl("auth", "can-i", verb, resource, "--as", account, "-n", pipeline.namespace, check=False)
    assert answer.splitlines()[0] == "yes"


def test_the_charts_account_may_report_on_policies(kube: Kube, pipeline: Pipeline, namespaces: list[str]) -> None:
    account = f"system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}"
    resource = ("taskretentionpolicies.datapipeline.dev", "--subresource=status")
    answer = kube.kubectl("auth", "can-i", "patch", *resource, "--as", account, "-n", pipeline.namespace, check=False)
    assert answer.splitlines()[0] == "yes"


def test_rights_in_one_namespace_reach_no_other(kube: Kube, pipeline: Pipeline) -> None:
    install_rbac(kube, [pipeline.namespace])
    account = f"system:serviceaccount:{RELEASE_NAMESPACE}:{ACCOUNT}"
    answers = {
        namespace: kube.kubectl(
            "auth", "can-i", "get", "secrets", "--as", account, "-n", namespace, check=False
        ).strip()
        for namespace in (pipeline.namespace, "default")
    }
    kube.kubectl("delete", "-f", "-", stdin=rendered_rbac(RELEASE_NAMESPACE, [pipeline.namespace]))
    assert answers == {pipeline.namespace: "yes", "default": "no"}
