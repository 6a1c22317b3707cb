"""The main job, with the operator as a process: somebody creates a TaskDeletion, data goes, the status is true."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from minio.commonconfig import GOVERNANCE
from minio.objectlockconfig import DAYS, ObjectLockConfig
from psycopg import sql

from dev.pipeline import Pipeline, wait_until
from dev.stack import Stack
from taskdeletion.kube.client import MERGE_PATCH
from tests.support.kube import GROUP_PATH, Kube, condition, resource
from tests.support.process import OperatorProcess

pytestmark = pytest.mark.usefixtures("operator")
Task = dict[str, Any]


def end(kube: Kube, pipeline: Pipeline, name: str, **spec: Any) -> dict[str, Any]:
    """Create a TaskDeletion and wait for its end."""
    kube.create_deletion(pipeline.namespace, name, **spec)
    return kube.wait_for_end(pipeline.namespace, name)


def states(status: dict[str, Any]) -> list[str]:
    return [task["state"] for task in status["tasks"]]


def outcomes(task: Task) -> dict[str, tuple[str, str | None]]:
    return {found["resource"]: (found["outcome"], found.get("reason")) for found in task["resources"]}


def test_a_finished_task_is_deleted_and_its_rows_are_kept_and_marked(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", files=15, file_bytes=1000, keys=3, objects=4)
    status = end(kube, pipeline, "one", taskIds=["task_1"])
    left = pipeline.look("task_1")
    assert left.is_gone
    assert left.row is not None
    assert left.row["directory_exists"] is False
    assert left.steps == 2
    assert status["phase"] == "Succeeded"
    task = status["tasks"][0]
    assert (task["state"], task["directoryDeleted"], task["databaseRecordsDeleted"]) == ("Deleted", True, False)
    assert (task["deletedFilesCount"], task["deletedSize"]) == (15, "15.0 kB")
    assert resource(task, "Directory") == {"resource": "Directory", "outcome": "Deleted", "count": 15, "bytes": 15000}
    assert resource(task, "Redis")["count"] == 3
    assert resource(task, "MinIO")["count"] == 4
    assert status["summary"]["bytesFreed"] == 15000 + 4 * 500
    assert status["progress"] == "1/1"


def test_neighbours_with_similar_ids_are_untouched(kube: Kube, pipeline: Pipeline) -> None:
    neighbours = ["task_10", "task_1.x", "task_1-a", "task_", "xtask_1", "task_11"]
    for task_id in ["task_1", *neighbours]:
        pipeline.add_task(task_id)
    before = {task_id: pipeline.look(task_id) for task_id in neighbours}
    end(kube, pipeline, "one", taskIds=["task_1"], deleteDatabaseRecords=True)
    assert pipeline.look("task_1").row is None
    assert {task_id: pipeline.look(task_id) for task_id in neighbours} == before


def test_records_go_last_when_asked_for(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", steps=3)
    status = end(kube, pipeline, "rows", taskIds=["task_1"], deleteDatabaseRecords=True)
    left = pipeline.look("task_1")
    assert left.is_gone
    assert (left.row, left.steps) == (None, 0)
    assert resource(status["tasks"][0], "DatabaseRecords")["count"] == 4
    assert status["tasks"][0]["databaseRecordsDeleted"] is True
    assert status["summary"]["recordsDeleted"] == 4


def test_three_identical_requests_that_keep_the_rows_give_the_same_answer(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    answers = [end(kube, pipeline, f"same-{number}", taskIds=["task_1"]) for number in range(3)]
    assert [states(answer) for answer in answers] == [["Deleted"]] * 3
    assert {answer["phase"] for answer in answers} == {"Succeeded"}
    for answer in answers[1:]:
        assert outcomes(answer["tasks"][0]) == {
            "Directory": ("Skipped", "Absent"),
            "Redis": ("Skipped", "Absent"),
            "MinIO": ("Skipped", "Absent"),
            "DatabaseRecords": ("Skipped", "KeptByRequest"),
        }
        assert answer["summary"]["bytesFreed"] == 0


def test_a_task_without_a_row_touches_nothing_every_time(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", row=False)
    before = pipeline.look("task_1")
    for name, policy, phase in (("a", "Fail", "Failed"), ("b", "Ignore", "Succeeded"), ("c", "Fail", "Failed")):
        status = end(kube, pipeline, name, taskIds=["task_1"], notFoundPolicy=policy)
        assert states(status) == ["NotFound"]
        assert status["phase"] == phase
        assert status["summary"]["notFound"] == 1
    assert pipeline.look("task_1") == before


def test_force_alone_does_not_clean_what_the_catalog_does_not_know(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", row=False)
    before = pipeline.look("task_1")
    assert states(end(kube, pipeline, "forced", taskIds=["task_1"], force=True)) == ["NotFound"]
    assert pipeline.look("task_1") == before


def test_force_with_ignore_cleans_what_the_catalog_does_not_know(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", row=False)
    status = end(kube, pipeline, "forced", taskIds=["task_1"], force=True, notFoundPolicy="Ignore")
    assert states(status) == ["Deleted"]
    assert pipeline.look("task_1").is_gone


@pytest.mark.parametrize(
    ("status", "step_status"),
    [("in_progress", "completed"), ("pending", "completed"), ("completed", "running"), ("Completed", "completed")],
)
def test_a_task_that_may_be_running_is_refused(kube: Kube, pipeline: Pipeline, status: str, step_status: str) -> None:
    pipeline.add_task("task_1", status=status, step_status=step_status)
    before = pipeline.look("task_1")
    found = end(kube, pipeline, "refused", taskIds=["task_1"])
    assert states(found) == ["Refused"]
    assert found["tasks"][0]["reason"] == "TaskRunning"
    assert found["phase"] == "Failed"
    assert pipeline.look("task_1") == before


def test_force_deletes_a_task_that_is_stuck(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", status="in_progress", step_status="running")
    assert states(end(kube, pipeline, "forced", taskIds=["task_1"], force=True)) == ["Deleted"]
    left = pipeline.look("task_1")
    assert left.is_gone
    assert left.row is not None
    assert left.row["status"] == "in_progress"


def test_a_task_that_is_newer_than_its_request_is_refused_even_with_force(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", created_at=datetime.now(UTC) + timedelta(hours=1))
    pipeline.add_task("task_2", created_at=datetime(2025, 8, 1, tzinfo=UTC))
    before = [pipeline.look("task_1"), pipeline.look("task_2")]
    found = end(kube, pipeline, "new", taskIds=["task_1"], force=True)
    assert found["tasks"][0]["reason"] == "TaskNewerThanRequest"
    cutoff = end(kube, pipeline, "git", taskIds=["task_2"], tasksCreatedBefore="2025-07-31T00:00:00Z", force=True)
    assert cutoff["tasks"][0]["reason"] == "TaskNewerThanRequest"
    assert cutoff["cutoff"] == "2025-07-31T00:00:00Z"
    assert [pipeline.look("task_1"), pipeline.look("task_2")] == before


def test_a_dry_run_counts_and_deletes_nothing(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", files=7, keys=3, objects=4, steps=2)
    pipeline.add_task("task_2", status="in_progress")
    before = [pipeline.look("task_1"), pipeline.look("task_2")]
    status = end(kube, pipeline, "dry", taskIds=["task_1", "task_2"], dryRun=True, deleteDatabaseRecords=True)
    assert states(status) == ["WouldDelete", "Refused"]
    assert [pipeline.look("task_1"), pipeline.look("task_2")] == before
    summary = status["summary"]
    assert (summary["wouldFreeFiles"], summary["wouldFreeBytes"]) == (7, 7000 + 4 * 500)
    assert (summary["wouldFreeRedisKeys"], summary["wouldFreeObjects"], summary["wouldFreeRecords"]) == (3, 4, 3)
    assert {name: summary[name] for name in ("filesDeleted", "bytesFreed", "redisKeysDeleted", "recordsDeleted")} == {
        "filesDeleted": 0,
        "bytesFreed": 0,
        "redisKeysDeleted": 0,
        "recordsDeleted": 0,
    }
    assert "directoryDeleted" not in status["tasks"][0]


def test_the_first_error_stops_the_rest_without_continue_on_error(kube: Kube, pipeline: Pipeline) -> None:
    for task_id, word in (("task_b", "completed"), ("task_a", "in_progress"), ("task_c", "completed")):
        pipeline.add_task(task_id, status=word)
    before = pipeline.look("task_c")
    status = end(kube, pipeline, "stop", taskIds=["task_b", "task_a", "task_c"], continueOnError=False)
    assert [task["taskId"] for task in status["tasks"]] == ["task_b", "task_a", "task_c"]
    assert states(status) == ["Deleted", "Refused", "NotAttempted"]
    assert condition(status, "Failed")["reason"] == "StoppedOnError"
    assert status["summary"]["skipped"] == 1
    assert pipeline.look("task_b").is_gone
    assert pipeline.look("task_c") == before


def test_rows_of_other_tables_that_would_go_with_a_task_refuse_it(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    pipeline.add_task("task_2")
    with pipeline.connect() as connection:
        connection.execute(
            "CREATE TABLE reports (id int PRIMARY KEY, task_id varchar(128)"
            " REFERENCES data_pipeline_tasks ON DELETE CASCADE)"
        )
        connection.execute("INSERT INTO reports VALUES (1, 'task_1')")
    before = pipeline.look("task_1")
    status = end(kube, pipeline, "rows", taskIds=["task_1", "task_2"], deleteDatabaseRecords=True)
    assert states(status) == ["Refused", "Deleted"]
    assert status["tasks"][0]["reason"] == "ForeignKeyReferences"
    assert "reports" in status["tasks"][0]["message"]
    assert pipeline.look("task_1") == before
    with pipeline.connect() as connection:
        assert connection.execute("SELECT count(*) FROM reports").fetchone() == (1,)


def test_rows_that_stay_do_not_mind_foreign_keys(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    with pipeline.connect() as connection:
        connection.execute(
            "CREATE TABLE reports (task_id varchar(128) REFERENCES data_pipeline_tasks ON DELETE CASCADE)"
        )
        connection.execute("INSERT INTO reports VALUES ('task_1')")
    assert states(end(kube, pipeline, "files", taskIds=["task_1"])) == ["Deleted"]


def test_objects_under_a_lock_are_retained_and_say_so(kube: Kube, pipeline: Pipeline) -> None:
    bucket = f"{pipeline.bucket}-locked"
    pipeline.s3.make_bucket(bucket, object_lock=True)
    pipeline.s3.set_object_lock_config(bucket, ObjectLockConfig(GOVERNANCE, 1, DAYS))
    pipeline.bucket = bucket
    store = pipeline.manifests(store="locked")
    kube.delete(pipeline.namespace, "default", plural="taskstores")
    kube.apply(store)
    pipeline.add_task("task_1")
    status = end(kube, pipeline, "locked", taskIds=["task_1"], storeRef={"name": "locked"}, deleteDatabaseRecords=True)
    task = status["tasks"][0]
    assert task["state"] == "PartiallyFailed"
    assert outcomes(task)["MinIO"] == ("Retained", "ObjectLocked")
    assert outcomes(task)["DatabaseRecords"][0] == "NotAttempted"
    left = pipeline.look("task_1")
    assert left.objects == 2
    assert left.row is not None
    assert left.row["directory_exists"] is True


def test_a_request_waits_for_a_store_and_goes_on_by_itself(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    store = next(item for item in pipeline.manifests(store="later") if item["kind"] == "TaskStore")
    kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"], storeRef={"name": "later"})
    status = kube.wait_for(pipeline.namespace, "waits", lambda found: condition(found, "Reconciling"))
    assert condition(status, "Reconciling")["reason"] == "DependencyUnavailable"
    assert "StoreNotFound" in condition(status, "Ready")["message"]
    kube.delete(pipeline.namespace, "default", plural="taskstores")
    kube.apply([store])
    assert states(kube.wait_for_end(pipeline.namespace, "waits")) == ["Deleted"]


def test_a_suspended_request_does_nothing_until_it_is_resumed(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    kube.create_deletion(pipeline.namespace, "sleeper", taskIds=["task_1"], suspend=True)
    status = kube.wait_for(pipeline.namespace, "sleeper", lambda found: found.get("phase") == "Suspended")
    assert condition(status, "Ready")["reason"] == "Suspended"
    assert not condition(status, "Reconciling")
    assert "startTime" not in status
    assert pipeline.look("task_1") == before
    kube.patch(pipeline.namespace, "sleeper", {"spec": {"suspend": False}})
    assert states(kube.wait_for_end(pipeline.namespace, "sleeper")) == ["Deleted"]


def test_a_finished_request_goes_after_its_time_to_live(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    kube.create_deletion(pipeline.namespace, "short", taskIds=["task_1"], ttlSecondsAfterFinished=1)
    wait_until(lambda: kube.read(pipeline.namespace, "short") is None, seconds=20, what="the time to live")
    assert pipeline.look("task_1").is_gone


def test_a_time_to_live_that_is_set_later_counts_too(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    end(kube, pipeline, "later", taskIds=["task_1"])
    kube.patch(pipeline.namespace, "later", {"spec": {"ttlSecondsAfterFinished": 0}})
    wait_until(lambda: kube.read(pipeline.namespace, "later") is None, seconds=20, what="the time to live")


def test_an_edit_after_the_end_is_acknowledged_and_changes_nothing_else(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    ended = end(kube, pipeline, "edited", taskIds=["task_1"])
    kube.patch(pipeline.namespace, "edited", {"spec": {"suspend": True}})
    status = kube.wait_for(pipeline.namespace, "edited", lambda found: found["observedGeneration"] == 2)
    assert {found["observedGeneration"] for found in status["conditions"]} == {2}
    assert status["tasks"] == ended["tasks"]
    assert (status["phase"], status["completionTime"]) == (ended["phase"], ended["completionTime"])
    kube.kubectl("wait", "--for=condition=Complete", "td/edited", "-n", pipeline.namespace, "--timeout=10s")


def test_a_role_that_cannot_delete_rows_may_still_free_the_rest(kube: Kube, pipeline: Pipeline, stack: Stack) -> None:
    role = f"keeper_{pipeline.namespace.replace('-', '_')}"
    with pipeline.connect() as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw'").format(sql.Identifier(role)))
        grant = "GRANT SELECT, UPDATE ON data_pipeline_tasks TO {0}; GRANT SELECT ON data_pipeline_task_steps TO {0}"
        connection.execute(sql.SQL(grant).format(sql.Identifier(role)))
    place = f"{role}:pw@{stack.postgres.host}:{stack.postgres.port}"
    url = urlunsplit(urlsplit(pipeline.database_url)._replace(netloc=place))
    kube.patch_secret(pipeline.namespace, "pipeline-db", {"url": url})
    for task_id in ("task_1", "task_2"):
        pipeline.add_task(task_id)
    before = pipeline.look("task_2")
    assert states(end(kube, pipeline, "kept", taskIds=["task_1"])) == ["Deleted"]
    status = end(kube, pipeline, "rows", taskIds=["task_2"], deleteDatabaseRecords=True)
    assert states(status) == ["Failed"]
    assert status["tasks"][0]["reason"] == "PermissionDenied"
    assert pipeline.look("task_2") == before


def test_rows_of_a_refused_task_that_refer_to_another_refuse_it_too(kube: Kube, pipeline: Pipeline) -> None:
    with pipeline.connect() as connection:
        connection.execute(
            "ALTER TABLE data_pipeline_tasks ADD COLUMN parent varchar(128) REFERENCES data_pipeline_tasks"
        )
    pipeline.add_task("task_parent")
    pipeline.add_task("task_child", status="in_progress")
    with pipeline.connect() as connection:
        connection.execute("UPDATE data_pipeline_tasks SET parent = 'task_parent' WHERE task_id = 'task_child'")
    before = pipeline.look("task_parent")
    status = end(kube, pipeline, "family", taskIds=["task_parent", "task_child"], deleteDatabaseRecords=True)
    assert [task["reason"] for task in status["tasks"]] == ["ForeignKeyReferences", "TaskRunning"]
    assert pipeline.look("task_parent") == before


def test_a_deadline_ends_a_request_that_waits(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    status = end(kube, pipeline, "late", taskIds=["task_1"], storeRef={"name": "nowhere"}, activeDeadlineSeconds=2)
    assert status["phase"] == "Failed"
    assert condition(status, "Failed")["reason"] == "DeadlineExceeded"
    assert states(status) == ["NotAttempted"]
    assert pipeline.look("task_1") == before


def test_a_store_without_catalog_needs_force(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", row=False)
    before = pipeline.look("task_1")
    kube.delete(pipeline.namespace, "default", plural="taskstores")
    kube.apply(pipeline.manifests(store="blind", catalog=None))
    refused = end(kube, pipeline, "unforced", taskIds=["task_1"], storeRef={"name": "blind"})
    assert condition(refused, "Accepted")["status"] == "False"
    assert condition(refused, "Failed")["reason"] == "CatalogRequired"
    assert pipeline.look("task_1") == before
    forced = end(kube, pipeline, "forced", taskIds=["task_1"], storeRef={"name": "blind"}, force=True)
    assert states(forced) == ["Deleted"]
    assert pipeline.look("task_1").is_gone


def test_a_task_named_like_a_prefix_never_takes_the_objects_of_others(kube: Kube, pipeline: Pipeline) -> None:
    for task_id, word in (("tasks", "completed"), ("task_2", "in_progress")):
        pipeline.add_task(task_id, status=word)
    before = pipeline.look("task_2")
    kube.delete(pipeline.namespace, "default", plural="taskstores")
    stores = pipeline.manifests(store="nested")
    stores[-1]["spec"]["objectStore"]["prefixes"] = ["{taskId}/", "tasks/{taskId}/"]
    kube.apply(stores)
    kube.create_deletion(pipeline.namespace, "nested", taskIds=["tasks"], storeRef={"name": "nested"})
    status = kube.wait_for(pipeline.namespace, "nested", lambda found: condition(found, "Reconciling"))
    assert "StoreInvalid" in condition(status, "Ready")["message"]
    assert pipeline.look("task_2") == before


def test_a_status_written_by_others_names_no_task_and_no_later_cutoff(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1", created_at=datetime.now(UTC) + timedelta(hours=1))
    pipeline.add_task("task_2")
    before = [pipeline.look("task_1"), pipeline.look("task_2")]
    kube.create_deletion(pipeline.namespace, "forged", taskIds=["task_1"], suspend=True)
    kube.wait_for(pipeline.namespace, "forged", lambda found: found.get("phase") == "Suspended")
    tasks = [{"taskId": task_id, "state": "Pending"} for task_id in ("task_1", "task_2")]
    forged = {"status": {"cutoff": "2099-01-01T00:00:00Z", "tasks": tasks}}
    path = f"{GROUP_PATH}/namespaces/{pipeline.namespace}/taskdeletions/forged/status"
    kube.api.request("PATCH", path, body=forged, content_type=MERGE_PATCH)
    kube.patch(pipeline.namespace, "forged", {"spec": {"suspend": False}})
    status = kube.wait_for_end(pipeline.namespace, "forged")
    assert [(task["taskId"], task["reason"]) for task in status["tasks"]] == [("task_1", "TaskNewerThanRequest")]
    assert [pipeline.look("task_1"), pipeline.look("task_2")] == before


def test_a_store_that_knows_no_directory_never_says_that_it_is_gone(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    kube.delete(pipeline.namespace, "default", plural="taskstores")
    kube.apply(pipeline.manifests(store="objects-only", directory=None, redis=None))
    status = end(kube, pipeline, "objects", taskIds=["task_1"], storeRef={"name": "objects-only"})
    assert outcomes(status["tasks"][0]) == {
        "MinIO": ("Deleted", None),
        "DatabaseRecords": ("Skipped", "KeptByRequest"),
    }
    left = pipeline.look("task_1")
    assert (left.directory, left.objects) == (3, 0)
    assert left.row is not None
    assert left.row["directory_exists"] is True


def test_people_can_wait_for_conditions_and_see_events(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    kube.create_deletion(pipeline.namespace, "seen", taskIds=["task_1"])
    kube.kubectl("wait", "--for=condition=Complete", "td/seen", "-n", pipeline.namespace, "--timeout=30s")

    def reasons() -> set[str]:
        return {event["reason"] for event in kube.events(pipeline.namespace, "seen")}

    wait_until(lambda: reasons() >= {"Progressing", "Succeeded"}, what="both Events")
    described = kube.kubectl("describe", "td", "seen", "-n", pipeline.namespace)
    assert "Succeeded" in described


def test_success_and_failure_carry_the_conditions_of_the_table(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    good = end(kube, pipeline, "good", taskIds=["task_1"])
    bad = end(kube, pipeline, "bad", taskIds=["task_x"])
    summary = [{found["type"]: found["status"] for found in status["conditions"]} for status in (good, bad)]
    assert summary[0] == {"Accepted": "True", "Ready": "True", "Complete": "True"}
    assert summary[1] == {
        "Accepted": "True",
        "Stalled": "True",
        "Ready": "False",
        "FailureTarget": "True",
        "Failed": "True",
    }


def test_a_hundred_thousand_files_are_counted_exactly(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_big", files=0)
    for number in range(100):
        folder = pipeline.root / "task_big" / f"d{number}"
        folder.mkdir()
        for file in range(1000):
            (folder / f"f{file}").touch()
    status = end(kube, pipeline, "big", taskIds=["task_big"])
    assert status["tasks"][0]["deletedFilesCount"] == 100_000
    assert pipeline.look("task_big").is_gone


def test_many_tasks_in_one_request_are_all_deleted(kube: Kube, pipeline: Pipeline) -> None:
    ids = [f"task_{number}" for number in range(120)]
    for task_id in ids:
        pipeline.add_task(task_id, files=1, keys=1, objects=1, steps=1)
    status = end(kube, pipeline, "many", taskIds=ids)
    assert set(states(status)) == {"Deleted"}
    assert status["progress"] == "120/120"
    assert all(pipeline.look(task_id).is_gone for task_id in ids[::10])
    assert status["summary"]["filesDeleted"] == 120


def test_the_operator_is_still_the_same_process(operator: OperatorProcess) -> None:
    assert operator.process.poll() is None
