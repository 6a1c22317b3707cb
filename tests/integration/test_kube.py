"""The room `kube` against a real API server: reads, lists, status writes and conflicts, deletes, Secrets, Events."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config

from dev.stack import Stack
from taskdeletion.api import reasons
from taskdeletion.api.common import API_VERSION
from taskdeletion.domain.faults import Fault
from taskdeletion.kube import client
from taskdeletion.kube.client import Api, KubeForbidden, KubeRejected, KubeUnavailable, connect
from taskdeletion.kube.objects import Cluster, Key, LiveObject, ObjectGone, SpecChanged, StatusConflict

CRDS = Path(__file__).parents[2] / "crds"
PATIENCE_SECONDS = 60
STATUS = {"observedGeneration": 1, "phase": "Running", "progress": "0/1", "summary": {"requested": 1, "deleted": 0}}


@dataclass(frozen=True)
class World:
    """One namespace of the real cluster, seen by kubectl and by the room under test."""

    stack: Stack
    namespace: str
    cluster: Cluster
    log_in: Callable[[str], Api]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        server = self.stack.kubernetes
        command = [str(server.kubectl), f"--kubeconfig={server.kubeconfig}", f"--namespace={self.namespace}"]
        return subprocess.run(
            [*command, *arguments], input=stdin, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True
        ).stdout

    def create(self, name: str) -> LiveObject:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "TaskDeletion",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"taskIds": ["task_1"], "confirm": True},
        }
        self.kubectl("create", "-f", "-", stdin=json.dumps(manifest))
        return self.read(name)

    def read(self, name: str) -> LiveObject:
        live = self.cluster.read(Key("TaskDeletion", self.namespace, name))
        assert live is not None
        return live

    def patch(self, name: str, patch: dict[str, Any], *options: str) -> None:
        self.kubectl("patch", "taskdeletion", name, "--type=merge", "-p", json.dumps(patch), *options)

    def remove(self, name: str) -> None:
        self.kubectl("delete", "taskdeletion", name)


@pytest.fixture(scope="module")
def log_in(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Api]]:
    directory = tmp_path_factory.mktemp("kube")
    apis: list[Api] = []

    def start(token: str) -> Api:
        path = stack.kubernetes.write_kubeconfig(directory / f"kubeconfig-{len(apis)}", token=token)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KUBECONFIG", str(path))
            apis.append(connect(pool_size=8))
        return apis[-1]

    yield start
    for api in apis:
        api.close()


@pytest.fixture(scope="module")
def world(stack: Stack, log_in: Callable[[str], Api]) -> Iterator[World]:
    namespace = f"kube-{uuid.uuid4().hex[:8]}"
    found = World(stack, namespace, Cluster(log_in(stack.kubernetes.admin_token)), log_in)
    found.kubectl("apply", "--server-side", "-f", str(CRDS))
    found.kubectl("wait", "--for=condition=Established", f"--timeout={PATIENCE_SECONDS}s", "-f", str(CRDS))
    found.kubectl("create", "namespace", namespace)
    yield found
    found.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.fixture
def live(world: World) -> LiveObject:
    return world.create(f"td-{uuid.uuid4().hex[:8]}")


@pytest.fixture
def powerless(world: World) -> Cluster:
    """The room logged in as a service account without any right."""
    name = f"sa-{uuid.uuid4().hex[:8]}"
    world.kubectl("create", "serviceaccount", name)
    return Cluster(world.log_in(world.kubectl("create", "token", name).strip()))


def test_a_read_has_everything_and_the_servers_own_time(world: World, live: LiveObject) -> None:
    assert live.key.namespace == world.namespace
    assert live.generation == 1
    assert live.deleting is False
    assert live.spec["taskIds"] == ["task_1"]
    assert live.spec["storeRef"] == {"name": "default"}
    assert live.status == {"observedGeneration": -1}
    assert live.server_time.tzinfo is UTC
    assert timedelta(0) <= live.server_time - live.created_at < timedelta(seconds=PATIENCE_SECONDS)
    assert abs(datetime.now(UTC) - live.server_time) < timedelta(seconds=PATIENCE_SECONDS)


def test_a_missing_object_is_none(world: World) -> None:
    assert world.cluster.read(Key("TaskStore", world.namespace, "absent")) is None


def test_a_deletion_that_waits_for_a_finalizer_is_seen(world: World, live: LiveObject) -> None:
    world.patch(live.key.name, {"metadata": {"finalizers": ["test.example/hold"]}})
    world.kubectl("delete", "taskdeletion", live.key.name, "--wait=false")

    assert world.read(live.key.name).deleting is True
    world.patch(live.key.name, {"metadata": {"finalizers": None}})


def test_a_status_write_sets_changes_and_removes(world: World, live: LiveObject) -> None:
    first = world.cluster.write_status(live, STATUS)
    second = world.cluster.write_status(first, {"observedGeneration": 1, "phase": "Failed", "summary": {"deleted": 1}})

    assert first.resource_version != live.resource_version
    assert (first.status["phase"], first.status["progress"]) == ("Running", "0/1")
    assert "progress" not in second.status
    assert (second.status["phase"], second.status["summary"]["deleted"]) == ("Failed", 1)
    assert second.generation == 1
    assert world.read(live.key.name) == replace(second, server_time=world.read(live.key.name).server_time)


def test_a_status_that_does_not_differ_is_not_sent(world: World, live: LiveObject) -> None:
    written = world.cluster.write_status(live, STATUS)

    assert world.cluster.write_status(written, written.status) is written
    assert world.read(live.key.name).resource_version == written.resource_version


@pytest.mark.parametrize(
    "change", [{"spec": {"suspend": True}}, {"metadata": {"labels": {"team": "x"}}}], ids=["spec", "labels"]
)
def test_a_change_beside_the_status_has_to_be_seen_first(
    world: World, live: LiveObject, change: dict[str, Any]
) -> None:
    world.patch(live.key.name, change)

    with pytest.raises(SpecChanged) as found:
        world.cluster.write_status(live, STATUS)
    assert found.value.live.spec.get("suspend", False) is ("spec" in change)
    assert world.read(live.key.name).status == live.status
    assert world.cluster.write_status(found.value.live, STATUS).status["phase"] == "Running"


def test_a_status_written_by_another_is_a_conflict_and_stays(world: World, live: LiveObject) -> None:
    world.patch(live.key.name, {"status": {"phase": "Suspended"}}, "--subresource=status")

    with pytest.raises(StatusConflict):
        world.cluster.write_status(live, STATUS)
    assert world.read(live.key.name).status["phase"] == "Suspended"


def test_an_object_that_was_deleted_is_gone(world: World, live: LiveObject) -> None:
    world.remove(live.key.name)

    with pytest.raises(ObjectGone):
        world.cluster.write_status(live, STATUS)


def test_a_namesake_is_never_written_to(world: World, live: LiveObject) -> None:
    world.remove(live.key.name)
    namesake = world.create(live.key.name)

    with pytest.raises(ObjectGone):
        world.cluster.write_status(live, STATUS)
    assert world.read(live.key.name).status == namesake.status


def test_a_status_that_the_schema_forbids_is_refused_with_the_field(world: World, live: LiveObject) -> None:
    with pytest.raises(KubeRejected, match=r"422 Invalid: .*status\.phase"):
        world.cluster.write_status(live, {"phase": "Happy"})


def test_of_many_writers_exactly_one_wins(world: World, live: LiveObject) -> None:
    def write(number: int) -> str:
        try:
            world.cluster.write_status(live, {**STATUS, "attempts": number})
        except StatusConflict:
            return "conflict"
        return "written"

    with ThreadPoolExecutor(16) as pool:
        outcomes = sorted(pool.map(write, range(1, 17)))
    assert outcomes == ["conflict"] * 15 + ["written"]


def test_a_delete_takes_exactly_the_object_that_was_read(world: World, live: LiveObject) -> None:
    world.cluster.delete(live)

    assert world.cluster.read(live.key) is None
    world.cluster.delete(live)  # gone already


def test_a_delete_leaves_a_changed_object(world: World, live: LiveObject) -> None:
    world.patch(live.key.name, {"spec": {"ttlSecondsAfterFinished": 3600}})

    with pytest.raises(StatusConflict):
        world.cluster.delete(live)
    assert world.read(live.key.name).uid == live.uid


def test_a_delete_leaves_a_namesake(world: World, live: LiveObject) -> None:
    world.remove(live.key.name)
    namesake = world.create(live.key.name)

    with pytest.raises(StatusConflict):
        world.cluster.delete(live)
    assert world.read(live.key.name).uid == namesake.uid


def test_a_list_reads_page_after_page(world: World) -> None:
    names = {f"page-{number}" for number in range(5)}
    created = {world.create(name).uid for name in names}
    found = world.cluster.list_objects("TaskDeletion", world.namespace, page_size=2)
    everywhere = world.cluster.list_objects("TaskDeletion", page_size=2)
    chosen = Cluster(world.log_in(world.stack.kubernetes.admin_token), ["absent", world.namespace])

    assert created <= {live.uid for live in found}
    assert len(found) == len({live.key for live in found})
    assert created <= {live.uid for live in everywhere}
    assert {live.uid for live in chosen.list_objects("TaskDeletion")} == {live.uid for live in found}
    assert world.cluster.list_objects("TaskStore", world.namespace) == []
    visited: list[str] = []
    chosen.visit("TaskDeletion", lambda live: visited.append(live.uid), page_size=2)
    assert sorted(visited) == sorted(live.uid for live in found)


def test_a_secret_is_read_decoded_and_seen_to_rotate(world: World) -> None:
    world.kubectl("create", "secret", "generic", "db", "--from-literal=url=postgresql://u:p@h/d")
    before = world.cluster.read_secret(world.namespace, "db")
    world.kubectl("patch", "secret", "db", "-p", json.dumps({"stringData": {"url": "other"}}))
    after = world.cluster.read_secret(world.namespace, "db")

    assert before.data == {"url": b"postgresql://u:p@h/d"}
    assert after.data == {"url": b"other"}
    assert before.resource_version != after.resource_version


def test_an_empty_secret_has_no_values(world: World) -> None:
    world.kubectl("create", "secret", "generic", "empty")

    assert world.cluster.read_secret(world.namespace, "empty").data == {}


def test_a_missing_secret_is_waited_for(world: World) -> None:
    with pytest.raises(Fault, match="create it") as found:
        world.cluster.read_secret(world.namespace, "absent")
    assert (found.value.kind, found.value.reason) == ("waiting", reasons.SECRET_NOT_FOUND)


def test_a_secret_that_may_not_be_read_is_waited_for(world: World, powerless: Cluster) -> None:
    with pytest.raises(Fault, match="grant") as found:
        powerless.read_secret(world.namespace, "absent")
    assert (found.value.kind, found.value.reason) == ("waiting", reasons.SECRET_FORBIDDEN)


def test_a_missing_right_on_our_kinds_is_forbidden(powerless: Cluster, live: LiveObject) -> None:
    for attempt in (
        lambda: powerless.read(live.key),
        lambda: powerless.list_objects("TaskDeletion"),
        lambda: powerless.write_status(live, STATUS),
        lambda: powerless.delete(live),
    ):
        with pytest.raises(KubeForbidden, match="cannot") as found:
            attempt()
        assert found.value.status == 403


def test_a_wrong_token_is_forbidden(world: World, live: LiveObject) -> None:
    stranger = Cluster(world.log_in("wrong"))

    with pytest.raises(KubeForbidden) as found:
        stranger.read(live.key)
    assert found.value.status == 401
    with pytest.raises(KubeForbidden):
        stranger.read_secret(world.namespace, "db")


def test_events_arrive_and_are_about_the_object(world: World, live: LiveObject) -> None:
    world.cluster.emit(live, type="Normal", reason="Accepted", message="it begins")
    world.cluster.emit(live, type="Warning", reason="Retrying", message="ü" * 2000)

    assert world.cluster.flush(PATIENCE_SECONDS)
    found = json.loads(world.kubectl("get", "events", f"--field-selector=involvedObject.uid={live.uid}", "-o", "json"))[
        "items"
    ]
    by_reason = {event["reason"]: event for event in found}
    assert set(by_reason) == {"Accepted", "Retrying"}
    assert by_reason["Accepted"]["message"] == "it begins"
    assert by_reason["Accepted"]["involvedObject"]["kind"] == "TaskDeletion"
    assert len(by_reason["Retrying"]["message"].encode()) <= 1024
    described = world.kubectl("describe", "taskdeletion", live.key.name)
    assert "it begins" in described


def test_events_that_may_not_be_written_disturb_nothing(powerless: Cluster, live: LiveObject) -> None:
    powerless.emit(live, type="Normal", reason="Accepted", message="it begins")

    assert powerless.flush(PATIENCE_SECONDS)


def test_a_pod_logs_in_with_its_service_account(
    world: World, live: LiveObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = world.stack.kubernetes
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text(server.admin_token)
    authority.write_bytes(server.ca_file.read_bytes())
    host, port = server.url.removeprefix("https://").split(":")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    monkeypatch.setattr(client, "SERVICE_TOKEN_FILENAME", str(token))
    api = connect(pool_size=1)

    found = Cluster(api).read(live.key)
    assert found is not None
    assert found.uid == live.uid
    api.close()


def test_a_wrong_authority_is_unavailable(world: World, live: LiveObject, tmp_path: Path) -> None:
    server = world.stack.kubernetes
    document = server.kubeconfig_document(token=server.admin_token, namespace="default")
    del document["clusters"][0]["cluster"]["certificate-authority-data"]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        api = connect(pool_size=1)
    started = time.monotonic()

    with pytest.raises(KubeUnavailable, match="certificate verify failed"):
        Cluster(api).read(live.key)
    assert time.monotonic() - started < PATIENCE_SECONDS
    api.close()
