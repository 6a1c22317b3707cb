"""A bare kopf operator that writes as much as ours and does nothing else: `python -m bench.peers.bare_kopf`.

Started by `bench.lines.operator` beside the same API server. For each TaskDeletion it makes as many status patches as
ours does for a small request, of kopf's own making and about as large, and posts as many Events if told to. It reads
no TaskStore and no Secret, and touches no store. KUBECONFIG says where the API server is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import kopf

PATCHES = 3
EVENT_AT = (1, PATCHES)  # with its first patch and with its last one, as ours
KINDS = ("Accepted", "Reconciling", "Ready")


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers.bare_kopf")
    parser.add_argument("--events", action="store_true", help="post Events, too")
    with_events: bool = parser.parse_args(arguments).events
    kopf.run(registry=build_registry(with_events=with_events), settings=build_settings(), clusterwide=True)
    return 0


def build_settings() -> kopf.OperatorSettings:
    """kopf as it comes, except that it neither turns its log lines into Events nor looks for other operators."""
    settings = kopf.OperatorSettings()
    settings.posting.loggers = False
    settings.peering.standalone = True
    return settings


def build_registry(*, with_events: bool) -> kopf.OperatorRegistry:
    """One handler: each event of an object that has not ended is answered with the next patch of its status."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
        return kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.event("datapipeline.dev", "v1beta1", "taskdeletions", registry=registry)
    async def step(
        event: kopf.RawEvent, spec: kopf.Spec, status: kopf.Status, patch: kopf.Patch, body: kopf.Body, **_: Any
    ) -> None:
        number = int(status.get("attempts", 0)) + 1
        if "completionTime" in status or event["type"] == "DELETED":
            return
        patch.status.update(build_status(spec["taskIds"], number, body.metadata.get("generation", 1)))
        if with_events and number in EVENT_AT:
            kopf.event(body, type="Normal", reason="Progressing", message="tasks are being deleted")

    return registry


def build_status(task_ids: Sequence[str], number: int, generation: int) -> Mapping[str, Any]:
    """A status of the shape and size that ours has at its `number`-th write; the last one has a completionTime."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = number == PATCHES
    condition = {"status": "True", "observedGeneration": generation, "lastTransitionTime": now, "reason": "Progressing"}
    status: dict[str, Any] = {
        "observedGeneration": generation,
        "phase": "Succeeded" if ended else "Running",
        "startTime": now,
        "attempts": number,
        "progress": f"{len(task_ids) if ended else 0}/{len(task_ids)}",
        "conditions": [{**condition, "type": kind, "message": "tasks are being deleted"} for kind in KINDS],
        "tasks": [build_task(task_id, ended=ended) for task_id in task_ids],
    }
    return {**status, "completionTime": now} if ended else status


def build_task(task_id: str, *, ended: bool) -> Mapping[str, Any]:
    """What status says of one task."""
    version = "2025-07-02T17:39:32.123456+00:00|completed|2025-07-02T21:45:30.123456+00:00"
    task: dict[str, Any] = {"taskId": task_id, "state": "Deleted" if ended else "Deleting", "version": version}
    if ended:
        names = ("Directory", "Redis", "MinIO", "DatabaseRecords")
        task["resources"] = [{"resource": name, "outcome": "Deleted", "count": 3, "bytes": 3000} for name in names]
    return task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
