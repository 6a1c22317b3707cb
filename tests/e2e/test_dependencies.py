"""A store whose parts are missing, broken or away: it says what and why, requests wait, and go on by themselves."""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from dev.pipeline import Pipeline
from dev.stack import Stack
from tests.support.kube import Kube, condition

pytestmark = pytest.mark.usefixtures("operator")


def store_condition(kube: Kube, pipeline: Pipeline, kind: str, reason: str) -> dict[str, Any]:
    """The condition of the default TaskStore once it has this reason."""
    status = kube.wait_for(
        pipeline.namespace,
        "default",
        lambda found: condition(found, kind).get("reason") == reason,
        seconds=30,
        plural="taskstores",
    )
    return dict(condition(status, kind))


def change_url(pipeline: Pipeline, **parts: str) -> str:
    return urlunsplit(urlsplit(pipeline.database_url)._replace(**parts))


def test_a_whole_store_is_ready_in_all_its_parts(kube: Kube, pipeline: Pipeline) -> None:
    store_condition(kube, pipeline, "Ready", "Ready")
    status = (kube.read(pipeline.namespace, "default", "taskstores") or {})["status"]
    kinds = {found["type"]: found["status"] for found in status["conditions"]}
    assert kinds == dict.fromkeys(["CatalogReady", "DirectoryReady", "RedisReady", "ObjectStoreReady", "Ready"], "True")
    assert status["leftovers"] == {"claimed": 0, "deleting": 0, "examples": []}


@pytest.mark.parametrize(
    ("secret", "data", "kind", "reason"),
    [
        ("pipeline-db", {"url": "postgresql://u:p@127.0.0.1:1/x"}, "CatalogReady", "Unavailable"),
        ("pipeline-db", {"url": "mysql://u:p@127.0.0.1/x"}, "CatalogReady", "SecretValueInvalid"),
        ("pipeline-db", {"url": "postgresql:///x?host=/var/run"}, "CatalogReady", "SecretValueInvalid"),
        ("pipeline-redis", {"url": "redis://127.0.0.1:1/0"}, "RedisReady", "Unavailable"),
        ("pipeline-redis", {"url": "unix:///tmp/redis.sock"}, "RedisReady", "SecretValueInvalid"),
        ("pipeline-minio", {"endpoint": "http://127.0.0.1:1"}, "ObjectStoreReady", "Unavailable"),
        ("pipeline-minio", {"endpoint": "127.0.0.1"}, "ObjectStoreReady", "SecretValueInvalid"),
        ("pipeline-minio", {"secretKey": "wrong-wrong"}, "ObjectStoreReady", "AuthenticationFailed"),
    ],
)
def test_a_broken_secret_is_named_by_the_part_that_needs_it(
    kube: Kube, pipeline: Pipeline, secret: str, data: dict[str, str], kind: str, reason: str
) -> None:
    kube.patch_secret(pipeline.namespace, secret, data)
    found = store_condition(kube, pipeline, kind, reason)
    assert found["status"] == "False"
    assert not any(value in found["message"] for value in data.values())
    others = {"CatalogReady", "DirectoryReady", "RedisReady", "ObjectStoreReady"} - {kind}
    status = (kube.read(pipeline.namespace, "default", "taskstores") or {})["status"]
    assert {condition(status, other)["status"] for other in others} == {"True"}


def test_wrong_passwords_are_told_apart_from_servers_that_are_away(
    kube: Kube, pipeline: Pipeline, stack: Stack
) -> None:
    netloc = f"{stack.postgres.user}:wrong@{stack.postgres.host}:{stack.postgres.port}"
    kube.patch_secret(pipeline.namespace, "pipeline-db", {"url": change_url(pipeline, netloc=netloc)})
    store_condition(kube, pipeline, "CatalogReady", "AuthenticationFailed")
    kube.patch_secret(pipeline.namespace, "pipeline-redis", {"url": f"redis://:wrong@127.0.0.1:{stack.redis.port}/0"})
    store_condition(kube, pipeline, "RedisReady", "AuthenticationFailed")


def test_missing_things_are_named(kube: Kube, pipeline: Pipeline) -> None:
    with pipeline.connect() as connection:
        connection.execute("ALTER TABLE data_pipeline_tasks DROP COLUMN directory_exists")
    assert "directory_exists" in store_condition(kube, pipeline, "CatalogReady", "SchemaMissing")["message"]
    pipeline.s3.remove_bucket(pipeline.bucket)
    assert "objectStore" in store_condition(kube, pipeline, "ObjectStoreReady", "BucketMissing")["message"]
    pipeline.root.rmdir()
    store_condition(kube, pipeline, "DirectoryReady", "StoreRootMissing")
    pipeline.root.parent.rmdir()
    pipeline.root.parent.parent.rmdir()
    store_condition(kube, pipeline, "DirectoryReady", "VolumeNotMounted")
    kube.kubectl("delete", "secret", "pipeline-redis", "-n", pipeline.namespace)
    assert "pipeline-redis" in store_condition(kube, pipeline, "RedisReady", "SecretNotFound")["message"]
    kube.kubectl("create", "secret", "generic", "pipeline-redis", "-n", pipeline.namespace, "--from-literal=a=b")
    assert "url" in store_condition(kube, pipeline, "RedisReady", "SecretKeyMissing")["message"]


def test_a_role_without_the_right_to_delete_is_found_before_anything_is_touched(
    kube: Kube, pipeline: Pipeline, stack: Stack
) -> None:
    role = f"reader_{pipeline.namespace.replace('-', '_')}"
    with psycopg.connect(pipeline.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'pw'").format(sql.Identifier(role)))
        connection.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}").format(sql.Identifier(role)))
    netloc = f"{role}:pw@{stack.postgres.host}:{stack.postgres.port}"
    kube.patch_secret(pipeline.namespace, "pipeline-db", {"url": change_url(pipeline, netloc=netloc)})
    store_condition(kube, pipeline, "CatalogReady", "PermissionDenied")
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"])
    kube.wait_for(
        pipeline.namespace,
        "waits",
        lambda found: condition(found, "Reconciling").get("reason") == "DependencyUnavailable",
    )
    assert pipeline.look("task_1") == before


def test_a_request_waits_while_the_migration_is_missing_and_goes_on_after_it(kube: Kube, pipeline: Pipeline) -> None:
    with pipeline.connect() as connection:
        connection.execute("ALTER TABLE data_pipeline_tasks DROP COLUMN directory_exists, DROP COLUMN updated_at")
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"])
    status = kube.wait_for(pipeline.namespace, "waits", lambda found: condition(found, "Reconciling"))
    assert "SchemaMissing" in condition(status, "Ready")["message"]
    assert pipeline.look("task_1") == before
    pipeline.migrate()
    assert kube.wait_for_end(pipeline.namespace, "waits")["phase"] == "Succeeded"
    assert pipeline.look("task_1").is_gone


def test_overlapping_stores_are_not_usable(kube: Kube, pipeline: Pipeline) -> None:
    pipeline.add_task("task_1")
    before = pipeline.look("task_1")
    twin = next(item for item in pipeline.manifests(store="twin") if item["kind"] == "TaskStore")
    kube.apply([twin])
    assert "twin" in store_condition(kube, pipeline, "Ready", "OverlappingStore")["message"]
    kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"])
    status = kube.wait_for(pipeline.namespace, "waits", lambda found: condition(found, "Reconciling"))
    assert "OverlappingStore" in condition(status, "Ready")["message"]
    assert pipeline.look("task_1") == before
    kube.delete(pipeline.namespace, "twin", plural="taskstores")
    assert kube.wait_for_end(pipeline.namespace, "waits")["phase"] == "Succeeded"


@pytest.mark.parametrize("service", ["postgres", "redis", "minio"])
def test_requests_wait_for_a_service_that_is_down_and_use_no_attempt(
    kube: Kube, pipeline: Pipeline, stack: Stack, service: str
) -> None:
    pipeline.add_task("task_1")
    stack.stop_service(service)
    try:
        kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"], deleteDatabaseRecords=True)
        status = kube.wait_for(pipeline.namespace, "waits", lambda found: condition(found, "Reconciling"), seconds=90)
        assert condition(status, "Reconciling")["reason"] == "DependencyUnavailable"
        assert "Unavailable" in condition(status, "Ready")["message"]
        assert status.get("attempts", 0) == 0
        assert (pipeline.root / "task_1").is_dir()
    finally:
        stack.start_service(service)
    status = kube.wait_for_end(pipeline.namespace, "waits", seconds=90)
    assert status["phase"] == "Succeeded"
    assert status["attempts"] == 1
    assert pipeline.look("task_1").is_gone


def test_a_rotated_secret_is_used_for_the_next_request(kube: Kube, pipeline: Pipeline, stack: Stack) -> None:
    role = f"rotating_{pipeline.namespace.replace('-', '_')}"
    with psycopg.connect(pipeline.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD 'one'").format(sql.Identifier(role)))
    place = f"{stack.postgres.host}:{stack.postgres.port}"
    for number, password in enumerate(["one", "two"]):
        with psycopg.connect(pipeline.database_url, autocommit=True) as connection:
            change = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
            connection.execute(change)
        url = change_url(pipeline, netloc=f"{role}:{password}@{place}")
        kube.patch_secret(pipeline.namespace, "pipeline-db", {"url": url})
        pipeline.add_task(f"task_{number}")
        kube.create_deletion(pipeline.namespace, f"rotate-{number}", taskIds=[f"task_{number}"])
        assert kube.wait_for_end(pipeline.namespace, f"rotate-{number}")["phase"] == "Succeeded"


def test_secrets_never_reach_status_or_events(kube: Kube, pipeline: Pipeline, stack: Stack) -> None:
    netloc = f"{stack.postgres.user}:sesame-open@{stack.postgres.host}:{stack.postgres.port}"
    kube.patch_secret(pipeline.namespace, "pipeline-db", {"url": change_url(pipeline, netloc=netloc)})
    kube.create_deletion(pipeline.namespace, "waits", taskIds=["task_1"])
    kube.wait_for(pipeline.namespace, "waits", lambda found: condition(found, "Reconciling"))
    store_condition(kube, pipeline, "CatalogReady", "AuthenticationFailed")
    everything = kube.kubectl("get", "td,tst,events", "-n", pipeline.namespace, "-o", "yaml")
    assert "sesame-open" not in everything
    assert stack.redis.password not in everything
    assert stack.minio.secret_key not in everything
