"""The Helm chart: what it grants, what it runs, and that a real API server accepts it.

Helm renders with the values of each test; only the tests that ask for `stack` need the API server. The operator
itself does not run here.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.helm import CHART, RBAC_TEMPLATES, ChartError, find_helm, render_chart, rendered_rbac, run_helm
from dev.stack import Stack
from taskdeletion.api.crd import render_chart_templates
from taskdeletion.domain.admission import digest_of
from taskdeletion.settings import PREFIX, Settings

Manifest = dict[str, Any]

INSTALL = CHART.parents[1] / "docs" / "install.md"

RULES = {
    ("datapipeline.dev", "taskdeletions"): {
        *("get", "list", "watch", "create", "patch", "delete"),
        *("force", "delete-records"),
    },
    ("datapipeline.dev", "taskdeletions/status"): {"get", "patch"},
    ("datapipeline.dev", "taskretentionpolicies"): {"get", "list", "watch"},
    ("datapipeline.dev", "taskretentionpolicies/status"): {"get", "patch"},
    ("datapipeline.dev", "taskstores"): {"get", "list", "watch"},
    ("datapipeline.dev", "taskstores/status"): {"get", "patch"},
    ("", "secrets"): {"get"},
    ("", "events"): {"create", "patch"},
}
LEADER_RULES = [
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "resourceNames": ["task-deletion-operator"],
        "verbs": ["get", "patch"],
    },
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
]
LEADER = "task-deletion-operator-leader"
ADMISSION = "ops-task-deletion-operator-admission"
ADMISSION_RULES = [
    {
        "apiGroups": ["admissionregistration.k8s.io"],
        "resources": ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
        "resourceNames": ["ops-task-deletion-operator"],
        "verbs": ["get"],
    }
]
#: The roles for people, and to which of Kubernetes' own each is added.
USER_ROLES = {
    "viewer": "view",
    "requester": "edit",
    "policy-author": "admin",
    "store-admin": "",
    "force": "",
    "delete-records": "",
}
STAMPING = "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"
ALONE = {"replicas": 1, "leaderElection": {"enabled": False}}
TWO_NAMESPACES = {"watchNamespaces": ["team-a", "team-b"]}
TWO_CLAIMS = {"volumes": {"claims": ["training-data", "archive.2025"]}}
EVERYTHING = {
    "image": {"repository": "registry.example/task-deletion-operator", "digest": f"sha256:{'0' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "rbac": {"secretNames": ["pipeline-db"]},
    "volumes": {"root": "/data", "claims": ["training-data"]},
    "settings": {"logFormat": "text", "logLevel": "debug"},
    "runAsUser": 1000660000,
    "runAsGroup": 0,
    "supplementalGroups": [1000, 2000],
    "podAnnotations": {"example.dev/note": "yes"},
    "podLabels": {"team": "pipeline", "app.kubernetes.io/name": "not-ours-to-change"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "pipeline", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
    "replicas": 3,
    "leaderElection": {"leaseSeconds": 20},
    "priorityClassName": "system-cluster-critical",
}
MODES = {
    "defaults": {},
    "two namespaces": TWO_NAMESPACES,
    "claims": TWO_CLAIMS,
    "alone": ALONE,
    "everything": EVERYTHING,
}


def parse(text: str) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(text) if document]


def rendered(values: Manifest, namespace: str = "ops") -> list[Manifest]:
    return parse(render_chart(values, namespace=namespace))


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def of_work(manifests: list[Manifest], kind: str) -> list[Manifest]:
    """The roles or bindings for the work itself, without those of leader election, admission, and for people."""
    return [
        manifest
        for manifest in of_kind(manifests, kind)
        if manifest["metadata"]["name"] == "ops-task-deletion-operator"
    ]


def of_users(manifests: list[Manifest]) -> dict[str, Manifest]:
    """The roles for people, by what the name of each ends with."""
    prefix = "ops-task-deletion-operator-"
    roles = {role["metadata"]["name"].removeprefix(prefix): role for role in of_kind(manifests, "ClusterRole")}
    return {name: role for name, role in roles.items() if name in USER_ROLES}


def deployment_spec(values: Manifest) -> Manifest:
    (deployment,) = of_kind(rendered(values), "Deployment")
    spec: Manifest = deployment["spec"]
    return spec


def pod_template(values: Manifest, namespace: str = "ops") -> Manifest:
    (deployment,) = of_kind(rendered(values, namespace), "Deployment")
    template: Manifest = deployment["spec"]["template"]
    return template


def container(values: Manifest, namespace: str = "ops") -> Manifest:
    (only,) = pod_template(values, namespace)["spec"]["containers"]
    result: Manifest = only
    return result


def environment(values: Manifest) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(values)["env"]}


def granted(role: Manifest) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def keys_of(value: Any) -> Iterator[str]:
    """Every key at every depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def kubectl(stack: Stack, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command: list[str | Path] = [stack.kubernetes.kubectl, f"--kubeconfig={stack.kubernetes.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True)


def kubectl_ok(stack: Stack, *arguments: str, stdin: str = "") -> str:
    result = kubectl(stack, *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def namespaces(stack: Stack) -> Iterator[list[str]]:
    """Two fresh namespaces that refuse every pod beyond the restricted profile."""
    names = [f"chart-{secrets.token_hex(4)}" for _ in range(2)]
    for name in names:
        kubectl_ok(stack, "create", "namespace", name)
        kubectl_ok(stack, "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield names
    kubectl_ok(stack, "delete", "namespace", *names, "--wait=false")


def test_helm_lint_finds_nothing_to_warn_about() -> None:
    assert "0 chart(s) failed" in run_helm(["lint", "--strict", CHART])


@pytest.mark.parametrize("mode", ["cluster-wide", "namespaced", "claims", "everything"])
def test_a_server_accepts_what_the_chart_renders(stack: Stack, namespaces: list[str], mode: str) -> None:
    values_by_mode: dict[str, Manifest] = {
        "cluster-wide": {},
        "namespaced": {"watchNamespaces": namespaces},
        "claims": TWO_CLAIMS,
        "everything": EVERYTHING | {"watchNamespaces": namespaces},
    }
    manifests = render_chart(values_by_mode[mode], namespace=namespaces[0])
    result = kubectl(stack, "apply", "--dry-run=server", "--warnings-as-errors", "-f", "-", stdin=manifests)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(parse(manifests))


@pytest.mark.parametrize("values", MODES.values(), ids=MODES)
def test_the_restricted_profile_admits_the_pod(stack: Stack, namespaces: list[str], values: Manifest) -> None:
    namespace = namespaces[0]
    values = {**values, "watchNamespaces": [namespace]} if "watchNamespaces" in values else values
    kubectl_ok(stack, "apply", "-f", "-", stdin=rendered_rbac(namespace, [namespace]))
    pod = pod_from(pod_template(values, namespace), namespace)
    kubectl_ok(stack, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def test_the_restricted_profile_would_refuse_a_pod_without_our_security_context(
    stack: Stack, namespaces: list[str]
) -> None:
    kubectl_ok(stack, "apply", "-f", "-", stdin=rendered_rbac(namespaces[0], namespaces[:1]))
    pod = pod_from(pod_template({}, namespaces[0]), namespaces[0])
    del pod["spec"]["securityContext"]["runAsNonRoot"]
    result = kubectl(stack, "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    assert "violates PodSecurity" in result.stderr


def pod_from(template: Manifest, namespace: str) -> Manifest:
    metadata = {**template["metadata"], "name": "operator", "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def test_cluster_wide_the_operator_may_do_what_is_listed_and_nothing_else() -> None:
    manifests = rendered({})
    (role,) = of_work(manifests, "ClusterRole")
    (binding,) = of_work(manifests, "ClusterRoleBinding")
    assert granted(role) == RULES
    assert set(keys_of(role["rules"])) == {"apiGroups", "resources", "verbs"}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert not of_work(manifests, "Role")
    assert not of_work(manifests, "RoleBinding")


def test_the_documentation_lists_the_rules() -> None:
    rows = re.findall(
        r"^\| (`datapipeline.dev`|\(core\)) \| `(\S+)` \| ([a-z, -]+) \|", INSTALL.read_text(), re.MULTILINE
    )
    documented: dict[tuple[str, str], set[str]] = {}
    for group, resource, verbs in rows:
        key = (group.strip("`").replace("(core)", ""), resource)
        documented.setdefault(key, set()).update(verbs.split(", "))
    assert documented == RULES


def test_with_watched_namespaces_the_same_rules_hold_only_there() -> None:
    manifests = rendered(TWO_NAMESPACES)
    roles, bindings = of_work(manifests, "Role"), of_work(manifests, "RoleBinding")
    assert [role["metadata"]["namespace"] for role in roles] == ["team-a", "team-b"]
    assert [binding["metadata"]["namespace"] for binding in bindings] == ["team-a", "team-b"]
    assert [granted(role) for role in roles] == [RULES, RULES]
    assert {binding["roleRef"]["kind"] for binding in bindings} == {"Role"}
    assert not of_work(manifests, "ClusterRole")
    assert [binding["metadata"]["name"] for binding in of_kind(manifests, "ClusterRoleBinding")] == [ADMISSION]


@pytest.mark.parametrize("values", [{}, TWO_NAMESPACES], ids=["cluster-wide", "namespaced"])
def test_every_binding_names_the_account_of_the_pod(values: Manifest) -> None:
    manifests = rendered(values)
    (account,) = of_kind(manifests, "ServiceAccount")
    name = account["metadata"]["name"]
    expected = [{"kind": "ServiceAccount", "name": name, "namespace": "ops"}]
    bindings = of_kind(manifests, "RoleBinding") + of_kind(manifests, "ClusterRoleBinding")
    assert [binding["subjects"] for binding in bindings] == [expected] * len(bindings)
    assert pod_template(values)["spec"]["serviceAccountName"] == name


@pytest.mark.parametrize("mode", [{}, TWO_NAMESPACES], ids=["cluster-wide", "namespaced"])
def test_named_secrets_are_the_only_ones_that_can_be_read(mode: Manifest) -> None:
    manifests = rendered({**mode, "rbac": {"secretNames": ["pipeline-db", "pipeline-redis"]}})
    for role in of_work(manifests, "Role") + of_work(manifests, "ClusterRole"):
        assert granted(role) == RULES
        named = {tuple(rule["resources"]): rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule}
        assert named == {("secrets",): ["pipeline-db", "pipeline-redis"]}


def test_a_server_grants_the_account_its_rules_in_a_watched_namespace_only(stack: Stack, namespaces: list[str]) -> None:
    watched, other = namespaces
    manifests = rendered_rbac(watched, [watched])
    kubectl_ok(stack, "apply", "-f", "-", stdin=manifests)
    (account,) = of_kind(parse(manifests), "ServiceAccount")
    user = f"--as=system:serviceaccount:{watched}:{account['metadata']['name']}"

    def can(namespace: str, verb: str, resource: str) -> str:
        return kubectl(stack, "auth", "can-i", verb, resource, "-n", namespace, user).stdout.strip()

    assert can(watched, "get", "secrets/pipeline-db") == "yes"
    assert can(watched, "create", "events") == "yes"
    assert can(watched, "list", "secrets") == "no"
    assert can(watched, "create", "pods") == "no"
    assert can(other, "get", "secrets/pipeline-db") == "no"


def test_without_rbac_only_the_account_is_created() -> None:
    kinds = {manifest["kind"] for manifest in rendered({"rbac": {"create": False}, "crds": {"install": False}})}
    admission = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}
    assert kinds == {"ServiceAccount", "Deployment", "Service", "PodDisruptionBudget"} | admission


def test_an_account_of_somebody_else_is_used_and_not_created() -> None:
    values = {"serviceAccount": {"create": False, "name": "theirs"}}
    manifests = rendered(values)
    bindings = of_kind(manifests, "ClusterRoleBinding")
    assert not of_kind(manifests, "ServiceAccount")
    assert [binding["subjects"][0]["name"] for binding in bindings] == ["theirs", "theirs"]
    assert pod_template(values)["spec"]["serviceAccountName"] == "theirs"


def test_the_token_is_mounted_only_by_the_pod_of_the_operator() -> None:
    (account,) = of_kind(rendered({}), "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert pod_template({})["spec"]["automountServiceAccountToken"] is True


def test_releases_in_two_namespaces_share_no_cluster_wide_name() -> None:
    names = [
        {
            (kind, manifest["metadata"]["name"])
            for kind in ("ClusterRole", "ClusterRoleBinding")
            for manifest in of_kind(manifests, kind)
        }
        for manifests in (rendered({}, "ops"), rendered({}, "other"))
    ]
    assert not names[0] & names[1]


@pytest.mark.parametrize("values", MODES.values(), ids=MODES)
def test_the_owner_of_files_on_volumes_is_never_changed(values: Manifest) -> None:
    assert "fsGroup" not in set(keys_of(rendered(values)))


def test_user_and_groups_on_the_volumes_can_be_chosen() -> None:
    context = pod_template(EVERYTHING)["spec"]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["supplementalGroups"]) == (1000660000, 0, [1000, 2000])


# --- people, and what they may ask for --------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, TWO_NAMESPACES], ids=["cluster-wide", "namespaced"])
def test_roles_for_people_are_bound_to_nobody(values: Manifest) -> None:
    manifests = rendered(values)
    assert of_users(manifests).keys() == USER_ROLES.keys()
    bound = {
        one["roleRef"]["name"] for kind in ("RoleBinding", "ClusterRoleBinding") for one in of_kind(manifests, kind)
    }
    assert bound == {LEADER, "ops-task-deletion-operator", ADMISSION}


def aggregated(role: Manifest) -> list[str]:
    prefix = "rbac.authorization.k8s.io/aggregate-to-"
    labels: dict[str, str] = role["metadata"]["labels"]
    return [
        label.removeprefix(prefix) for label, value in labels.items() if label.startswith(prefix) and value == "true"
    ]


def test_roles_for_people_are_added_to_those_of_kubernetes() -> None:
    found = {name: aggregated(role) for name, role in of_users(rendered({})).items()}
    assert found == {name: [target] if target else [] for name, target in USER_ROLES.items()}


def test_where_roles_for_people_are_added_can_be_chosen() -> None:
    keys = ("viewer", "requester", "policyAuthor", "storeAdmin", "force", "deleteRecords")
    nowhere = of_users(rendered({"rbac": {"aggregate": dict.fromkeys(keys, "")}}))
    assert {name: aggregated(role) for name, role in nowhere.items()} == {role: [] for role in USER_ROLES}
    admins = of_users(rendered({"rbac": {"aggregate": dict.fromkeys(keys, "admin")}}))
    assert {name: aggregated(role) for name, role in admins.items()} == {role: ["admin"] for role in USER_ROLES}


def test_only_the_role_for_it_may_edit_stores() -> None:
    writers = {
        name
        for name, role in of_users(rendered({})).items()
        for rule in role["rules"]
        if "taskstores" in rule["resources"] and set(rule["verbs"]) - {"get", "list", "watch"}
    }
    assert writers == {"store-admin"}


def test_roles_for_people_can_be_left_to_somebody_else() -> None:
    manifests = rendered({"rbac": {"userRoles": False}})
    assert not of_users(manifests)
    (asking,) = of_kind(manifests, "ValidatingAdmissionPolicy")
    messages = [validation["messageExpression"] for validation in asking["spec"]["validations"]]
    assert sum("for a role with that verb" in message for message in messages) == 2
    assert not any("ClusterRole" in message for message in messages)


@pytest.mark.parametrize("values", [{}, TWO_NAMESPACES], ids=["cluster-wide", "namespaced"])
def test_the_operator_may_see_its_own_admission_policy_and_no_other(values: Manifest) -> None:
    manifests = rendered(values)
    (role,) = [one for one in of_kind(manifests, "ClusterRole") if one["metadata"]["name"] == ADMISSION]
    assert role["rules"] == ADMISSION_RULES
    for kind in ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"):
        (only,) = of_kind(manifests, kind)
        assert only["metadata"]["name"] == environment(values)["TASKDELETION_ADMISSION_POLICY"]
        assert only["metadata"]["name"] in role["rules"][0]["resourceNames"]


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({}, id="defaults"),
        pytest.param(TWO_NAMESPACES, id="namespaced"),
        pytest.param({"rbac": {"userRoles": False}}, id="no roles for people"),
        pytest.param({"serviceAccount": {"create": False, "name": "theirs"}}, id="another account"),
    ],
)
def test_the_operator_is_told_exactly_what_was_rendered(values: Manifest) -> None:
    manifests = rendered(values)
    (asking,) = of_kind(manifests, "ValidatingAdmissionPolicy")
    (binding,) = of_kind(manifests, "ValidatingAdmissionPolicyBinding")
    assert environment(values)["TASKDELETION_ADMISSION_DIGEST"] == digest_of(asking["spec"], binding["spec"])


def test_in_watched_namespaces_only_those_are_asked_about() -> None:
    (asking,) = of_kind(rendered(TWO_NAMESPACES), "ValidatingAdmissionPolicy")
    (requirement,) = asking["spec"]["matchConstraints"]["namespaceSelector"]["matchExpressions"]
    assert (requirement["key"], requirement["operator"]) == ("kubernetes.io/metadata.name", "In")
    assert requirement["values"] == TWO_NAMESPACES["watchNamespaces"]


@pytest.mark.parametrize(
    ("wanted", "served", "is_stamped"),
    [
        ("auto", [], False),
        ("auto", [STAMPING], True),
        ("always", [], True),
        ("never", [STAMPING], False),
    ],
)
def test_who_asks_is_written_down_where_the_server_can(wanted: str, served: list[str], is_stamped: bool) -> None:
    text = render_chart({"admission": {"stampRequester": wanted}}, namespace="ops", api_versions=served)
    found = of_kind(parse(text), "MutatingAdmissionPolicy") + of_kind(parse(text), "MutatingAdmissionPolicyBinding")
    assert [bool(one) for one in found] == [True, True] * is_stamped


def test_without_admission_nothing_of_it_is_there() -> None:
    values = {"admission": {"enabled": False, "stampRequester": "always"}}
    manifests = rendered(values)
    assert not [one for one in manifests if "Admission" in one["kind"]]
    assert ADMISSION not in [one["metadata"]["name"] for one in of_kind(manifests, "ClusterRole")]
    settings = Settings.from_environment(environment(values))
    assert (settings.admission_policy, settings.admission_digest) == ("", "")


# --- more than one ----------------------------------------------------------------------------------------------------


def test_of_two_replicas_one_stands_by_before_another_is_told_to_stop() -> None:
    spec = deployment_spec({})
    assert spec["replicas"] == 2
    rolling = {"maxSurge": 1, "maxUnavailable": 0}
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    settings = Settings.from_environment(environment({}))
    assert settings.leader_election is True
    assert (settings.lease_namespace, settings.lease_name) == ("ops", "task-deletion-operator")


@pytest.mark.parametrize("values", [ALONE, {"replicas": 1}, {"replicas": 0}], ids=["alone", "one", "none"])
def test_a_single_replica_ends_before_the_next_one_begins(values: Manifest) -> None:
    assert deployment_spec(values)["strategy"] == {"type": "Recreate"}
    assert not of_kind(rendered(values), "PodDisruptionBudget")


@pytest.mark.parametrize("watched", [{}, TWO_NAMESPACES], ids=["cluster-wide", "namespaced"])
def test_leader_election_may_touch_its_own_lease_in_the_namespace_of_the_release_only(watched: Manifest) -> None:
    manifests = rendered(watched)
    (role,) = [one for one in of_kind(manifests, "Role") if one["metadata"]["name"] == LEADER]
    (binding,) = [one for one in of_kind(manifests, "RoleBinding") if one["metadata"]["name"] == LEADER]
    assert role["rules"] == LEADER_RULES
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "ops"
    assert binding["roleRef"]["name"] == LEADER


def test_the_lease_that_may_be_touched_is_the_one_that_is_elected_by() -> None:
    values = {"fullnameOverride": "another"}
    (role,) = of_kind(rendered(values), "Role")
    assert role["rules"][0]["resourceNames"] == [environment(values)["TASKDELETION_LEASE_NAME"]] == ["another"]


def test_without_leader_election_no_lease_may_be_touched() -> None:
    assert not of_kind(rendered(ALONE), "Role")
    assert environment(ALONE)["TASKDELETION_LEADER_ELECTION"] == "false"


def test_several_replicas_without_an_election_are_refused() -> None:
    with pytest.raises(ChartError, match="replicas"):
        render_chart({"leaderElection": {"enabled": False}})


def test_a_drained_node_takes_one_replica_at_a_time() -> None:
    manifests = rendered({})
    (budget,) = of_kind(manifests, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["spec"]["selector"] == deployment_spec({})["selector"]


def test_replicas_are_spread_over_nodes_and_zones_where_that_is_possible() -> None:
    spread = pod_template({})["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert {one["whenUnsatisfiable"] for one in spread} == {"ScheduleAnyway"}
    assert [one["labelSelector"] for one in spread] == [deployment_spec({})["selector"]] * 2


def test_the_spread_can_be_chosen_or_left_away() -> None:
    (chosen,) = pod_template(EVERYTHING)["spec"]["topologySpreadConstraints"]
    assert chosen["topologyKey"] == "rack"
    assert chosen["labelSelector"] == deployment_spec(EVERYTHING)["selector"]
    assert "topologySpreadConstraints" not in pod_template({"topologySpreadConstraints": []})["spec"]


def helm_upgrade(stack: Stack, namespace: str, *options: str) -> Manifest:
    """Install or upgrade a release; its Deployment as the server has it. No pods: there are no nodes."""
    command = [
        "upgrade",
        "--install",
        "tdo",
        str(CHART),
        "--namespace",
        namespace,
        "--set",
        "crds.install=false",
        *options,
    ]
    done = subprocess.run(
        [find_helm(), *command, "--set", "fullnameOverride=tdo", "--set", f"watchNamespaces={{{namespace}}}"],
        env=os.environ | {"KUBECONFIG": str(stack.kubernetes.kubeconfig)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spec: Manifest = json.loads(kubectl_ok(stack, "get", "deployment", "tdo", "-n", namespace, "-o", "json"))["spec"]
    return spec


def test_pods_that_know_of_no_election_end_before_those_begin_that_do(stack: Stack, namespaces: list[str]) -> None:
    """Otherwise the old one would go on working beside the leader."""
    alone = ("--set", "replicas=1", "--set", "leaderElection.enabled=false")
    assert helm_upgrade(stack, namespaces[0], *alone)["strategy"] == {"type": "Recreate"}
    several = helm_upgrade(stack, namespaces[0])
    assert (several["replicas"], several["strategy"]) == (2, {"type": "Recreate"})
    assert helm_upgrade(stack, namespaces[0])["strategy"]["type"] == "RollingUpdate"
    assert helm_upgrade(stack, namespaces[0], *alone)["strategy"] == {"type": "Recreate"}


def test_labels_of_the_user_never_replace_those_of_the_selector() -> None:
    (deployment,) = of_kind(rendered(EVERYTHING), "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert labels.items() >= deployment["spec"]["selector"]["matchLabels"].items()
    assert labels["team"] == "pipeline"


def test_claims_are_mounted_where_the_operator_looks_for_them() -> None:
    spec = pod_template(TWO_CLAIMS)["spec"]
    claims = {
        volume["name"]: volume["persistentVolumeClaim"]["claimName"]
        for volume in spec["volumes"]
        if "persistentVolumeClaim" in volume
    }
    mounts = {
        mount["mountPath"]: claims[mount["name"]]
        for mount in spec["containers"][0]["volumeMounts"]
        if mount["name"] in claims
    }
    assert mounts == {"/volumes/ops/training-data": "training-data", "/volumes/ops/archive.2025": "archive.2025"}


def test_only_tmp_and_claims_are_mounted() -> None:
    assert [mount["mountPath"] for mount in container({})["volumeMounts"]] == ["/tmp"]


def test_claims_of_a_namespace_that_is_not_served_are_refused() -> None:
    with pytest.raises(ChartError, match="watchNamespaces does not name"):
        render_chart(TWO_CLAIMS | TWO_NAMESPACES, namespace="ops")
    assert render_chart(TWO_CLAIMS | TWO_NAMESPACES, namespace="team-a")


def test_a_digest_wins_over_the_tag() -> None:
    image = {"repository": "registry.example/tdo", "tag": "1.2.3"}
    assert container({"image": image})["image"] == "registry.example/tdo:1.2.3"
    digest = f"sha256:{'a' * 64}"
    assert container({"image": image | {"digest": digest}})["image"] == f"registry.example/tdo@{digest}"


def test_chart_and_operator_know_the_same_settings() -> None:
    assert set(environment({})) == {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)}


def test_the_defaults_of_the_chart_are_those_of_the_operator() -> None:
    found = Settings.from_environment(environment({}))
    # Beside the chart one process is all there is.
    assert found == dataclasses.replace(
        Settings(),
        leader_election=True,
        lease_namespace="ops",
        admission_policy="ops-task-deletion-operator",
        admission_digest=found.admission_digest,
    )


def test_the_operator_reads_the_settings_of_the_values() -> None:
    values = {
        **TWO_NAMESPACES,
        "volumes": {"root": "/data", "requireMount": False},
        "leaderElection": {"leaseSeconds": 30},
        "settings": {
            "workers": 2,
            "storeThreads": 1,
            "directoryThreads": 3,
            "directoryHelpers": 0,
            "objectBatches": 5,
            "logLevel": "debug",
            "logFormat": "text",
            "probeIntervalSeconds": 30,
            "resyncSeconds": 86400,
            "shutdownSeconds": 45,
        },
    }
    settings = Settings.from_environment(environment(values))
    assert settings.namespaces == ("team-a", "team-b")
    assert (str(settings.volumes_root), settings.require_mount) == ("/data", False)
    assert settings.lease_seconds == 30
    assert (settings.workers, settings.store_threads) == (2, 1)
    assert (settings.directory_threads, settings.directory_helpers, settings.object_batches) == (3, 0, 5)
    assert (settings.log_level, settings.log_format) == ("debug", "text")
    assert (settings.probe_interval_seconds, settings.resync_seconds, settings.shutdown_seconds) == (30, 86400, 45)


@pytest.mark.parametrize("shutdown_seconds", [0, 20, 600])
def test_the_pod_outlives_the_shutdown_of_the_operator(shutdown_seconds: int) -> None:
    spec = pod_template({"settings": {"shutdownSeconds": shutdown_seconds}})["spec"]
    assert spec["terminationGracePeriodSeconds"] == shutdown_seconds + 10


def test_probes_ask_the_port_that_the_operator_serves() -> None:
    operator = container({})
    address = Settings.from_environment(environment({})).health_address
    assert address is not None
    assert [port["containerPort"] for port in operator["ports"] if port["name"] == "health"] == [address[1]]
    assert operator["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": operator["ports"][0]["name"]}
    assert operator["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": operator["ports"][0]["name"]}


def test_crds_stay_when_the_release_goes() -> None:
    crds = of_kind(rendered({}), "CustomResourceDefinition")
    assert {f"crd-{crd['spec']['names']['plural']}.yaml" for crd in crds} == set(render_chart_templates())
    assert {crd["metadata"]["annotations"]["helm.sh/resource-policy"] for crd in crds} == {"keep"}


def test_crds_can_be_left_to_somebody_else() -> None:
    manifests = rendered({"crds": {"install": False}})
    assert not of_kind(manifests, "CustomResourceDefinition")
    assert of_kind(manifests, "Deployment")


def test_names_made_of_digits_stay_names() -> None:
    manifests = parse(render_chart({"watchNamespaces": ["123"]}, namespace="456", templates=RBAC_TEMPLATES))
    cluster_wide = ("ClusterRole", "ClusterRoleBinding")
    found = {one["metadata"]["namespace"] for one in manifests if one["kind"] not in cluster_wide}
    assert found == {"123", "456"}


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param({"replica": 2}, "replica", id="unknown key"),
        pytest.param({"replicas": 10}, "/replicas", id="too many replicas"),
        pytest.param({"replicas": "2"}, "/replicas", id="a string for the replicas"),
        pytest.param({"leaderElection": {"enable": True}}, "/leaderElection", id="misspelt election"),
        pytest.param({"leaderElection": {"leaseSeconds": 4}}, "/leaderElection/leaseSeconds", id="too short a lease"),
        pytest.param({"leaderElection": {"leaseSeconds": 61}}, "/leaderElection/leaseSeconds", id="too long a lease"),
        pytest.param(
            {"topologySpreadConstraints": [{"topologyKey": "rack", "maxSkew": 1}]},
            "/topologySpreadConstraints/0",
            id="a spread that does not say what to do",
        ),
        pytest.param({"volumes": {"claim": ["x"]}}, "/volumes", id="unknown key inside"),
        pytest.param({"fsGroup": 1000}, "fsGroup", id="fsGroup"),
        pytest.param({"image": {"tag": 1.2}}, "/image/tag", id="a tag that is a number"),
        pytest.param({"image": {"digest": "latest"}}, "/image/digest", id="no digest"),
        pytest.param({"image": {"repository": ""}}, "/image/repository", id="no repository"),
        pytest.param({"watchNamespaces": "team-a"}, "/watchNamespaces", id="a string for a list"),
        pytest.param({"watchNamespaces": ["Team_A"]}, "/watchNamespaces/0", id="no namespace name"),
        pytest.param({"watchNamespaces": ["a", "a"]}, "/watchNamespaces", id="a namespace twice"),
        pytest.param({"volumes": {"claims": ["../other"]}}, "/volumes/claims/0", id="a claim that is a path"),
        pytest.param({"volumes": {"claims": [{"claimName": "x"}]}}, "/volumes/claims/0", id="a claim that is a map"),
        pytest.param({"volumes": {"root": "volumes"}}, "/volumes/root", id="a relative root"),
        pytest.param({"volumes": {"root": "/"}}, "/volumes/root", id="the root of everything"),
        pytest.param({"volumes": {"root": "/data/.."}}, "/volumes/root", id="a root that goes up"),
        pytest.param({"volumes": {"root": "/tmp/x"}}, "/volumes/root", id="a root inside tmp"),
        pytest.param({"volumes": {"requireMount": "false"}}, "/volumes/requireMount", id="a string for a boolean"),
        pytest.param({"settings": {"workers": 0}}, "/settings/workers", id="no worker"),
        pytest.param({"settings": {"workers": "8"}}, "/settings/workers", id="a string for a number"),
        pytest.param({"settings": {"workers": None}}, "/settings", id="a setting taken away"),
        pytest.param({"settings": {"logLevel": "trace"}}, "/settings/logLevel", id="an unknown level"),
        pytest.param({"runAsUser": 0}, "/runAsUser", id="root"),
        pytest.param({"rbac": {"aggregate": {"storeAdmin": "edit"}}}, "/storeAdmin", id="stores for every editor"),
        pytest.param({"admission": {"stampRequester": True}}, "/admission/stampRequester", id="a boolean for a word"),
        pytest.param({"serviceAccount": {"create": False}}, "/serviceAccount/name", id="no account at all"),
        pytest.param({"podAnnotations": {"a": 1}}, "/podAnnotations/a", id="an annotation that is a number"),
        pytest.param({"resources": {"limit": {}}}, "/resources", id="misspelt limits"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Manifest, path: str) -> None:
    with pytest.raises(ChartError, match="schema") as refusal:
        render_chart(values)
    assert path in str(refusal.value)


@pytest.mark.parametrize(
    ("setting", "limits"),
    [
        pytest.param("workers", (1, 256), id="workers"),
        pytest.param("storeThreads", (1, 64), id="store threads"),
        pytest.param("directoryThreads", (1, 256), id="directory threads"),
        pytest.param("directoryHelpers", (0, 1024), id="directory helpers"),
        pytest.param("objectBatches", (1, 1024), id="object batches"),
        pytest.param("probeIntervalSeconds", (1, 86400), id="probe interval"),
        pytest.param("resyncSeconds", (1, 86400), id="resync"),
        pytest.param("shutdownSeconds", (0, 3600), id="shutdown"),
    ],
)
def test_the_operator_takes_every_number_that_the_schema_takes(setting: str, limits: tuple[int, int]) -> None:
    for number in limits:
        Settings.from_environment(environment({"settings": {setting: number}}))
    for number in (limits[0] - 1, limits[1] + 1):
        with pytest.raises(ChartError, match="schema"):
            render_chart({"settings": {setting: number}})


@pytest.mark.parametrize("seconds", [5, 60])
def test_the_operator_takes_every_lease_that_the_schema_takes(seconds: int) -> None:
    values = {"leaderElection": {"leaseSeconds": seconds}}
    assert Settings.from_environment(environment(values)).lease_seconds == seconds


def test_the_notes_say_what_comes_next() -> None:
    notes = run_helm(["install", "r", CHART, "--namespace", "ops", "--dry-run=client", "--set", "crds.install=false"])
    assert "kubectl -n ops rollout status deployment/r-task-deletion-operator" in notes
    for words in (
        "create secret generic",
        "TaskStore",
        "TaskDeletion",
        "TaskRetentionPolicy",
        "docs/install.md",
        "crds.install is false",
    ):
        assert words in notes
