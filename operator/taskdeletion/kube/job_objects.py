"""Jobs, pods and events as the API server has them, read into what `domain.job_states` decides on.

Used by `kube.jobs`. Sends nothing.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

from taskdeletion.domain.job_manifest import (
    ADOPTED_ANNOTATION,
    ATTEMPT_LABEL,
    CONTAINER,
    COUNTED_ANNOTATION,
    DELETION_ANNOTATION,
    REQUEST_LABEL,
    STORE_ANNOTATION,
    read_arguments,
    read_claim_name,
    read_counted,
)
from taskdeletion.domain.job_states import EventSeen, Finish, JobSeen, PodSeen
from taskdeletion.domain.job_work import JobWork, parse_arguments

_INDEX_LABEL: Final = "batch.kubernetes.io/job-completion-index"


def read_job(item: Mapping[str, Any]) -> JobSeen:
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    attempt = labels.get(ATTEMPT_LABEL, "")
    kind, reason, message = _find_finish(status)
    uncounted = status.get("uncountedTerminatedPods") or {}
    waiting = sum(len(uids or ()) for uids in uncounted.values())
    return JobSeen(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        owner=labels.get(REQUEST_LABEL, ""),
        attempt=int(attempt) if attempt.isdecimal() else 0,
        work=_find_work(item),
        adopted_by=annotations.get(ADOPTED_ANNOTATION, ""),
        is_suspended=spec.get("suspend") is True,
        is_deleting="deletionTimestamp" in metadata,
        finish=kind,
        finish_reason=reason,
        finish_message=message,
        busy=(status.get("active") or 0) + (status.get("terminating") or 0) + waiting,
        ended=(status.get("succeeded") or 0) + (status.get("failed") or 0),
        created_at=metadata["creationTimestamp"],
        claim=read_claim_name(item),
        store=annotations.get(STORE_ANNOTATION, ""),
        deletion=annotations.get(DELETION_ANNOTATION, ""),
        counted=read_counted(annotations.get(COUNTED_ANNOTATION, "")),
    )


def _find_work(item: Mapping[str, Any]) -> JobWork | None:
    try:
        return parse_arguments(read_arguments(item))
    except ValueError:
        return None


def _find_finish(status: Mapping[str, Any]) -> tuple[Finish | None, str, str]:
    for condition in status.get("conditions") or ():
        if condition.get("status") != "True":
            continue
        if condition["type"] in ("Complete", "Failed"):
            kind: Finish = "Complete" if condition["type"] == "Complete" else "Failed"
            return kind, condition.get("reason") or "", condition.get("message") or ""
    return None, "", ""


def read_pod(item: Mapping[str, Any]) -> PodSeen:
    metadata, spec, status = item["metadata"], item["spec"], item.get("status") or {}
    index = (metadata.get("labels") or {}).get(_INDEX_LABEL, "0")
    statuses = [one for one in status.get("containerStatuses") or () if one.get("name") == CONTAINER]
    state: Mapping[str, Any] = statuses[0].get("state") or {} if statuses else {}
    waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
    return PodSeen(
        name=metadata["name"],
        uid=metadata["uid"],
        created_at=metadata["creationTimestamp"],
        phase=status.get("phase") or "Pending",
        node=spec.get("nodeName") or "",
        index=int(index) if index.isdecimal() else 0,
        unschedulable=_find_unschedulable(status),
        waiting=waiting.get("reason") or "",
        waiting_message=waiting.get("message") or "",
        exit_reason=ended.get("reason") or status.get("reason") or "",
        exit_code=ended.get("exitCode"),
        message=status.get("message") or "",
    )


def _find_unschedulable(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("message") or condition.get("reason") or "no node fits"
    return ""


def read_event(about: Literal["Job", "Pod"], item: Mapping[str, Any]) -> EventSeen:
    series = item.get("series") or {}
    last_at = series.get("lastObservedTime") or item.get("lastTimestamp") or item.get("eventTime") or ""
    return EventSeen(about, item.get("reason") or "", item.get("message") or "", last_at)
