"""The manifest of a Job: what the operator fixes, what a TaskStore gives, and exactly the arguments of the work.

Called by the executor for Jobs. A TaskStore reaches the name of a claim, a path and a number of pods, and nothing else:
image, command, account and rights are the operator's. Pure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from taskdeletion.domain.job_work import JobWork, build_arguments, digest_of

CONTAINER: Final = "taskdeletion"
VOLUME_PATH: Final = "/volume"
REQUEST_LABEL: Final = "datapipeline.dev/request-uid"
ATTEMPT_LABEL: Final = "datapipeline.dev/attempt"
VERB_LABEL: Final = "datapipeline.dev/verb"
STORE_ANNOTATION: Final = "datapipeline.dev/task-store"
DELETION_ANNOTATION: Final = "datapipeline.dev/task-deletion"
ADOPTED_ANNOTATION: Final = "datapipeline.dev/adopted-by"
COUNTED_ANNOTATION: Final = "datapipeline.dev/counted-before"
#: Exit codes that another pod would repeat: a usage error, and what the command says of a split (`executors.in_pod`).
_HOPELESS: Final = (2, 65)
_GRACE_SECONDS: Final = 30
#: Files and bytes.
Counts = tuple[int, int]


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What the operator fixes for all Jobs. `uid` and `gid`: never 0. Mappings and lists are as Kubernetes has them."""

    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: Sequence[str] = ()
    service_account: str = "default"
    uid: int = 65532
    gid: int = 65532
    supplemental_groups: Sequence[int] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    priority_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    deadline_seconds: int = 21_600
    backoff_limit: int = 6
    threads: int = 64


@dataclass(frozen=True, slots=True)
class JobTarget:
    """For whom a Job works. `claim`: of the namespace. `node`: the only one that can mount it now; empty: any.

    `identity`: of the process that creates the Job; only that one, or one that adopts it, can release it.
    `counted`: files and bytes that status had of tasks before the Job; so what it did is never added twice.
    """

    namespace: str
    deletion: str
    store: str
    claim: str
    attempt: int
    node: str = ""
    identity: str = ""
    counted: Mapping[str, Counts] = field(default_factory=dict)


def name_job(work: JobWork, target: JobTarget) -> str:
    """The same for the same work of the same attempt; at most 59 characters, so that pods of a split fit in, too."""
    return f"td-{work.owner.replace('-', '')}-{target.attempt}-{work.verb}-{digest_of(work)}"


def build_job(work: JobWork, target: JobTarget, settings: JobSettings) -> dict[str, Any]:
    """The Job, suspended: it runs once it is released, which a request that comes late cannot do."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name_job(work, target),
            "namespace": target.namespace,
            "labels": _labels(work, target, settings),
            "annotations": {**_annotations(target, settings), **_journal(target)},
        },
        "spec": {
            "suspend": True,
            **_completion(work),
            "backoffLimit": settings.backoff_limit,
            "activeDeadlineSeconds": settings.deadline_seconds,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {
                "metadata": {
                    "labels": _labels(work, target, settings),
                    "annotations": _annotations(target, settings),
                },
                "spec": _pod(work, target, settings),
            },
        },
    }


def _labels(work: JobWork, target: JobTarget, settings: JobSettings) -> dict[str, str]:
    """Ours win: by them Jobs are found."""
    return {
        **settings.labels,
        "app.kubernetes.io/name": "task-deletion-operator",
        "app.kubernetes.io/component": "job",
        "app.kubernetes.io/managed-by": "task-deletion-operator",
        REQUEST_LABEL: work.owner,
        ATTEMPT_LABEL: str(target.attempt),
        VERB_LABEL: work.verb,
    }


def _annotations(target: JobTarget, settings: JobSettings) -> dict[str, str]:
    return {**settings.annotations, STORE_ANNOTATION: target.store, DELETION_ANNOTATION: target.deletion}


def _journal(target: JobTarget) -> dict[str, str]:
    counted = {task_id: counts for task_id, counts in target.counted.items() if any(counts)}
    return {ADOPTED_ANNOTATION: target.identity, COUNTED_ANNOTATION: json.dumps(counted, separators=(",", ":"))}


def read_counted(text: str) -> dict[str, Counts]:
    """What the annotation says; nothing where it is none of ours."""
    try:
        return {str(task_id): (int(files), int(freed)) for task_id, (files, freed) in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError):
        return {}


def _completion(work: JobWork) -> dict[str, Any]:
    if work.is_shared:
        return {"completionMode": "Indexed", "completions": work.of, "parallelism": work.of}
    return {"completionMode": "NonIndexed", "completions": 1, "parallelism": 1}


def _failure_rules() -> list[dict[str, Any]]:
    hopeless = {"containerName": CONTAINER, "operator": "In", "values": list(_HOPELESS)}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    return [{"action": "FailJob", "onExitCodes": hopeless}, {"action": "Ignore", "onPodConditions": disrupted}]


def _pod(work: JobWork, target: JobTarget, settings: JobSettings) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.uid,
            "runAsGroup": settings.gid,
            "supplementalGroups": list(settings.supplemental_groups),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": target.claim}}],
        "containers": [_container(work, settings)],
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": dict(settings.node_selector),
        "tolerations": [dict(toleration) for toleration in settings.tolerations],
        "affinity": _affinity(target, settings),
        "priorityClassName": settings.priority_class,
    }
    return {name: value for name, value in spec.items() if value not in ({}, [], "")}


def _container(work: JobWork, settings: JobSettings) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["taskdeletion"],
        "args": [_escape(argument) for argument in _place(work, settings)],
        "resources": dict(settings.resources),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "volume", "mountPath": VOLUME_PATH}],
    }


def _place(work: JobWork, settings: JobSettings) -> list[str]:
    verb, *rest = build_arguments(work)
    return [verb, f"--volume={VOLUME_PATH}", f"--threads={settings.threads}", *rest]


def _escape(argument: str) -> str:
    """Kubernetes puts the value of a variable in place of $(NAME), and one $ in place of two."""
    return argument.replace("$", "$$")


def _affinity(target: JobTarget, settings: JobSettings) -> dict[str, Any]:
    if not target.node:
        return dict(settings.affinity)
    there = {"key": "metadata.name", "operator": "In", "values": [target.node]}
    required = {"nodeSelectorTerms": [{"matchFields": [there]}]}
    nodes = {**settings.affinity.get("nodeAffinity", {}), "requiredDuringSchedulingIgnoredDuringExecution": required}
    return {**settings.affinity, "nodeAffinity": nodes}


def read_arguments(job: Mapping[str, Any]) -> list[str]:
    """What the pods of a Job are given, without what says where and how; for `parse_arguments`. Empty: not ours."""
    containers = job["spec"]["template"]["spec"]["containers"]
    found = [str(argument).replace("$$", "$") for argument in containers[0].get("args") or []]
    end = found.index("--") if "--" in found else len(found)
    skipped = ("--volume=", "--threads=")
    return [one for number, one in enumerate(found) if number > end or not one.startswith(skipped)]


def read_claim_name(job: Mapping[str, Any]) -> str:
    """The claim that the pods of a Job mount; empty: none."""
    return next(filter(None, _claims(job["spec"]["template"]["spec"])), "")


def _claims(pod: Mapping[str, Any]) -> list[str]:
    return [(volume.get("persistentVolumeClaim") or {}).get("claimName") or "" for volume in pod.get("volumes") or ()]


def is_same_job(found: Mapping[str, Any], built: Mapping[str, Any]) -> bool:
    """Whether a Job that has the name of ours does what ours would: somebody may have made it to lie to us."""
    return _essence(found) == _essence(built)


def _essence(job: Mapping[str, Any]) -> tuple[Any, ...]:
    spec = job["spec"]
    pod = spec["template"]["spec"]
    containers = [(one["image"], one.get("command"), one.get("args")) for one in pod["containers"]]
    labels = (job["metadata"].get("labels") or {}).get(REQUEST_LABEL), pod.get("initContainers") or []
    counts = spec.get("completions"), spec.get("parallelism"), pod["restartPolicy"]
    return containers, _claims(pod), labels, counts, pod.get("serviceAccountName")
