"""Jobs, their pods, logs and events, and claims, as the executor for Jobs needs them; see docs/adr/0015-jobs.md.

A Job is created suspended. What lets it run, or marks it as adopted, names the version that was read, so that a request
of a former leader that arrives late changes nothing. It decides nothing about tasks.
"""

# ruff: noqa: N818 - an exception is named for what is the case

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import PodLog, parse_log
from taskdeletion.domain.job_manifest import ADOPTED_ANNOTATION, CONTAINER, REQUEST_LABEL, is_same_job
from taskdeletion.domain.job_states import ClaimSeen, EventSeen, JobSeen, PodSeen, explain_creation_refusal
from taskdeletion.kube.client import MERGE_PATCH, KubeForbidden, KubeRejected, KubeUnavailable, quoted
from taskdeletion.kube.job_objects import read_event, read_job, read_pod
from taskdeletion.kube.logs import LogApi
from taskdeletion.kube.objects import LIST_ATTEMPTS

#: More than a pod of ours ever writes.
LOG_LIMIT_BYTES: Final = 4 << 20
_PAGE_SIZE: Final = 100
_PATCH_ATTEMPTS: Final = 10
_UID_LABEL: Final = "batch.kubernetes.io/controller-uid"


class JobChanged(Exception):
    """The Job is another by now, or is gone: read it again."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs of any namespace. Safe for many threads. All methods raise KubeUnavailable and KubeForbidden."""

    api: LogApi

    # --- changing ---------------------------------------------------------------------------------------------------
    def create(self, manifest: Mapping[str, Any]) -> JobSeen:
        """Create it, suspended, or find it under its name. Raises Fault (waiting) where that is not possible."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        try:
            return read_job(self.api.request("POST", _path(namespace), body=manifest).body)
        except KubeForbidden as error:
            if error.status != 403:
                raise
            raise explain_creation_refusal(str(error)) from error
        except KubeRejected as error:
            if error.reason != "AlreadyExists":
                raise
        found = self._get(_path(namespace, name))
        if found is None:
            raise KubeUnavailable(f"Job {name} was there and is gone; try again")
        if not is_same_job(found, manifest):
            message = f"Job {name} in this namespace is not the operator's own; find out who made it, and delete it"
            raise Fault("waiting", reasons.JOB_NOT_OURS, message)
        return read_job(found)

    def release(self, job: JobSeen) -> JobSeen:
        """Let it run. Raises JobChanged where somebody else adopted it since it was read, or it is gone."""
        return self._patch_again(job, {"spec": {"suspend": False}}, adopted_by=job.adopted_by)

    def adopt(self, job: JobSeen, identity: str) -> JobSeen:
        """Make it our own, so that no release that another one sent arrives any more. Raises JobChanged: gone."""
        return self._patch_again(job, {"metadata": {"annotations": {ADOPTED_ANNOTATION: identity}}}, adopted_by=None)

    def delete(self, job: JobSeen) -> None:
        """Delete exactly this Job; it stays visible until all of its pods are gone. Gone already is fine."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": job.uid},
            "propagationPolicy": "Foreground",
        }
        try:
            self.api.request("DELETE", _path(job.namespace, job.name), body=options)
        except KubeRejected as error:
            if error.status not in {404, 409}:  # 409: the name belongs to another one by now
                raise

    def _patch_again(self, job: JobSeen, changes: Mapping[str, Any], *, adopted_by: str | None) -> JobSeen:
        """Patch the version that was read; where only the Job controller wrote meanwhile, the newer one."""
        current = job
        for _ in range(_PATCH_ATTEMPTS):
            try:
                return self._patch(current, changes)
            except JobChanged:
                found = self.read(job)
                if found is None or found.is_deleting or adopted_by not in (None, found.adopted_by):
                    raise
                current = found
        raise KubeUnavailable(f"Job {job.name} changes all the time; try again")

    def _patch(self, job: JobSeen, changes: Mapping[str, Any]) -> JobSeen:
        fixed = {"uid": job.uid, "resourceVersion": job.resource_version}
        body = {**changes, "metadata": {**changes.get("metadata", {}), **fixed}}
        path = _path(job.namespace, job.name)
        try:
            return read_job(self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH).body)
        except KubeRejected as error:
            if error.status not in {404, 409}:
                raise
            raise JobChanged(f"Job {job.name} changed since it was read") from error

    # --- reading ----------------------------------------------------------------------------------------------------
    def read(self, job: JobSeen) -> JobSeen | None:
        """The same Job as it is now; None where it is gone, or its name belongs to another one."""
        found = self._get(_path(job.namespace, job.name))
        return read_job(found) if found is not None and found["metadata"]["uid"] == job.uid else None

    def list_of(self, namespace: str, owner: str) -> list[JobSeen]:
        """All Jobs of the request with that uid."""
        return [read_job(item) for item in self._list(_path(namespace), f"{REQUEST_LABEL}={owner}")]

    def list_all(self, namespace: str) -> list[JobSeen]:
        """All Jobs of any request in the namespace, whether it still exists or not."""
        return [read_job(item) for item in self._list(_path(namespace), REQUEST_LABEL)]

    def list_pods(self, job: JobSeen) -> list[PodSeen]:
        """Its pods, by its uid: also when the Job itself is gone."""
        path = quoted("api", "v1", "namespaces", job.namespace, "pods")
        return [read_pod(item) for item in self._list(path, f"{_UID_LABEL}={job.uid}")]

    def list_events(self, job: JobSeen, pods: list[PodSeen]) -> list[EventSeen]:
        """What is said about the Job and these pods."""
        path = quoted("api", "v1", "namespaces", job.namespace, "events")
        wanted = {job.uid: "Job", **{pod.uid: "Pod" for pod in pods}}
        found = []
        for uid, kind in wanted.items():
            items = self._list(path, "", fields=f"involvedObject.uid={uid}")
            found += [read_event("Job" if kind == "Job" else "Pod", item) for item in items]
        return found

    def read_log(self, job: JobSeen, pod: PodSeen) -> PodLog | None:
        """What the pod said so far; None where there is no log (yet, or any more)."""
        path = quoted("api", "v1", "namespaces", job.namespace, "pods", pod.name, "log")
        text = self.api.read_text(path, {"container": CONTAINER, "limitBytes": LOG_LIMIT_BYTES})
        return parse_log(text) if text is not None else None

    def read_claim(self, namespace: str, name: str) -> ClaimSeen | None:
        """A PersistentVolumeClaim, or None."""
        found = self._get(quoted("api", "v1", "namespaces", namespace, "persistentvolumeclaims", name))
        if found is None:
            return None
        phase = (found.get("status") or {}).get("phase", "")
        waits = phase == "Pending" and self._waits_for_pod(found)
        modes = set((found.get("spec") or {}).get("accessModes") or ())
        return ClaimSeen(name, phase, waits, one_node=bool(modes) and modes <= {"ReadWriteOnce", "ReadWriteOncePod"})

    def find_node(self, namespace: str, claim: str) -> str:
        """The node of a pod that has the claim mounted; empty where none has."""
        for pod in self._list(quoted("api", "v1", "namespaces", namespace, "pods"), "", fields="status.phase=Running"):
            volumes = pod["spec"].get("volumes") or ()
            if any((one.get("persistentVolumeClaim") or {}).get("claimName") == claim for one in volumes):
                return str(pod["spec"].get("nodeName") or "")
        return ""

    def _waits_for_pod(self, claim: Mapping[str, Any]) -> bool:
        """The binding mode stands in the StorageClass, which is the cluster's; the claim's own events say the same."""
        namespace, uid = claim["metadata"]["namespace"], claim["metadata"]["uid"]
        path = quoted("api", "v1", "namespaces", namespace, "events")
        events = self._list(path, "", fields=f"involvedObject.uid={uid}")
        return any(item.get("reason") == "WaitForFirstConsumer" for item in events)

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            return self.api.request("GET", path).body
        except KubeRejected as error:
            if error.status == 404:
                return None
            raise

    def _list(self, path: str, labels: str, *, fields: str = "") -> list[dict[str, Any]]:
        for _ in range(LIST_ATTEMPTS):
            try:
                return list(self._pages(path, labels, fields))
            except KubeRejected as error:
                if error.status != 410:  # the list took longer than the server remembers: begin anew
                    raise
        raise KubeUnavailable(f"a list of {path} expired {LIST_ATTEMPTS} times before it was read")

    def _pages(self, path: str, labels: str, fields: str) -> Iterator[dict[str, Any]]:
        query: dict[str, str | int] = {"limit": _PAGE_SIZE}
        query |= {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        while True:
            body = self.api.request("GET", path, query=query).body
            yield from body["items"]
            token = body["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token


def _path(namespace: str, *name: str) -> str:
    return quoted("apis", "batch", "v1", "namespaces", namespace, "jobs", *name)
