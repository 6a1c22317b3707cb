"""Creates, lists, releases and deletes the TaskDeletions of a policy.

Used by the workflow of policies only; it decides nothing. A release and a deletion carry the uid of the read that they
were decided on, and where it matters its resourceVersion.
"""

# ruff: noqa: N818 - an exception is named for what is the case

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from taskdeletion.api.common import GROUP, VERSION
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.domain.runs import DRAFT_ANNOTATION, POLICY_LABEL, RUN_LABEL, Child
from taskdeletion.kube.client import MERGE_PATCH, Api, KubeRejected, KubeUnavailable, quoted
from taskdeletion.kube.objects import LIST_ATTEMPTS, PAGE_SIZE


class NameTaken(Exception):
    """There is a TaskDeletion of that name already: `child`."""

    def __init__(self, child: Child) -> None:
        super().__init__(child.name)
        self.child = child


class ChildChanged(Exception):
    """The TaskDeletion changed since it was read, or is gone."""


@dataclass(frozen=True, slots=True)
class Children:
    """TaskDeletions by the policy that they are labelled with. Safe for many threads.

    All methods raise KubeUnavailable and KubeForbidden.
    """

    api: Api

    def list(self, namespace: str, policy: str) -> list[Child]:
        """Every TaskDeletion with the label of this policy, whoever owns it."""
        for _ in range(LIST_ATTEMPTS):
            try:
                return list(self._pages(namespace, policy))
            except KubeRejected as error:
                if error.status != 410:  # the list took longer than the server remembers: begin anew
                    raise
        raise KubeUnavailable(f"a list of TaskDeletions expired {LIST_ATTEMPTS} times before it was read")

    def create(self, manifest: Mapping[str, Any]) -> Child:
        """Create one. Raises NameTaken, also where an earlier try of the same request arrived."""
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        try:
            return read_child(self.api.request("POST", _collection(namespace), body=manifest).body)
        except KubeRejected as error:
            if error.reason != "AlreadyExists":
                raise
        found = self.read(namespace, name)
        if found is None:
            raise KubeUnavailable(f"TaskDeletion {name} was there and is gone; try again")
        raise NameTaken(found)

    def bind(self, namespace: str, child: Child, store_uid: str) -> Child:
        """Let it work on this TaskStore only, and on no namesake. Raises ChildChanged where it is gone."""
        body = {"metadata": {"uid": child.uid}, "status": {"storeUid": store_uid}}
        try:
            path = _path(namespace, child.name) + "/status"
            return read_child(self.api.request("PATCH", path, body=body, content_type=MERGE_PATCH).body)
        except KubeRejected as error:
            if error.status not in {404, 409}:
                raise
            raise ChildChanged(child.name) from error

    def read(self, namespace: str, name: str) -> Child | None:
        """One as it is now, or None."""
        try:
            return read_child(self.api.request("GET", _path(namespace, name)).body)
        except KubeRejected as error:
            if error.status == 404:
                return None
            raise

    def release(self, namespace: str, child: Child) -> None:
        """Let it begin: not suspended, and no draft any more, at once. Raises ChildChanged where it is gone."""
        body = {
            "metadata": {
                "uid": child.uid,
                "annotations": {DRAFT_ANNOTATION: None},
            },
            "spec": {"suspend": False},
        }
        try:
            self.api.request("PATCH", _path(namespace, child.name), body=body, content_type=MERGE_PATCH)
        except KubeRejected as error:
            if error.status not in {404, 409}:
                raise
            raise ChildChanged(child.name) from error

    def delete(self, namespace: str, child: Child, *, unchanged: bool = True) -> None:
        """Delete exactly this one; gone already is fine. Raises ChildChanged where it changed (if `unchanged`)."""
        preconditions = {"uid": child.uid, **({"resourceVersion": child.resource_version} if unchanged else {})}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": "Background",
        }
        try:
            self.api.request("DELETE", _path(namespace, child.name), body=options)
        except KubeRejected as error:
            if error.status == 409:
                raise ChildChanged(child.name) from error
            if error.status != 404:
                raise

    def _pages(self, namespace: str, policy: str) -> Iterator[Child]:
        query: dict[str, str | int] = {"labelSelector": f"{POLICY_LABEL}={policy}", "limit": PAGE_SIZE}
        while True:
            body = self.api.request("GET", _collection(namespace), query=query).body
            for item in body["items"]:
                yield read_child(item)
            token = body["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token


def read_child(item: Mapping[str, Any]) -> Child:
    """A TaskDeletion, as far as a policy needs to know it."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    owners = metadata.get("ownerReferences") or []
    summary = status.get("summary") or {}
    verdict = _verdict_of(status)
    ended_at = status.get("completionTime")
    return Child(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        owner_uid=next((owner["uid"] for owner in owners if owner.get("controller")), ""),
        run=(metadata.get("labels") or {}).get(RUN_LABEL, ""),
        draft=(metadata.get("annotations") or {}).get(DRAFT_ANNOTATION, ""),
        is_suspended=spec.get("suspend") is True,
        has_begun="startTime" in status or verdict is not None,
        verdict=verdict,
        ended_at=datetime.fromisoformat(ended_at) if ended_at else None,
        task_ids=frozenset(spec.get("taskIds") or ()) if verdict is None else frozenset(),
        deleted=summary.get("deleted", 0),
        failed=_count_undone(spec, summary) if verdict == "Failed" else 0,
        bytes_freed=summary.get("bytesFreed", 0),
    )


def _verdict_of(status: Mapping[str, Any]) -> Literal["Complete", "Failed"] | None:
    held = {found.get("type") for found in status.get("conditions") or () if found.get("status") == "True"}
    if "Complete" in held:
        return "Complete"
    return "Failed" if "Failed" in held else None


def _count_undone(spec: Mapping[str, Any], summary: Mapping[str, int]) -> int:
    ignored = summary.get("notFound", 0) if spec.get("notFoundPolicy") == "Ignore" else 0
    return summary.get("requested", 0) - summary.get("deleted", 0) - ignored


def _collection(namespace: str) -> str:
    return quoted("apis", GROUP, VERSION, "namespaces", namespace, TaskDeletion.PLURAL)


def _path(namespace: str, name: str) -> str:
    return _collection(namespace) + quoted(name)
