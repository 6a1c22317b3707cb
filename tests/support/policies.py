"""One operator process for policies, without kopf and queue: its workflow, called by hand and in order.

Beside it, the `Harness` that works on the TaskDeletions which it creates. A new one beside an old one is a restarted
process, or a second replica.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dev.pipeline import wait_until
from taskdeletion.api.common import format_time
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.domain.runs import POLICY_LABEL
from taskdeletion.kube.children import Children
from taskdeletion.kube.objects import Cluster, Key, LiveObject
from taskdeletion.workflow.retention import RetentionWorkflow
from tests.support.harness import NO_DELAY, Harness
from tests.support.kube import GROUP_PATH, Kube

PLURAL = "taskretentionpolicies"
EVERY_MINUTE = "* * * * *"


class SetCluster(Cluster):
    """The cluster with a clock that can be set: `moment` is what the API server's says, None for its own."""

    moment: datetime | None = None

    def read(self, key: Key) -> LiveObject | None:
        live = super().read(key)
        return live and self._set(live)

    def write_status(self, live: LiveObject, status: Mapping[str, Any]) -> LiveObject:
        return self._set(super().write_status(live, status))

    def _set(self, live: LiveObject) -> LiveObject:
        return live if self.moment is None else replace(live, server_time=self.moment)


class PolicyProcess(Harness):
    """The workflow of one process, for one namespace."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        super().__init__(kube, namespace)
        self.kube = kube
        self.children = Children(kube.api)
        self.set_cluster = SetCluster(kube.api, (namespace,))
        self.policies = RetentionWorkflow(
            self.set_cluster, self.children, self.stores, self.ownership, self.stopping, jitter=lambda: NO_DELAY
        )

    def look(self, name: str) -> float | None:
        """One look at one policy, as a worker takes it."""
        return self.policies.reconcile(Key(TaskRetentionPolicy.KIND, self.namespace, name))

    @contextmanager
    def at(self, moment: datetime) -> Iterator[None]:
        """The API server's clock, as this process reads it, stands at `moment`."""
        before, self.set_cluster.moment = self.set_cluster.moment, moment
        try:
            yield
        finally:
            self.set_cluster.moment = before

    def finish_run(self, name: str, *, seconds: float = 60.0) -> dict[str, Any]:
        """Work on the policy and its TaskDeletions until its last run has ended; the status."""

        def has_ended() -> bool:
            self.look(name)
            for child in children_of(self.kube, self.namespace, name):
                self.reconcile(child["metadata"]["name"])
            return "completionTime" in policy_status(self.kube, self.namespace, name).get("lastRun", {})

        wait_until(has_ended, seconds=seconds, what=f"the end of a run of {name}")
        return policy_status(self.kube, self.namespace, name)


def create_policy(kube: Kube, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    """A TaskRetentionPolicy that is due every minute unless told otherwise."""
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": "TaskRetentionPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"schedule": EVERY_MINUTE, **spec},
    }
    return kube.create(f"{GROUP_PATH}/namespaces/{namespace}/{PLURAL}", body)


def make_due(kube: Kube, namespace: str, name: str, *, ago: timedelta) -> None:
    """Let the schedule have been known for a while, so that a run was missed."""
    found = kube.read(namespace, name, PLURAL)
    assert found is not None
    spec = found["spec"]
    observed = {
        "schedule": spec["schedule"],
        "timeZone": spec["timeZone"],
        "since": format_time(datetime.now(UTC) - ago),
    }
    path = f"{GROUP_PATH}/namespaces/{namespace}/{PLURAL}/{name}/status"
    kube.api.request(
        "PATCH", path, body={"status": {"observed": observed}}, content_type="application/merge-patch+json"
    )


def policy_status(kube: Kube, namespace: str, name: str) -> dict[str, Any]:
    """The status of a policy as it stands in the cluster."""
    found = kube.read(namespace, name, PLURAL)
    assert found is not None
    return dict(found.get("status", {}))


def children_of(kube: Kube, namespace: str, name: str) -> list[dict[str, Any]]:
    """The TaskDeletions of a policy, by name."""
    query: dict[str, str | int] = {"labelSelector": f"{POLICY_LABEL}={name}"}
    items = kube.api.request("GET", f"{GROUP_PATH}/namespaces/{namespace}/taskdeletions", query=query).body["items"]
    return sorted(items, key=lambda item: str(item["metadata"]["name"]))
