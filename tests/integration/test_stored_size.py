"""The largest request that the API takes stays bounded: spec, kubectl's annotation, status, managedFields."""

import base64
import json
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.api.common import API_VERSION
from taskdeletion.api.task_deletion import MAX_TASK_ID_LENGTH, MAX_TASK_IDS, ResourceStatus, TaskState, TaskStatus
from taskdeletion.domain.conditions import View
from taskdeletion.domain.outcomes import RESOURCE_ORDER
from taskdeletion.kube.client import Api, connect
from taskdeletion.kube.objects import Cluster, Key
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import Record
from tests.support.kube import Kube

KIB = 1024
NAMESPACE = "stored-size"
IDS = [f"task_{number:03d}_".ljust(MAX_TASK_ID_LENGTH, "x") for number in range(MAX_TASK_IDS)]
#: 256 characters of every width, with all that JSON and Go escape.
MESSAGE = ('"\\<&>\u2028é日本😀 timeout' * 20)[:256]
VERSION = "2025-07-02T17:39:32.123456+00:00|partial_completed|2025-07-02T21:45:30.123456+00:00"
LONGEST = (
    reasons.DIRECTORY_REAPPEARED,
    reasons.AUTHENTICATION_FAILED,
    reasons.DATABASE_ERROR,
    reasons.FOREIGN_KEY_REFERENCES,
)
DELETED_AT = datetime(2025, 7, 2, 21, 45, 30, tzinfo=UTC)
FILES, BYTES = 9_999_999, 9_999_999_999_999  # ten million files and ten terabytes in each task


@pytest.fixture(scope="module")
def api(stack: Stack) -> Iterator[Api]:
    """The operator's own login."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(stack.kubernetes.kubeconfig))
        found = connect(pool_size=2)
    yield found
    found.close()


@pytest.fixture(scope="module", autouse=True)
def namespace(kube: Kube) -> str:
    kube.create_namespace(NAMESPACE)
    return NAMESPACE


def build_task(task_id: str, state: TaskState) -> TaskStatus:
    is_final = state != "Deleting"
    return TaskStatus(
        task_id=task_id,
        state=state,
        reason=reasons.BACKOFF_LIMIT_EXCEEDED,
        message=MESSAGE,
        version=VERSION,
        claimed=True,
        directory_deleted=False if is_final else None,
        database_records_deleted=False if is_final else None,
        deleted_files_count=FILES,
        deleted_size="10.0 TB",
        deleted_at=DELETED_AT if is_final else None,
        resources=[
            ResourceStatus(
                resource=resource,
                outcome="Failed",
                reason=reason,
                message=MESSAGE,
                retriable=True,
                count=FILES,
                bytes=BYTES if resource in ("Directory", "MinIO") else None,
            )
            for resource, reason in zip(RESOURCE_ORDER, LONGEST, strict=True)
        ],
    )


def apply_and_fail(kube: Kube, api: Api, name: str, state: TaskState) -> None:
    """`kubectl apply` the largest request, and let the operator write that every task failed everywhere."""
    kube.apply(
        [
            {
                "apiVersion": API_VERSION,
                "kind": "TaskDeletion",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"taskIds": IDS, "confirm": True, "tasksCreatedBefore": "2025-07-31T00:00:00Z"},
            }
        ]
    )
    cluster = Cluster(api)
    live = cluster.read(Key("TaskDeletion", NAMESPACE, name))
    assert live is not None
    record = Record(cluster, Ownership(lambda _: None), live, clock=time.monotonic)
    record.put(*(build_task(task_id, state) for task_id in IDS))
    record.change(phase="PartiallyFailed", attempts=7, cutoff=DELETED_AT, store_uid=live.uid)
    record.change(start_time=record.now, completion_time=record.now if state != "Deleting" else None)
    stage = View("failed" if state != "Deleting" else "running", reasons.TASKS_NOT_DELETED, MESSAGE * 4)
    record.write(stage)


def read_stored(kube: Kube, stack: Stack, name: str) -> tuple[dict[str, Any], int, int]:
    """The object, its bytes as kubectl gets it, and its bytes in etcd."""
    shown = json.loads(kube.kubectl("get", "td", name, "-n", NAMESPACE, "-o", "json", "--show-managed-fields").encode())
    key = f"/registry/datapipeline.dev/taskdeletions/{NAMESPACE}/{name}"
    question = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
    url = f"http://127.0.0.1:{stack.settings.port('etcd')}/v3/kv/range"
    with urllib.request.urlopen(url, data=question, timeout=30) as answer:
        value = base64.b64decode(json.load(answer)["kvs"][0]["value"])
    assert json.loads(value)["metadata"]["uid"] == shown["metadata"]["uid"]
    return shown, len(json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode()), len(value)


def assert_nothing_is_lost(shown: dict[str, Any], state: TaskState) -> None:
    tasks = shown["status"]["tasks"]
    assert [task["taskId"] for task in tasks] == IDS
    for task in tasks:
        assert (task["state"], task["reason"]) == (state, reasons.BACKOFF_LIMIT_EXCEEDED)
        found = [(one["resource"], one["outcome"], one["reason"], one["count"]) for one in task["resources"]]
        assert found == [(name, "Failed", why, FILES) for name, why in zip(RESOURCE_ORDER, LONGEST, strict=True)]
        assert [one.get("bytes") for one in task["resources"]] == [BYTES, None, BYTES, None]
    assert shown["status"]["summary"]["failed"] == (MAX_TASK_IDS if state != "Deleting" else 0)
    assert shown["status"]["summary"]["filesDeleted"] == MAX_TASK_IDS * FILES


def test_500_of_the_longest_ids_that_fail_everywhere_stay_under_512_kib(kube: Kube, api: Api, stack: Stack) -> None:
    apply_and_fail(kube, api, "all-failed", "PartiallyFailed")
    shown, shown_bytes, stored_bytes = read_stored(kube, stack, "all-failed")

    assert "kubectl.kubernetes.io/last-applied-configuration" in shown["metadata"]["annotations"]
    assert len(shown["metadata"]["managedFields"]) == 2
    assert_nothing_is_lost(shown, "PartiallyFailed")
    assert shown_bytes < 512 * KIB
    assert stored_bytes < 512 * KIB


def test_while_they_are_still_tried_again_they_stay_far_below_what_etcd_takes(
    kube: Kube, api: Api, stack: Stack
) -> None:
    """An open task keeps what its next attempt needs: its version, its claim, and what is retriable."""
    apply_and_fail(kube, api, "still-open", "Deleting")
    shown, shown_bytes, stored_bytes = read_stored(kube, stack, "still-open")

    assert_nothing_is_lost(shown, "Deleting")
    assert {(task["version"], task["claimed"]) for task in shown["status"]["tasks"]} == {(VERSION, True)}
    assert shown_bytes < 600 * KIB
    assert stored_bytes < 600 * KIB


def test_people_can_look_at_it(kube: Kube, api: Api) -> None:
    apply_and_fail(kube, api, "to-look-at", "PartiallyFailed")
    described = kube.kubectl("describe", "td", "to-look-at", "-n", NAMESPACE)

    assert described.count(reasons.BACKOFF_LIMIT_EXCEEDED) >= MAX_TASK_IDS
    assert "500/500" in kube.kubectl("get", "td", "to-look-at", "-n", NAMESPACE, "-o", "wide")


def test_it_can_be_applied_again(kube: Kube, api: Api) -> None:
    apply_and_fail(kube, api, "applied-again", "PartiallyFailed")
    manifest = kube.kubectl("get", "td", "applied-again", "-n", NAMESPACE, "-o", "json")
    spec = {**json.loads(manifest)["spec"], "ttlSecondsAfterFinished": 3600}
    found = {"apiVersion": API_VERSION, "kind": "TaskDeletion", "spec": spec}
    answer = kube.kubectl(
        "apply", "-f", "-", stdin=json.dumps({**found, "metadata": {"name": "applied-again", "namespace": NAMESPACE}})
    )

    assert "configured" in answer
