"""Reads a ValidatingAdmissionPolicy and its binding, which share a name. Called by `workflow.admission`.

Nothing is cached, and it decides nothing.
"""

from datetime import datetime

from taskdeletion.domain.admission import Installed
from taskdeletion.kube.client import Answer, Api, KubeRejected, quoted


def read_installed(api: Api, name: str) -> Installed | None:
    """Both as they are now, or None where one is missing.

    Raises KubeUnavailable, and KubeForbidden where they may not be read.
    """
    policy = _read(api, "validatingadmissionpolicies", name)
    binding = _read(api, "validatingadmissionpolicybindings", name)
    if policy is None or binding is None:
        return None
    created_at = max(_created_at(policy), _created_at(binding))
    return Installed(_spec(policy), _spec(binding), created_at, looked_at=policy.server_time)


def _read(api: Api, plural: str, name: str) -> Answer | None:
    try:
        return api.request("GET", quoted("apis", "admissionregistration.k8s.io", "v1", plural, name))
    except KubeRejected as error:
        if error.status == 404:
            return None
        raise


def _created_at(answer: Answer) -> datetime:
    return datetime.fromisoformat(answer.body["metadata"]["creationTimestamp"])


def _spec(answer: Answer) -> dict[str, object]:
    return dict(answer.body.get("spec") or {})
