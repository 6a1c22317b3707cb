"""The whole stack answers, keeps its data across a stop of one service, and can be used from another process."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import minio
import psycopg
import pytest
import redis

from dev.processes import ProcessFailedError, StackError
from dev.stack import Stack, start_stack

Eventually = Callable[..., None]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with start_stack() as running:
        yield running


def kubectl(stack: Stack, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None) -> str:
    result = try_kubectl(stack, *arguments, stdin=stdin, kubeconfig=kubeconfig)
    assert result.returncode == 0, result.stderr
    return result.stdout


def try_kubectl(
    stack: Stack, *arguments: str, stdin: str | None = None, kubeconfig: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [str(stack.kubernetes.kubectl), f"--kubeconfig={kubeconfig or stack.kubernetes.kubeconfig}", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True)


def minio_client(stack: Stack) -> minio.Minio:
    return minio.Minio(
        stack.minio.endpoint.removeprefix("http://"),
        access_key=stack.minio.access_key,
        secret_key=stack.minio.secret_key,
        secure=False,
    )


def test_kubectl_and_the_api_server_report_their_versions(stack: Stack) -> None:
    versions = json.loads(kubectl(stack, "version", "--output=json"))
    assert versions["serverVersion"]["gitVersion"].startswith("v1.")
    assert versions["clientVersion"]["gitVersion"].startswith("v1.")


def test_a_service_account_can_log_in_and_is_held_to_its_rights(stack: Stack, tmp_path: Path) -> None:
    token = kubectl(stack, "create", "token", "default").strip()
    kubeconfig = stack.kubernetes.write_kubeconfig(tmp_path / "kubeconfig", token=token)
    whoami = json.loads(kubectl(stack, "auth", "whoami", "--output=json", kubeconfig=kubeconfig))
    assert whoami["status"]["userInfo"]["username"] == "system:serviceaccount:default:default"
    assert "Forbidden" in try_kubectl(stack, "get", "secrets", kubeconfig=kubeconfig).stderr


def test_a_deleted_owner_takes_what_it_owns_along(stack: Stack, eventually: Eventually) -> None:
    owner = json.loads(kubectl(stack, "create", "configmap", "owner", "--output=json"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    owned = {"name": "owned", "ownerReferences": [reference]}
    document = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": owned}
    kubectl(stack, "create", "--filename=-", stdin=json.dumps(document))
    kubectl(stack, "delete", "configmap", "owner")
    eventually(lambda: "owned" not in kubectl(stack, "get", "configmaps", "--output=name"))


def test_a_deleted_namespace_goes_away_with_its_content(stack: Stack) -> None:
    kubectl(stack, "create", "namespace", "short-lived")
    kubectl(stack, "create", "configmap", "content", "--namespace=short-lived")
    kubectl(stack, "delete", "namespace", "short-lived", "--timeout=30s")


def test_the_audit_log_holds_requests_to_our_group_only(stack: Stack, eventually: Eventually) -> None:
    log = stack.kubernetes.audit_log
    assert log is not None
    kubectl(stack, "get", "namespaces")
    kubectl(stack, "get", "--raw", "/apis/rbac.authorization.k8s.io/v1/clusterroles?limit=1")
    path = "/apis/datapipeline.dev/v1beta1/namespaces/default/taskdeletions"
    try_kubectl(stack, "get", "--raw", path)
    eventually(log.read_text)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert {event["objectRef"]["apiGroup"] for event in events} == {"datapipeline.dev"}
    assert {event["stage"] for event in events} == {"ResponseComplete"}
    assert events[0]["requestURI"] == path


def test_postgres_answers_and_refuses_a_wrong_password(stack: Stack) -> None:
    with psycopg.connect(stack.postgres.url) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    wrong = stack.postgres.url.replace(stack.postgres.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_redis_answers_and_refuses_a_wrong_password(stack: Stack) -> None:
    with redis.Redis.from_url(stack.redis.url) as client:
        assert client.ping()
    wrong = stack.redis.url.replace(stack.redis.password, "wrong")
    with redis.Redis.from_url(wrong) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_minio_is_healthy(stack: Stack) -> None:
    with urllib.request.urlopen(f"{stack.minio.endpoint}/minio/health/live") as reply:
        assert reply.status == 200


def test_there_is_an_empty_directory_for_volumes(stack: Stack) -> None:
    assert stack.volumes_root == stack.state_dir / "volumes"
    assert list(stack.volumes_root.iterdir()) == []


def write_to_postgres(stack: Stack) -> None:
    with psycopg.connect(stack.postgres.url) as connection:
        connection.execute("CREATE TABLE kept (value text)")
        connection.execute("INSERT INTO kept VALUES ('still here')")


def read_from_postgres(stack: Stack) -> str:
    with psycopg.connect(stack.postgres.url) as connection:
        row: Any = connection.execute("SELECT value FROM kept").fetchone()
        return str(row[0])


def write_to_redis(stack: Stack) -> None:
    with redis.Redis.from_url(stack.redis.url) as client:
        client.set("kept", "still here")


def read_from_redis(stack: Stack) -> str:
    with redis.Redis.from_url(stack.redis.url, decode_responses=True) as client:
        return str(client.get("kept"))


def write_to_minio(stack: Stack) -> None:
    client = minio_client(stack)
    client.make_bucket("kept")
    client.put_object("kept", "object", io.BytesIO(b"still here"), 10)


def read_from_minio(stack: Stack) -> str:
    response = minio_client(stack).get_object("kept", "object")
    with response:
        return response.read().decode()


def write_to_kubernetes(stack: Stack) -> None:
    kubectl(stack, "create", "configmap", "kept", "--from-literal=value=still here")


def read_from_kubernetes(stack: Stack) -> str:
    return kubectl(stack, "get", "configmap", "kept", "--output=jsonpath={.data.value}")


@pytest.mark.parametrize(
    ("service", "port", "write", "read"),
    [
        ("postgres", "postgres", write_to_postgres, read_from_postgres),
        ("redis", "redis", write_to_redis, read_from_redis),
        ("minio", "minio", write_to_minio, read_from_minio),
        ("kubernetes", "kube-apiserver", write_to_kubernetes, read_from_kubernetes),
    ],
    ids=["postgres", "redis", "minio", "kubernetes"],
)
def test_a_stopped_service_refuses_and_comes_back_with_its_data(
    stack: Stack, service: str, port: str, write: Callable[[Stack], None], read: Callable[[Stack], str]
) -> None:
    write(stack)
    before = stack.to_json()
    stack.stop_service(service)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stack.settings.port(port)))
    stack.start_service(service)
    assert read(stack) == "still here"
    assert stack.to_json() == before


def test_an_attached_stack_has_the_same_endpoints_and_runs_processes(
    stack: Stack, tmp_path: Path, eventually: Eventually
) -> None:
    attached = Stack.attach(stack.state_dir)
    assert attached.to_json() == stack.to_json()
    pid = attached.spawn(
        "greeter", [sys.executable, "-c", "import os; print(os.getpid(), os.environ['NAME'])"], {"NAME": "x"}
    )
    eventually(lambda: stack.processes.read_log("greeter") == f"{pid} x\n")


def test_two_stacks_run_side_by_side() -> None:
    with start_stack(services=["redis"]) as one, start_stack(services=["redis"]) as other:
        with redis.Redis.from_url(one.redis.url) as client:
            client.set("whose", "one")
        with redis.Redis.from_url(other.redis.url) as client:
            assert client.get("whose") is None
        assert one.state_dir != other.state_dir


def test_a_state_directory_has_one_stack_at_a_time(tmp_path: Path) -> None:
    with start_stack(tmp_path, services=["redis"]) as first:
        with pytest.raises(StackError, match="already running"), start_stack(tmp_path, services=["redis"]):
            pass
        assert first.processes.is_running("redis")


def test_a_stack_started_again_in_its_directory_keeps_ports_and_data(tmp_path: Path) -> None:
    with start_stack(tmp_path, services=["redis"]) as stack:
        write_to_redis(stack)
        url = stack.redis.url
    with start_stack(tmp_path, services=["redis"]) as stack:
        assert stack.redis.url == url
        assert read_from_redis(stack) == "still here"


def test_a_stack_without_a_directory_of_its_own_leaves_nothing() -> None:
    with start_stack(services=["redis"]) as stack:
        assert stack.state_dir.exists()
    assert not stack.state_dir.exists()


def test_a_service_that_the_stack_lacks_is_named() -> None:
    with start_stack(services=["redis"]) as stack, pytest.raises(StackError, match="no postgres, only redis"):
        stack.postgres  # noqa: B018 - reading it is what fails


def test_a_service_that_dies_while_starting_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with start_stack(tmp_path, services=["redis"]) as stack:
        stack.stop_service("redis")
        (tmp_path / "redis" / "dump.rdb").write_bytes(b"no snapshot")
        with pytest.raises(ProcessFailedError, match=r"(?s)redis ended while starting.*Wrong signature"):
            stack.start_service("redis")
