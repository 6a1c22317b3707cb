"""A namespace is the border: what somebody who may do everything in one of them cannot reach in another.

Two pipelines in two namespaces that one release serves. The tenant has every role of the chart in one of them. What is
tried is done by the operator's own workflow, as its account, which may work in both.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack
from taskdeletion.api import reasons
from tests.conftest import new_pipeline
from tests.support.kube import Kube, condition
from tests.support.policies import PolicyProcess, children_of, make_due
from tests.support.roles import Manifest, Release, User, policy, request

ROLES = ("requester", "policy-author", "store-admin", "force", "delete-records")
TASK = "task_1"
_NUMBERS = count(1)


@dataclass
class Tenants:
    """The tenant, the pipeline of their namespace, and somebody else's, which has one task."""

    tenant: User
    mine: Pipeline
    theirs: Pipeline
    operator: PolicyProcess
    before: Residue

    def create(self, manifest: Manifest) -> None:
        answer = self.tenant.create(manifest)
        assert answer.returncode == 0, answer.stderr

    def wait_for(self, store: str) -> str:
        """What a forced request through a store of the tenant's waits for."""
        self.create(request(self.mine.namespace, taskIds=[TASK], force=True, storeRef={"name": store}))
        assert self.operator.reconcile("x") is not None
        found = condition(self.operator.status("x"), "Ready")
        assert found["reason"] == reasons.DEPENDENCY_UNAVAILABLE
        return str(found["message"])

    def assert_nothing_happened(self) -> None:
        assert self.theirs.look(TASK) == self.before


@pytest.fixture
def tenants(stack: Stack, kube: Kube, pipeline: Pipeline) -> Iterator[Tenants]:
    theirs = new_pipeline(stack, kube, Pipeline)
    theirs.add_task(TASK)
    release = Release(kube, f"tenants-{os.getpid()}-{next(_NUMBERS)}", (pipeline.namespace, theirs.namespace))
    release.install()
    tenant = release.user("mallory", *ROLES, namespace=pipeline.namespace)
    operator = release.start_operator(pipeline.namespace)
    yield Tenants(tenant, pipeline, theirs, operator, theirs.look(TASK))
    operator.close()
    release.uninstall()


def store(namespace: str, name: str = "evil", **spec: Any) -> Manifest:
    """The manifest of a TaskStore."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "datapipeline.dev/v1beta1", "kind": "TaskStore", "metadata": metadata, "spec": spec}


def claim(name: str, sub_path: str) -> Manifest:
    """`spec.directory` of a TaskStore."""
    return {"persistentVolumeClaim": {"claimName": name}, "subPath": sub_path}


def test_rights_in_one_namespace_are_none_in_another(tenants: Tenants) -> None:
    there, tenant = tenants.theirs.namespace, tenants.tenant
    answers = [
        tenant.kubectl("get", "secret", "pipeline-db", "-n", there),
        tenant.kubectl("get", "taskstores", "-n", there),
        tenant.kubectl("get", "taskdeletions", "-n", there),
        tenant.kubectl("get", "taskdeletions", "-A"),
        tenant.kubectl("delete", "taskstore", "default", "-n", there),
        tenant.patch("taskstore", there, {"metadata": {"labels": {"a": "b"}}}, name="default"),
        tenant.create(request(there)),
        tenant.create(policy(there)),
        tenant.create(store(there)),
    ]
    assert [answer.returncode for answer in answers] == [1] * len(answers)
    assert all(f'User "{tenant.name}" cannot' in answer.stderr for answer in answers)
    tenants.assert_nothing_happened()


@pytest.mark.parametrize("separator", ["/", ".", ":"])
def test_a_request_names_no_store_of_another_namespace(tenants: Tenants, separator: str) -> None:
    name = f"{tenants.theirs.namespace}{separator}default"
    refused = tenants.tenant.create(request(tenants.mine.namespace, storeRef={"name": name}))
    if separator == ".":  # a name may have dots, and is a name all the same
        assert refused.returncode == 0, refused.stderr
        tenants.operator.reconcile("x")
        assert reasons.STORE_NOT_FOUND in condition(tenants.operator.status("x"), "Ready")["message"]
    else:
        assert "a name of a Kubernetes object has lower-case letters" in refused.stderr
    tenants.assert_nothing_happened()


@pytest.mark.parametrize(
    "field",
    [
        pytest.param({"storeRef": {"name": "default", "namespace": "theirs"}}, id="storeRef"),
        pytest.param({"namespace": "theirs"}, id="spec"),
    ],
)
def test_no_field_names_a_namespace(tenants: Tenants, field: Manifest) -> None:
    asking = request(tenants.mine.namespace)
    asking["spec"] |= field
    strict = tenants.tenant.create(asking, "--validate=strict")
    assert "unknown field" in strict.stderr
    lax = tenants.tenant.create(asking, "--validate=false")
    assert lax.returncode == 0, lax.stderr
    assert "theirs" not in str(tenants.operator.live("x").spec)


def test_a_store_reads_no_secret_of_another_namespace(tenants: Tenants, kube: Kube) -> None:
    there = tenants.theirs.namespace
    url = tenants.theirs.stack.redis.url
    kube.kubectl("create", "secret", "generic", "their-redis", "-n", there, f"--from-literal=url={url}")
    keys = tenants.theirs.key_of("{taskId}")
    tenants.create(
        store(tenants.mine.namespace, redis={"secretRef": {"name": "their-redis"}, "keyPatterns": [keys, f"{keys}:*"]})
    )
    assert tenants.wait_for("evil").startswith(f"{reasons.SECRET_NOT_FOUND}: Secret their-redis does not exist in")
    tenants.assert_nothing_happened()


def test_a_store_finds_no_claim_of_another_namespace(tenants: Tenants) -> None:
    theirs = tenants.theirs
    private = theirs.stack.volumes_root / theirs.namespace / "private" / "tasks" / TASK
    private.mkdir(parents=True)
    (private / "file").write_text("theirs")
    tenants.create(store(tenants.mine.namespace, directory=claim("private", "tasks")))
    tenants.wait_for("evil")
    assert (private / "file").read_text() == "theirs"


@pytest.mark.parametrize(
    ("name", "sub_path"),
    [
        pytest.param("../{namespace}/{claim}", "{sub_path}", id="the claim's name"),
        pytest.param("{claim}", "../../{namespace}/{claim}/{sub_path}", id="the path"),
        pytest.param("{claim}", "/{namespace}/{claim}/{sub_path}", id="an absolute path"),
    ],
)
def test_no_path_leads_to_another_namespace(tenants: Tenants, name: str, sub_path: str) -> None:
    theirs = tenants.theirs
    words = {"namespace": theirs.namespace, "claim": theirs.CLAIM, "sub_path": theirs.SUB_PATH}
    directory = claim(name.format(**words), sub_path.format(**words))
    refused = tenants.tenant.create(store(tenants.mine.namespace, directory=directory))
    assert refused.returncode != 0
    assert "spec.directory" in refused.stderr
    tenants.assert_nothing_happened()


def test_no_link_leads_to_another_namespace(tenants: Tenants) -> None:
    mine, theirs = tenants.mine, tenants.theirs
    (mine.stack.volumes_root / mine.namespace / mine.CLAIM / "link").symlink_to(theirs.root)
    tenants.create(store(mine.namespace, directory=claim(mine.CLAIM, "link")))
    assert tenants.wait_for("evil").startswith(reasons.STORE_ROOT_UNSAFE)
    tenants.assert_nothing_happened()


def test_a_request_deletes_a_task_of_its_own_namespace_only(tenants: Tenants) -> None:
    """Also one that its own catalog does not know, of which it cleans whatever is left."""
    cleaning: dict[str, Any] = {"force": True, "deleteDatabaseRecords": True, "notFoundPolicy": "Ignore"}
    tenants.create(request(tenants.mine.namespace, taskIds=[TASK], **cleaning))
    assert tenants.operator.finish("x")["tasks"][0]["state"] in ("NotFound", "Deleted")
    tenants.assert_nothing_happened()


def test_a_policy_deletes_tasks_of_its_own_namespace_only(tenants: Tenants, kube: Kube) -> None:
    tenants.mine.add_task(TASK)
    everything = [{"taskIdPattern": "*"}]
    tenants.create(policy(tenants.mine.namespace, schedule="* * * * *", rules=everything, template={"force": True}))
    make_due(kube, tenants.mine.namespace, "x", ago=timedelta(minutes=5))
    tenants.operator.finish_run("x")
    assert len(children_of(kube, tenants.mine.namespace, "x")) == 1
    assert tenants.mine.look(TASK).is_gone
    tenants.assert_nothing_happened()
