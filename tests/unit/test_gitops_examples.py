"""What the examples for GitOps tools say of our statuses, and every policy that the documentation shows.

Statuses are those that the operator builds. Argo CD runs Lua 5.1, as here; Flux goes by kstatus, whose rules are short.
"""

import importlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from taskdeletion.api import reasons
from taskdeletion.api.common import API_VERSION, Condition
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.domain import conditions as requests
from taskdeletion.domain.retention import Retention
from taskdeletion.domain.schedule import parse_schedule
from taskdeletion.workflow import policy_record as policies

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HEALTH = EXAMPLES / "gitops" / "argocd" / "argocd-cm-health.yaml"
NOW = datetime(2026, 1, 31, tzinfo=UTC)
GENERATION = 3
Object = dict[str, Any]


def documents(path: Path) -> list[Object]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


# --- our statuses, as the operator builds them --------------------------------------------------------------------


def an_object(conditions: list[Condition], *, observed: int = GENERATION, **spec: Any) -> Object:
    return {
        "metadata": {"generation": GENERATION},
        "spec": spec,
        "status": {"observedGeneration": observed, "conditions": [found.to_api() for found in conditions]},
    }


def request(stage: requests.Stage, reason: str = reasons.PROGRESSING, **more: Any) -> Object:
    view = requests.View(stage, reason, f"it is {stage}")
    return an_object(requests.build_conditions([], view, generation=GENERATION, now=NOW), **more)


def policy(stage: policies.Stage, reason: str = reasons.SCHEDULED, **more: Any) -> Object:
    view = policies.PolicyView(stage, reason, f"it is {stage}")
    return an_object(policies.build_conditions([], view, generation=GENERATION, now=NOW), **more)


def store(status: Any, reason: str) -> Object:
    return an_object(
        [
            Condition(
                type=kind, status=status, reason=reason, message=f"the store is {status}", last_transition_time=NOW
            )
            for kind in ("DirectoryReady", "Ready")
        ]
    )


NEW: Object = {"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": -1}}
BARE: Object = {"metadata": {"generation": 1}, "spec": {}}

#: Kind, object, health in Argo CD, status in Flux.
CASES: dict[str, tuple[str, Object, str, str]] = {
    "policy-new": ("TaskRetentionPolicy", NEW, "Progressing", "InProgress"),
    "policy-changed": ("TaskRetentionPolicy", policy("fine", observed=2), "Progressing", "InProgress"),
    "policy-failed-then-changed": ("TaskRetentionPolicy", policy("stalled", observed=2), "Progressing", "InProgress"),
    "policy-scheduled": ("TaskRetentionPolicy", policy("fine"), "Healthy", "Current"),
    "policy-going": ("TaskRetentionPolicy", policy("fine", reasons.RUN_ACTIVE, suspend=False), "Healthy", "Current"),
    "policy-suspended": (
        "TaskRetentionPolicy",
        policy("fine", reasons.SUSPENDED, suspend=True),
        "Suspended",
        "Current",
    ),
    "policy-working": ("TaskRetentionPolicy", policy("working"), "Progressing", "InProgress"),
    "policy-waiting": (
        "TaskRetentionPolicy",
        policy("waiting", reasons.DEPENDENCY_UNAVAILABLE),
        "Progressing",
        "InProgress",
    ),
    "policy-refused": ("TaskRetentionPolicy", policy("stalled", reasons.LIMIT_EXCEEDED), "Degraded", "Failed"),
    "policy-failed": ("TaskRetentionPolicy", policy("stalled", reasons.RUN_FAILED), "Degraded", "Failed"),
    "policy-invalid": ("TaskRetentionPolicy", policy("invalid", reasons.INVALID_SPEC), "Degraded", "Failed"),
    "policy-invalid-suspended": (
        "TaskRetentionPolicy",
        policy("invalid", reasons.INVALID_SPEC, suspend=True),
        "Degraded",
        "Failed",
    ),
    "request-new": ("TaskDeletion", NEW, "Progressing", "InProgress"),
    "request-running": ("TaskDeletion", request("running"), "Progressing", "InProgress"),
    "request-waiting": (
        "TaskDeletion",
        request("waiting", reasons.DEPENDENCY_UNAVAILABLE),
        "Progressing",
        "InProgress",
    ),
    "request-suspended": ("TaskDeletion", request("suspended", reasons.SUSPENDED), "Suspended", "InProgress"),
    "request-stopping": ("TaskDeletion", request("stopping", reasons.DEADLINE_EXCEEDED), "Progressing", "InProgress"),
    "request-succeeded": ("TaskDeletion", request("succeeded", reasons.SUCCEEDED), "Healthy", "Current"),
    "request-failed": ("TaskDeletion", request("failed", reasons.TASKS_NOT_DELETED), "Degraded", "Failed"),
    "request-rejected": ("TaskDeletion", request("rejected", reasons.NOT_CONFIRMED), "Degraded", "Failed"),
    "store-new": ("TaskStore", NEW, "Progressing", "InProgress"),
    "store-ready": ("TaskStore", store("True", reasons.READY), "Healthy", "Current"),
    "store-not-ready": ("TaskStore", store("False", reasons.SECRET_NOT_FOUND), "Progressing", "InProgress"),
}
cases = pytest.mark.parametrize(("kind", "found", "argo", "flux"), CASES.values(), ids=CASES)


def test_every_stage_has_a_case() -> None:
    assert {f"request-{stage}" for stage in get_args(requests.Stage)} <= CASES.keys()
    named = {"fine": "scheduled", "stalled": "failed"}
    assert {f"policy-{named.get(stage, stage)}" for stage in get_args(policies.Stage)} <= CASES.keys()


# --- Argo CD ------------------------------------------------------------------------------------------------------


def health(kind: str, found: Object) -> dict[str, str]:
    """What the check of the example says of an object, in an interpreter of its own."""
    lua = importlib.import_module("lupa.lua51").LuaRuntime(register_eval=False, register_builtins=False)
    (manifest,) = documents(HEALTH)

    def table(value: Any) -> Any:
        if isinstance(value, dict):
            return lua.table_from({key: table(inner) for key, inner in value.items()})
        return lua.table_from([table(inner) for inner in value]) if isinstance(value, list) else value

    lua.globals().obj = table(found)
    answer = lua.execute(manifest["data"][f"resource.customizations.health.datapipeline.dev_{kind}"])
    return dict(answer)


@cases
def test_argo_cd_shows_the_health_of_every_stage(kind: str, found: Object, argo: str, flux: str) -> None:
    assert health(kind, found)["status"] == argo


@pytest.mark.parametrize("kind", ["TaskRetentionPolicy", "TaskDeletion", "TaskStore"])
def test_argo_cd_waits_for_an_object_without_a_status(kind: str) -> None:
    assert health(kind, BARE) == {"status": "Progressing", "message": "waiting for the operator"}


@pytest.mark.parametrize("name", ["policy-scheduled", "policy-refused", "request-running", "request-failed"])
def test_argo_cd_shows_our_message(name: str) -> None:
    kind, found, _, _ = CASES[name]
    assert health(kind, found)["message"].startswith("it is ")


def test_the_example_has_a_check_for_every_kind_and_nothing_else() -> None:
    (manifest,) = documents(HEALTH)
    kinds = {key.rpartition("_")[2] for key in manifest["data"]}
    assert kinds == {"TaskRetentionPolicy", "TaskDeletion", "TaskStore"}
    assert (manifest["kind"], manifest["metadata"]["name"]) == ("ConfigMap", "argocd-cm")


# --- Flux ---------------------------------------------------------------------------------------------------------


def kstatus(found: Object) -> str:
    """The rules of kstatus that concern custom resources."""
    status = found["status"]
    if status["observedGeneration"] != found["metadata"]["generation"]:
        return "InProgress"
    held = {condition["type"]: condition["status"] for condition in status.get("conditions", [])}
    if held.get("Reconciling") == "True":
        return "InProgress"
    if held.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if held.get("Ready", "True") != "True" else "Current"


@cases
def test_flux_knows_every_stage_without_a_check(kind: str, found: Object, argo: str, flux: str) -> None:
    assert kstatus(found) == flux


def test_what_depends_on_the_kinds_is_applied_after_the_operator() -> None:
    found = {one["metadata"]["name"]: one["spec"] for one in documents(EXAMPLES / "gitops/flux/kustomizations.yaml")}
    operator = found.pop("task-deletion-operator")
    assert operator["wait"] is True
    assert all(spec["dependsOn"] == [{"name": "task-deletion-operator"}] for spec in found.values())


# --- policies in examples and documentation -----------------------------------------------------------------------

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def shown_policies() -> Iterator[tuple[str, Object]]:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        yield from ((path.name, found) for found in documents(path))
    for page in PAGES:
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if f"kind: {TaskRetentionPolicy.KIND}\n" in block:
                yield page.name, yaml.safe_load(block)


SHOWN = [(name, found) for name, found in shown_policies() if found["kind"] == TaskRetentionPolicy.KIND]


def test_the_readme_the_page_and_an_example_show_a_policy() -> None:
    assert {"README.md", "retention.md", "retention-policy.yaml"} <= {name for name, _ in SHOWN}


@pytest.mark.parametrize(("name", "found"), SHOWN, ids=[name for name, _ in SHOWN])
def test_a_shown_policy_can_be_carried_out_and_is_bounded(name: str, found: Object) -> None:
    assert found["apiVersion"] == API_VERSION
    spec = TaskRetentionPolicy.model_validate(found).spec
    assert parse_schedule(spec.schedule, spec.time_zone).next_after(NOW) is not None
    assert all(rule.older_than is not None for rule in spec.rules)
    assert Retention.of(spec).max_percentage is not None or spec.limits.max_tasks_per_run <= 500
