"""Reads a Secret that a TaskStore names. Called through `kube.objects.Cluster`; nothing is cached, Secrets rotate.

A Secret that is not there or not readable is a waiting fault: somebody will create it or grant the right.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.client import Api, KubeForbidden, KubeRejected, quoted


@dataclass(frozen=True, slots=True)
class SecretData:
    """The decoded values of a Secret; they never appear in its repr. `resource_version` changes when it is rotated."""

    data: Mapping[str, bytes] = field(repr=False)
    resource_version: str


def read_secret(api: Api, namespace: str, name: str) -> SecretData:
    """Read one Secret. Raises Fault (waiting: SecretNotFound, SecretForbidden) and KubeUnavailable."""
    try:
        body = api.request("GET", quoted("api", "v1", "namespaces", namespace, "secrets", name)).body
    except KubeRejected as error:
        if error.status != 404:
            raise
        message = f"Secret {name} does not exist in namespace {namespace}; create it"
        raise Fault("waiting", reasons.SECRET_NOT_FOUND, message) from error
    except KubeForbidden as error:
        if error.status != 403:
            raise
        message = f"the operator may not read Secret {name} in namespace {namespace}; grant it 'get' on Secrets there"
        raise Fault("waiting", reasons.SECRET_FORBIDDEN, message) from error
    values = {key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()}
    return SecretData(values, body["metadata"]["resourceVersion"])
