"""What a real operator tells Prometheus of real work: counts of what went, who waits for what, who leads."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dev.pipeline import Pipeline, wait_until
from dev.settings import free_port
from dev.stack import Stack
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from tests.support.kube import GROUP_PATH, Kube, operator_environment
from tests.support.process import OperatorProcess, running_operator
from tests.support.scraping import Scrape, scrape


@pytest.fixture(scope="module")
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def operator(
    stack: Stack, kube: Kube, address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("metrics") / "operator.log"
    with running_operator(operator_environment(stack, TASKDELETION_METRICS_ADDRESS=address), log) as process:
        wait_until(lambda: is_served(address), what="metrics")
        yield process
        if keep := os.environ.get("KEEP_SCRAPE"):
            Path(keep).write_text(scrape(address).text)


def is_served(address: str) -> bool:
    with suppress(OSError):
        scrape(address)
        return True
    return False


pytestmark = pytest.mark.usefixtures("operator")


def wait_for(address: str, name: str, value: float, **labels: str) -> Scrape:
    """The first page on which the samples of this name and with these labels add up to `value`."""
    found: list[Scrape] = []

    def look() -> bool:
        found.append(scrape(address))
        return bool(found[-1].values(name, **labels)) and found[-1].total(name, **labels) == value

    wait_until(look, what=f"{name} {labels} = {value}")
    return found[-1]


def test_what_a_request_deleted_is_counted_once(kube: Kube, pipeline: Pipeline, address: str) -> None:
    pipeline.add_task("task_1", files=15, file_bytes=1000, keys=3, objects=4)
    pipeline.add_task("task_2", files=5, file_bytes=100, keys=1, objects=0)
    where = {"object_namespace": pipeline.namespace}
    kube.create_deletion(pipeline.namespace, "look", taskIds=["task_1"], dryRun=True)
    kube.wait_for_end(pipeline.namespace, "look")
    kube.create_deletion(pipeline.namespace, "one", taskIds=["task_1", "task_2"], deleteDatabaseRecords=True)
    status = kube.wait_for_end(pipeline.namespace, "one")
    page = wait_for(address, "taskdeletion_ended_requests_total", 2, **where)
    summary = status["summary"]
    assert page.total("taskdeletion_deleted_files_total", **where) == summary["filesDeleted"] == 20
    assert page.total("taskdeletion_deleted_redis_keys_total", **where) == summary["redisKeysDeleted"]
    assert page.total("taskdeletion_deleted_objects_total", **where) == summary["objectsDeleted"] == 4
    assert page.total("taskdeletion_deleted_records_total", **where) == summary["recordsDeleted"]
    assert page.total("taskdeletion_freed_bytes_total", **where) == summary["bytesFreed"]
    assert page.total("taskdeletion_tasks_total", state="Deleted", **where) == 2
    assert page.total("taskdeletion_tasks_total", state="WouldDelete", **where) == 1
    ended = {"phase": "Succeeded", "reason": "Succeeded"}
    assert page.total("taskdeletion_ended_requests_total", dry_run="false", **ended, **where) == 1
    assert page.total("taskdeletion_request_duration_seconds_count", phase="Succeeded", dry_run="false") >= 1
    for name in ("attempt", "claim"):
        assert page.total(f"taskdeletion_{name}_duration_seconds_count") >= 2
    assert page.total("taskdeletion_step_duration_seconds_count", resource="DatabaseRecords") >= 1
    assert page.total("taskdeletion_api_requests_total", verb="PATCH", code="200") > 0


def test_a_request_that_waits_says_for_what_until_it_is_there(kube: Kube, pipeline: Pipeline, address: str) -> None:
    pipeline.add_task("task_1")
    where = {"object_namespace": pipeline.namespace, "reason": "StoreNotFound"}
    kube.create_deletion(pipeline.namespace, "early", taskIds=["task_1"], storeRef={"name": "later"})
    page = wait_for(address, "taskdeletion_waiting_requests", 1, **where)
    assert page.total("taskdeletion_live_requests", phase="Pending") >= 1
    kube.delete(pipeline.namespace, "early")
    wait_until(lambda: not scrape(address).values("taskdeletion_waiting_requests", **where), what="nobody waits")


def test_a_part_that_is_away_is_down_and_its_store_goes_with_all_of_its_series(
    kube: Kube, pipeline: Pipeline, address: str
) -> None:
    where = {"object_namespace": pipeline.namespace, "store": "default"}
    wait_for(address, "taskdeletion_dependency_up", 4, **where)
    kube.patch_secret(pipeline.namespace, "pipeline-redis", {"url": f"redis://127.0.0.1:{free_port()}/0"})
    page = wait_for(address, "taskdeletion_store_ready", 0, **where)
    assert page.total("taskdeletion_dependency_up", **where) == 3
    assert page.values("taskdeletion_dependency_problems", part="Redis", reason="Unavailable", **where) == [1]
    kube.delete(pipeline.namespace, "default", "taskstores")
    wait_until(lambda: pipeline.namespace not in stores_of(scrape(address)), what="no series of the store")


def stores_of(page: Scrape) -> set[str]:
    return {labels["object_namespace"] for _, labels, _ in page.samples() if "store" in labels}


def test_tasks_that_may_not_go_are_counted_by_reason_and_the_failure_has_its_time(
    kube: Kube, pipeline: Pipeline, address: str
) -> None:
    pipeline.add_task("task_1", status="in_progress")
    kube.create_deletion(pipeline.namespace, "busy", taskIds=["task_1", "task_2"])
    kube.wait_for_end(pipeline.namespace, "busy")
    where = {"object_namespace": pipeline.namespace}
    page = wait_for(address, "taskdeletion_tasks_total", 2, **where)
    assert page.total("taskdeletion_tasks_total", state="Refused", reason="TaskRunning", **where) == 1
    assert page.total("taskdeletion_tasks_total", state="NotFound", **where) == 1
    assert page.total("taskdeletion_ended_requests_total", phase="Failed", **where) == 1
    wait_until(
        lambda: scrape(address).total("taskdeletion_last_failure_timestamp_seconds", **where) > 1.7e9, what="its time"
    )


def test_a_policy_shows_its_next_run_and_is_forgotten_with_its_series(
    kube: Kube, pipeline: Pipeline, address: str
) -> None:
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": TaskRetentionPolicy.KIND,
        "metadata": {"name": "nightly", "namespace": pipeline.namespace},
        "spec": {"schedule": "0 2 * * *", "rules": [{"statuses": ["completed"], "olderThan": "30d"}]},
    }
    kube.create(f"{GROUP_PATH}/namespaces/{pipeline.namespace}/taskretentionpolicies", body)
    where = {"object_namespace": pipeline.namespace, "policy": "nightly"}
    page = wait_for(address, "taskdeletion_policy_ready", 1, reason="Scheduled", **where)
    assert page.total("taskdeletion_policy_next_schedule_timestamp_seconds", **where) > 1.7e9
    assert page.values("taskdeletion_policy_lag_seconds", **where) == [0]
    kube.delete(pipeline.namespace, "nightly", "taskretentionpolicies")
    wait_until(lambda: not scrape(address).values("taskdeletion_policy_ready", **where), what="no series of it")


def test_the_process_itself_is_seen(address: str) -> None:
    page = scrape(address)
    assert page.values("taskdeletion_leader") == [1]
    assert page.values("taskdeletion_workers") == [8]
    assert page.total("process_resident_memory_bytes") > 1e6
    assert page.values("taskdeletion_build_info") == [1]
    assert page.total("taskdeletion_reconcile_errors_total", error="unforeseen") == 0


def test_a_standby_shows_that_it_does_not_lead(stack: Stack, pipeline: Pipeline, tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]

    def environment(address: str) -> dict[str, str]:
        return operator_environment(
            stack,
            TASKDELETION_NAMESPACES=pipeline.namespace,
            TASKDELETION_LEADER_ELECTION="true",
            TASKDELETION_LEASE_NAMESPACE=pipeline.namespace,
            TASKDELETION_METRICS_ADDRESS=address,
        )

    def leads(address: str) -> list[float]:
        return scrape(address).values("taskdeletion_leader") if is_served(address) else []

    with running_operator(environment(addresses[0]), tmp_path / "first.log") as first:
        wait_until(lambda: leads(addresses[0]) == [1], what="the first to lead")
        with running_operator(environment(addresses[1]), tmp_path / "second.log"):
            wait_until(lambda: leads(addresses[1]) == [0], what="the second to stand by")
            first.kill()
            wait_until(lambda: leads(addresses[1]) == [1], what="the second to lead")
