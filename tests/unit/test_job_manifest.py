"""The manifest of a Job: what a TaskStore can reach of it, what it can not, and that it is found again."""

import re
from dataclasses import replace
from typing import Any

import pytest

from taskdeletion.domain.job_manifest import (
    REQUEST_LABEL,
    JobSettings,
    JobTarget,
    build_job,
    is_same_job,
    name_job,
    read_arguments,
)
from taskdeletion.domain.job_work import JobWork, build_arguments, parse_arguments
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
CLAIM = JobWork("claim", OWNER, "data/$(HOME)/$$x", task_ids=("task_1", "--dry-run"))
PURGE = JobWork("purge", OWNER, "data", siblings=(Sibling("claimed", OWNER, "task_1"),))
TARGET = JobTarget("pipelines", "clean-july", "default", "training-data", 3)
SETTINGS = JobSettings("registry.example/operator@sha256:1", uid=1000, gid=100, supplemental_groups=(2000,))


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def container_of(job: dict[str, Any]) -> dict[str, Any]:
    [found] = pod_of(job)["containers"]
    return dict(found)


def test_the_pod_has_no_right_that_it_does_not_need() -> None:
    job = build_job(CLAIM, TARGET, SETTINGS)
    pod = pod_of(job)

    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "runAsGroup": 100,
        "supplementalGroups": [2000],
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container_of(job)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "env" not in container_of(job)


def test_it_mounts_the_claim_whole_and_nothing_else() -> None:
    """A kubelet would create a subPath that does not exist."""
    job = build_job(CLAIM, TARGET, SETTINGS)

    assert pod_of(job)["volumes"] == [{"name": "volume", "persistentVolumeClaim": {"claimName": "training-data"}}]
    assert container_of(job)["volumeMounts"] == [{"name": "volume", "mountPath": "/volume"}]


def test_a_job_never_runs_before_it_is_released_and_never_in_two_pods() -> None:
    spec = build_job(CLAIM, TARGET, SETTINGS)["spec"]

    assert spec["suspend"] is True
    assert (spec["completions"], spec["parallelism"], spec["podReplacementPolicy"]) == (1, 1, "Failed")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["activeDeadlineSeconds"] == SETTINGS.deadline_seconds


def test_it_has_no_owner_and_is_found_by_its_labels() -> None:
    job = build_job(CLAIM, TARGET, replace(SETTINGS, labels={REQUEST_LABEL: "forged", "team": "a"}))

    assert "ownerReferences" not in job["metadata"]
    assert job["metadata"]["labels"][REQUEST_LABEL] == OWNER
    assert job["metadata"]["labels"]["team"] == "a"
    assert job["spec"]["template"]["metadata"]["labels"][REQUEST_LABEL] == OWNER


def test_arguments_reach_the_pod_as_they_are() -> None:
    """Kubernetes replaces $(HOME) by the value of a variable, and $$ by $."""
    arguments = container_of(build_job(CLAIM, TARGET, SETTINGS))["args"]

    assert "--sub-path=data/$$(HOME)/$$$$x" in arguments
    assert arguments[-2:] == ["task_1", "--dry-run"]
    assert container_of(build_job(CLAIM, TARGET, SETTINGS))["command"] == ["taskdeletion"]


@pytest.mark.parametrize("work", [CLAIM, PURGE, replace(PURGE, of=3, level=2)], ids=["claim", "purge", "share"])
def test_the_work_is_read_back_from_the_job(work: JobWork) -> None:
    job = build_job(work, TARGET, SETTINGS)

    assert read_arguments(job) == build_arguments(work)
    assert parse_arguments(read_arguments(job)) == work


def test_a_split_is_an_indexed_job_with_a_pod_for_each_share() -> None:
    spec = build_job(replace(PURGE, of=3, level=2), TARGET, SETTINGS)["spec"]

    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)


def test_a_claim_that_one_node_has_pins_the_pod_there() -> None:
    settings = replace(SETTINGS, affinity={"podAffinity": {}})
    affinity = pod_of(build_job(CLAIM, replace(TARGET, node="node-7"), settings))["affinity"]

    [term] = affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-7"]}]}
    assert affinity["podAffinity"] == {}


def test_the_same_work_of_the_same_attempt_has_one_name_that_fits() -> None:
    name = name_job(CLAIM, TARGET)

    assert name == name_job(replace(CLAIM), replace(TARGET))
    assert name != name_job(CLAIM, replace(TARGET, attempt=4))
    assert name != name_job(replace(CLAIM, task_ids=("task_1",)), TARGET)
    longest = name_job(CLAIM, replace(TARGET, attempt=99_999))
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", longest)
    assert len(longest) + len("-999") <= 63


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("image", "evil"),
        ("command", ["sh", "-c"]),
        ("args", ["purge"]),
    ],
)
def test_a_job_that_does_something_else_is_not_the_same(part: str, value: object) -> None:
    ours, found = build_job(CLAIM, TARGET, SETTINGS), build_job(CLAIM, TARGET, SETTINGS)
    assert is_same_job(found, ours)
    pod_of(found)["containers"][0][part] = value
    assert not is_same_job(found, ours)


def test_a_job_with_another_claim_account_or_container_is_not_the_same() -> None:
    ours = build_job(CLAIM, TARGET, SETTINGS)
    for other in (replace(TARGET, claim="other"), TARGET):
        found = build_job(CLAIM, other, SETTINGS)
        if other is TARGET:
            pod_of(found)["initContainers"] = [{"name": "x", "image": "y"}]
        assert not is_same_job(found, ours)
    assert not is_same_job(build_job(CLAIM, TARGET, replace(SETTINGS, service_account="admin")), ours)
