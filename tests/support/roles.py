"""A release of the chart as far as it says who may do what, on the API server of the stack, and users of it.

Roles, admission policies and the account of the operator are real; its process is a harness that logs in as that.
"""

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

import yaml

from dev.helm import RBAC_TEMPLATES, render_chart
from dev.pipeline import wait_until
from taskdeletion.domain.admission import STAMP
from taskdeletion.kube.admission import read_installed
from taskdeletion.settings import Settings
from taskdeletion.workflow.admission import Admission
from tests.support.kube import Kube
from tests.support.policies import PolicyProcess

NAME = "task-deletion-operator"
ADMISSION = "templates/admission.yaml"
ROLES = (*RBAC_TEMPLATES, "templates/user-roles.yaml")
STAMPING = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"

#: Of resources that are neither ours nor of the core group.
_GROUPS = {
    "validatingadmissionpolicies": "admissionregistration.k8s.io",
    "validatingadmissionpolicybindings": "admissionregistration.k8s.io",
}

#: What each role, and no smaller one, lets people do: by that one sees that a binding has arrived everywhere.
_MARKS = {
    "viewer": [("get", "taskdeletions")],
    "requester": [("create", "taskdeletions")],
    "policy-author": [("create", "taskretentionpolicies")],
    "store-admin": [("create", "taskstores")],
    "force": [("force", "taskdeletions")],
    "delete-records": [("delete-records", "taskdeletions")],
    "view": [("get", "taskdeletions")],
    "edit": [("create", "taskdeletions")],
    "admin": [("create", "taskdeletions"), ("create", "taskretentionpolicies")],
}

Answer = subprocess.CompletedProcess[str]
Manifest = dict[str, Any]


def request(namespace: str, name: str = "x", *, by: str = "", **spec: Any) -> Manifest:
    """The manifest of a TaskDeletion, `by`: that says who asked."""
    return _manifest("TaskDeletion", namespace, name, by, {"taskIds": ["task_1"], "confirm": True, **spec})


def policy(namespace: str, name: str = "x", *, by: str = "", **spec: Any) -> Manifest:
    """The manifest of a TaskRetentionPolicy, due once a year unless told otherwise."""
    return _manifest("TaskRetentionPolicy", namespace, name, by, {"schedule": "@yearly", **spec})


def _manifest(kind: str, namespace: str, name: str, by: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, "namespace": namespace, "annotations": {STAMP: by} if by else {}}
    return {"apiVersion": "datapipeline.dev/v1beta1", "kind": kind, "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class User:
    """Somebody, by kubectl."""

    kube: Kube
    name: str

    def kubectl(self, *arguments: str, stdin: Manifest | None = None) -> Answer:
        """Run it as this user."""
        kubernetes = self.kube.stack.kubernetes
        command = [str(kubernetes.kubectl), f"--kubeconfig={kubernetes.kubeconfig}", f"--as={self.name}", *arguments]
        text = None if stdin is None else json.dumps(stdin)
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)

    def create(self, manifest: Manifest, *options: str) -> Answer:
        """Create an object."""
        return self.kubectl("create", *options, "-f", "-", stdin=manifest)

    def patch(self, resource: str, namespace: str, change: Manifest, *, name: str = "x") -> Answer:
        """Merge-patch an object."""
        return self.kubectl("patch", resource, name, "-n", namespace, "--type=merge", "-p", json.dumps(change))

    def may(self, verb: str, resource: str, namespace: str = "", *, name: str = "") -> bool:
        """What `kubectl auth can-i` would answer; `resource` with its subresource. No namespace: cluster-wide."""
        group = "datapipeline.dev" if resource.startswith("task") else _GROUPS.get(resource, "")
        resource, _, subresource = resource.partition("/")
        attributes = {"verb": verb, "group": group, "resource": resource, "subresource": subresource, "name": name}
        spec = {"user": self.name, "resourceAttributes": {**attributes, "namespace": namespace}}
        answer = self.kube.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", {"spec": spec})
        return bool(answer["status"]["allowed"])


@dataclass(frozen=True)
class Release:
    """An installed release that serves some namespaces. `namespace`: its own."""

    kube: Kube
    namespace: str
    served: tuple[str, ...]
    stamps: str = "auto"

    @property
    def name(self) -> str:
        """Of its cluster-wide objects, and what those of its roles begin with."""
        return f"{self.namespace}-{NAME}"

    @property
    def account(self) -> str:
        """The operator, as the API server calls it."""
        return f"system:serviceaccount:{self.namespace}:{NAME}"

    @cached_property
    def values(self) -> Manifest:
        """What it was installed with."""
        return {"watchNamespaces": list(self.served), "admission": {"stampRequester": self.stamps}}

    def render(self, *templates: str) -> str:
        """Some of its manifests, as for a cluster that can stamp."""
        return render_chart(self.values, namespace=self.namespace, templates=templates, api_versions=[STAMPING])

    @cached_property
    def admission_manifests(self) -> str:
        """The policies and their bindings."""
        return self.render(ADMISSION)

    @cached_property
    def settings(self) -> Settings:
        """What the chart tells the operator."""
        (deployment,) = yaml.safe_load_all(self.render("templates/deployment.yaml"))
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return Settings.from_environment({variable["name"]: variable["value"] for variable in container["env"]})

    def install(self) -> None:
        """Everything but the operator's pods."""
        self.kube.create_namespace(self.namespace)
        self.kube.kubectl("apply", "-f", "-", stdin=self.render(*ROLES))
        self.install_admission()

    def uninstall(self) -> None:
        """Take all of it away."""
        self.kube.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=self.admission_manifests)
        self.kube.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=self.render(*ROLES))
        self.kube.kubectl("delete", "namespace", self.namespace, "--wait=false")

    def install_admission(self) -> None:
        """Put the admission policies in place, and wait until they are in force."""
        self.kube.kubectl("apply", "-f", "-", stdin=self.admission_manifests)
        wait_until(lambda: not self._may_force(), what="the admission policy")

    def remove_admission(self) -> None:
        """Take the admission policies away, and wait until they are in force no more."""
        self.kube.kubectl("delete", "-f", "-", stdin=self.admission_manifests)
        wait_until(self._may_force, what="the end of the admission policy")

    @cached_property
    def _probe(self) -> User:
        return self.user("probe", "requester", namespace=self.served[0])

    def _may_force(self) -> bool:
        """Whether somebody without the verb could force now; nothing is stored."""
        answer = self._probe.create(request(self.served[0], "probe", force=True), "--dry-run=server")
        assert answer.returncode == 0 or 'the verb "force"' in answer.stderr, answer.stderr
        return answer.returncode == 0

    def user(self, name: str, *roles: str, namespace: str) -> User:
        """Somebody with these roles of the release in a namespace; `view`, `edit` and `admin` are Kubernetes' own."""
        own = ("view", "edit", "admin")
        full = {role: role if role in own else f"{self.name}-{role}" for role in roles}
        self.kube.apply([_binding(f"{name}-{role}", namespace, full[role], name) for role in roles])
        user = User(self.kube, name)
        marks = [mark for role in roles for mark in _MARKS[role]]
        wait_until(lambda: all(user.may(*mark, namespace) for mark in marks), what=f"the rights of {name}")
        return user

    def start_operator(self, namespace: str) -> PolicyProcess:
        """The operator's work in a namespace, done as its account; what is as old as the policy itself counts."""
        token = self.kube.kubectl("create", "token", NAME, "-n", self.namespace).strip()
        mine = Kube(self.kube.stack, token=token)
        process = PolicyProcess(mine, namespace)
        name, read = self.settings.admission_policy, partial(read_installed, mine.api, self.settings.admission_policy)
        admission = Admission(name, self.settings.admission_digest, read, settling=timedelta(0))
        process.deletions.admission = process.policies.admission = admission
        return process


def _binding(name: str, namespace: str, role: str, user: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }


def wait_for_next_second() -> None:
    """Times of creation have whole seconds: what comes after this is younger than what came before."""
    before = datetime.now(UTC).replace(microsecond=0)
    wait_until(lambda: datetime.now(UTC).replace(microsecond=0) > before, what="the next second")
