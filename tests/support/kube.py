"""Kubernetes objects for tests, through the operator's own typed API access and kubectl where people would use it."""

import base64
import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.kube.client import JSON, MERGE_PATCH, Api, KubeRejected

ROOT = Path(__file__).parents[2]
GROUP_PATH = "/apis/datapipeline.dev/v1beta1"


class Kube:
    """The admin's hands on the test cluster."""

    def __init__(self, stack: Stack, *, token: str = "") -> None:
        """`token`: to log in with where that is not the admin's."""
        self.stack = stack
        configuration = Configuration()
        configuration.host = stack.kubernetes.url
        configuration.ssl_ca_cert = str(stack.kubernetes.ca_file)
        configuration.api_key = {"BearerToken": f"Bearer {token or stack.kubernetes.admin_token}"}
        configuration.connection_pool_maxsize = 16
        self.api = Api(ApiClient(configuration))

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl as the admin; returns stdout and stderr together."""
        command = [str(self.stack.kubernetes.kubectl), "--kubeconfig", str(self.stack.kubernetes.kubeconfig)]
        done = subprocess.run([*command, *arguments], input=stdin, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout + done.stderr

    def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """`kubectl apply` of some objects."""
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def install_crds(self) -> None:
        """Install the generated CRDs and wait until they are served."""
        self.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")

    def create_namespace(self, name: str) -> None:
        """A fresh namespace."""
        self.api.request("POST", "/api/v1/namespaces", body={"metadata": {"name": name}})

    def create(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """POST to a collection."""
        return self.api.request("POST", path, body=body).body

    def create_deletion(self, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
        """A TaskDeletion, confirmed unless told otherwise."""
        body = {
            "apiVersion": "datapipeline.dev/v1beta1",
            "kind": "TaskDeletion",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"confirm": True, **spec},
        }
        return self.create(f"{GROUP_PATH}/namespaces/{namespace}/taskdeletions", body)

    def read(self, namespace: str, name: str, plural: str = "taskdeletions") -> dict[str, Any] | None:
        """An object of ours, or None."""
        try:
            return self.api.request("GET", f"{GROUP_PATH}/namespaces/{namespace}/{plural}/{name}").body
        except KubeRejected as error:
            if error.status == 404:
                return None
            raise

    def patch(
        self, namespace: str, name: str, body: Mapping[str, Any], plural: str = "taskdeletions"
    ) -> dict[str, Any]:
        """Merge-patch an object of ours."""
        path = f"{GROUP_PATH}/namespaces/{namespace}/{plural}/{name}"
        return self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH).body

    def patch_secret(self, namespace: str, name: str, data: Mapping[str, str]) -> None:
        """Change keys of a Secret."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self.api.request("PATCH", path, body={"data": encoded}, content_type=MERGE_PATCH)

    def delete(self, namespace: str, name: str, plural: str = "taskdeletions") -> None:
        """Delete an object of ours."""
        self.api.request("DELETE", f"{GROUP_PATH}/namespaces/{namespace}/{plural}/{name}")

    def wait_for_end(self, namespace: str, name: str, seconds: float = 60.0) -> dict[str, Any]:
        """The status of a TaskDeletion once it has ended."""
        return self.wait_for(namespace, name, lambda status: "completionTime" in status, seconds=seconds)

    def wait_for(
        self, namespace: str, name: str, check: Any, *, seconds: float = 60.0, plural: str = "taskdeletions"
    ) -> dict[str, Any]:
        """The status once `check(status)` holds; the last status is in the error otherwise."""
        last: dict[str, Any] = {}

        def look() -> bool:
            nonlocal last
            last = (self.read(namespace, name, plural) or {}).get("status", {})
            return bool(check(last))

        try:
            wait_until(look, seconds=seconds, what=f"status of {name}")
        except TimeoutError as error:
            raise AssertionError(f"{error}; status: {json.dumps(last, indent=1)}") from error
        return last

    def events(self, namespace: str, name: str) -> list[dict[str, Any]]:
        """Events about one object of the namespace."""
        items = self.api.request("GET", f"/api/v1/namespaces/{namespace}/events").body["items"]
        return [item for item in items if item["involvedObject"]["name"] == name]


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of a status; empty where it is absent."""
    return next((found for found in status.get("conditions", []) if found["type"] == kind), {})


def resource(task: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One resource of one task of a status."""
    return next(found for found in task["resources"] if found["resource"] == name)


def operator_environment(stack: Stack, kubeconfig: Path | None = None, **settings: str) -> dict[str, str]:
    """The environment of an operator process beside the dev stack."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TASKDELETION_")}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT / "operator"),
        "KUBECONFIG": str(kubeconfig or stack.kubernetes.kubeconfig),
        "TASKDELETION_VOLUMES_ROOT": str(stack.volumes_root),
        "TASKDELETION_REQUIRE_MOUNT": "false",
        "TASKDELETION_HEALTH_ADDRESS": "127.0.0.1:0",
        "TASKDELETION_METRICS_ADDRESS": "127.0.0.1:0",
        "TASKDELETION_LOG_FORMAT": "text",
        "TASKDELETION_PROBE_INTERVAL_SECONDS": "2",
        **settings,
    }


def launcher_environment(stack: Stack, **settings: str) -> dict[str, str]:
    """The same for a launcher of `tests.support`, which needs the root of the repository to be found."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "operator")))
    return operator_environment(stack, None, PYTHONPATH=path, **settings)


__all__ = ["JSON", "Kube", "condition", "launcher_environment", "operator_environment", "resource"]
