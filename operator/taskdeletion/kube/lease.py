"""The Lease of the operator on the wire: read, claim, renew, give back; each write names the version it was read as.

Called by `controller.candidacy`, with a connection of its own that waits for nobody. It decides nothing, tries nothing
twice, and reads no time that another machine has written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from taskdeletion.domain.election import Lease, LeaseChanged, LeaseUnknown
from taskdeletion.kube.client import JSON, MERGE_PATCH, Api, KubeForbidden, KubeRejected, KubeUnavailable, quoted

API_VERSION = "coordination.k8s.io/v1"


@dataclass(frozen=True, slots=True)
class LeaseObject:
    """One Lease, as the process `identity` knows it. `seconds`: for how long it wants it left alone, whole seconds.

    Every method raises LeaseUnknown; those that write also LeaseChanged.
    """

    api: Api
    namespace: str
    name: str
    identity: str
    seconds: int

    def read(self) -> Lease | None:
        """The Lease as it is now, or None."""
        try:
            return _lease_of(self._send("GET"))
        except LeaseChanged:
            return None

    def claim(self, over: Lease | None) -> Lease:
        """Become its holder: of the Lease `over`, unchanged, or of a new one where that is None."""
        now = _now()
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": self.seconds,
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": over.transitions + 1 if over is not None else 0,
        }
        return _lease_of(self._write(over, spec) if over is not None else self._create(spec))

    def renew(self, lease: Lease) -> Lease:
        """Stay its holder."""
        return _lease_of(self._write(lease, {"leaseDurationSeconds": self.seconds, "renewTime": _now()}))

    def release(self, lease: Lease) -> None:
        """Give it back: whoever sees that may take it at once."""
        self._write(lease, {"holderIdentity": "", "renewTime": _now()})

    def _create(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        metadata = {"name": self.name, "namespace": self.namespace}
        body = {"apiVersion": API_VERSION, "kind": "Lease", "metadata": metadata, "spec": spec}
        return self._send("POST", body)

    def _write(self, lease: Lease, spec: Mapping[str, Any]) -> dict[str, Any]:
        return self._send("PATCH", {"metadata": {"resourceVersion": lease.version}, "spec": spec})

    def _send(self, method: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        path = quoted("apis", "coordination.k8s.io", "v1", "namespaces", self.namespace, "leases")
        path += "" if method == "POST" else quoted(self.name)
        content_type = MERGE_PATCH if method == "PATCH" else JSON
        try:
            return self.api.request(method, path, body=body, content_type=content_type, attempts=1).body
        except KubeRejected as error:
            if error.status == 409 or (error.status == 404 and method != "POST"):
                raise LeaseChanged(str(error)) from error
            raise LeaseUnknown(str(error)) from error
        except (KubeUnavailable, KubeForbidden) as error:
            raise LeaseUnknown(str(error)) from error


def _lease_of(body: Mapping[str, Any]) -> Lease:
    spec = body.get("spec") or {}
    return Lease(
        version=body["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        beat=spec.get("renewTime") or "",
        seconds=spec.get("leaseDurationSeconds") or 0,
        transitions=spec.get("leaseTransitions") or 0,
    )


def _now() -> str:
    """For people, who read it in `kubectl get lease`; and another one each time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
