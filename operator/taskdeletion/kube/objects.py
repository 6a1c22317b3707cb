"""Typed reads and writes of our kinds: `Cluster`, the one gateway of the workflow to the Kubernetes API.

A write carries the uid and resourceVersion of the read it was computed from, so that nothing newer is ever overwritten
and no namesake is touched. It decides nothing about deletions, and it caches nothing.
"""

# ruff: noqa: N818 - an exception is named for what is the case; `except ObjectGone` reads as it is meant

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from taskdeletion.api.common import API_VERSION, GROUP, VERSION
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.api.task_store import TaskStore
from taskdeletion.kube.client import MERGE_PATCH, Answer, Api, KubeRejected, KubeUnavailable, quoted
from taskdeletion.kube.events import Event, EventPoster
from taskdeletion.kube.secrets import SecretData, read_secret

PLURALS: Mapping[str, str] = {kind.KIND: kind.PLURAL for kind in (TaskDeletion, TaskRetentionPolicy, TaskStore)}
#: Objects of up to 512 KiB: a page is text, and again as much many times over as Python's values, at the same moment.
PAGE_SIZE = 10
# A list is begun anew when its continue token has expired (410); more often than this, the server is not well.
LIST_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Names one object of ours. `kind` is TaskDeletion, TaskRetentionPolicy or TaskStore."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LiveObject:
    """One read of one object. Times are aware and in UTC; `server_time` is the API server's clock at that read."""

    key: Key
    uid: str
    resource_version: str
    generation: int
    created_at: datetime
    deleting: bool
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    server_time: datetime
    annotations: Mapping[str, str] = field(default_factory=dict)


class StatusConflict(Exception):
    """The object has another status than the one we last knew: somebody else wrote it."""


class ObjectGone(Exception):
    """The object does not exist any more, or its name belongs to another one now."""


class SpecChanged(Exception):
    """The object changed outside its status (spec, deletion, labels) since it was read; `live` is how it is now."""

    def __init__(self, live: LiveObject) -> None:
        super().__init__(f"{live.key} changed since it was read")
        self.live = live


class Cluster:
    """Our kinds, Secrets and Events in the namespaces that this operator serves. Safe for many threads.

    `namespaces`: the ones to serve, empty for all. All methods raise KubeUnavailable and KubeForbidden.
    """

    def __init__(self, api: Api, namespaces: Sequence[str] = ()) -> None:
        self._api = api
        self._namespaces = tuple(namespaces)
        self._events = EventPoster(api)

    def read(self, key: Key) -> LiveObject | None:
        """The object as it is now, or None."""
        try:
            return _live(self._api.request("GET", _path(key)), key)
        except KubeRejected as error:
            if error.status == 404:
                return None
            raise

    def list_objects(self, kind: str, namespace: str | None = None, *, page_size: int = PAGE_SIZE) -> list[LiveObject]:
        """All objects of `kind` in `namespace`; None: in every namespace that is served."""
        chosen: Sequence[str | None] = [namespace] if namespace is not None else self._namespaces or [None]
        return [live for one in chosen for live in self._list(kind, one, page_size)]

    def visit(self, kind: str, visit: Callable[[LiveObject], None], *, page_size: int = PAGE_SIZE) -> None:
        """Call `visit` with every served object of `kind`, a page in memory at a time; after a 410 with some twice."""
        for one in self._namespaces or [None]:
            for page in self._pages_again(kind, one, page_size):
                for live in page or ():
                    visit(live)

    def write_status(self, live: LiveObject, status: Mapping[str, Any]) -> LiveObject:
        """Make `status` the whole status of the object, sending what differs from `live`; without a difference nothing.

        Raises SpecChanged when only something beside the status changed since `live` was read, StatusConflict when the
        status itself did, ObjectGone when there is no such object any more. Returns the object as written.
        """
        changes = build_merge_patch(live.status, status)
        if not changes:
            return live
        metadata = {"uid": live.uid, "resourceVersion": live.resource_version}
        try:
            answer = self._api.request(
                "PATCH",
                f"{_path(live.key)}/status",
                body={"metadata": metadata, "status": changes},
                content_type=MERGE_PATCH,
            )
        except KubeRejected as error:
            return self._explain_refusal(error, live, status)
        return _live(answer, live.key)

    def delete(self, live: LiveObject) -> None:
        """Delete exactly this object, unchanged. Gone already is fine; StatusConflict when it is another by now."""
        preconditions = {"uid": live.uid, "resourceVersion": live.resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": "Background",
        }
        try:
            self._api.request("DELETE", _path(live.key), body=options)
        except KubeRejected as error:
            if error.status == 409:
                raise StatusConflict(f"{live.key} changed since it was read") from error
            if error.status != 404:
                raise

    def read_secret(self, namespace: str, name: str) -> SecretData:
        """Read one Secret. Raises Fault (waiting) when it is not there or may not be read."""
        return read_secret(self._api, namespace, name)

    def emit(self, live: LiveObject, *, type: Literal["Normal", "Warning"], reason: str, message: str) -> None:  # noqa: A002 - the API's word
        """Tell people about `live` with an Event. Never blocks and never fails; an Event can get lost."""
        involved = {
            "apiVersion": API_VERSION,
            "kind": live.key.kind,
            "namespace": live.key.namespace,
            "name": live.key.name,
            "uid": live.uid,
            "resourceVersion": live.resource_version,
        }
        self._events.post(Event(involved, type, reason, message))

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all Events are sent or given up; False when some are left after `timeout_seconds`."""
        return self._events.flush(timeout_seconds)

    def _list(self, kind: str, namespace: str | None, page_size: int) -> list[LiveObject]:
        found: list[LiveObject] = []
        for page in self._pages_again(kind, namespace, page_size):
            if page is None:
                found.clear()  # what an expired list had may be gone by now
            else:
                found += page
        return found

    def _pages_again(self, kind: str, namespace: str | None, page_size: int) -> Iterator[list[LiveObject] | None]:
        """The pages of a list; None where it expired (410) and begins anew."""
        for _ in range(LIST_ATTEMPTS):
            try:
                yield from self._pages(kind, namespace, page_size)
            except KubeRejected as error:
                if error.status != 410:
                    raise
                yield None
            else:
                return
        raise KubeUnavailable(f"a list of {PLURALS[kind]} expired {LIST_ATTEMPTS} times before it was read")

    def _pages(self, kind: str, namespace: str | None, page_size: int) -> Iterator[list[LiveObject]]:
        query: dict[str, str | int] = {"limit": page_size}
        while True:
            answer = self._api.request("GET", _collection(kind, namespace), query=query)
            yield [_live_item(kind, item, answer.server_time) for item in answer.body["items"]]
            token = answer.body["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def _explain_refusal(self, error: KubeRejected, live: LiveObject, status: Mapping[str, Any]) -> LiveObject:
        """Why a status write was refused. Returns the object where an earlier try of the same write had succeeded."""
        if error.status not in {404, 409}:
            raise error
        now = self.read(live.key) if error.status == 409 else None
        if now is None or now.uid != live.uid:
            raise ObjectGone(f"{live.key} (uid {live.uid}) is gone") from error
        if now.status == live.status:
            raise SpecChanged(now) from error
        if now.status != status:
            raise StatusConflict(f"the status of {live.key} was written by another") from error
        if now.generation != live.generation or now.deleting != live.deleting:
            raise SpecChanged(now) from error
        return now


def build_merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that turns `old` into `new`: lists as a whole, None for what is to go."""
    patch: dict[str, Any] = {name: None for name in old if name not in new}
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = build_merge_patch(before, value)
            if inner:
                patch[name] = inner
        elif before != value:
            patch[name] = value
    return patch


def _collection(kind: str, namespace: str | None) -> str:
    scope = ["namespaces", namespace] if namespace is not None else []
    return quoted("apis", GROUP, VERSION, *scope, PLURALS[kind])


def _path(key: Key) -> str:
    return _collection(key.kind, key.namespace) + quoted(key.name)


def _live(answer: Answer, key: Key) -> LiveObject:
    return _live_item(key.kind, answer.body, answer.server_time)


def _live_item(kind: str, item: Mapping[str, Any], server_time: datetime) -> LiveObject:
    metadata = item["metadata"]
    return LiveObject(
        key=Key(kind, metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        spec=item.get("spec") or {},
        status=item.get("status") or {},
        server_time=server_time,
        annotations=metadata.get("annotations") or {},
    )
