"""What an opened TaskStore holds, and a TaskStore that must not be opened at all."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dev.pipeline import Pipeline, wait_until
from taskdeletion.api import reasons
from taskdeletion.api.task_store import TaskStore
from taskdeletion.backends.objects import Objects
from taskdeletion.domain.faults import Fault
from taskdeletion.executors.store import Connections
from taskdeletion.kube.objects import Cluster, Key, LiveObject
from taskdeletion.workflow import locating
from tests.support.harness import Harness, World, states_of
from tests.support.kube import Kube, condition
from tests.support.seams import interpose


@pytest.fixture
def world(kube: Kube, pipeline: Pipeline) -> Iterator[World]:
    with World(kube, pipeline) as found:
        pipeline.add_task("task_1")
        yield found


# --- connections ----------------------------------------------------------------------------------------------------
def connections(world: World) -> int:
    """The sessions that the database of the pipeline has, beside the one that asks."""
    with world.pipeline.connect() as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone()
    assert found is not None
    return int(found[0])


def remove_store(world: World, process: Harness) -> None:
    """Somebody deletes the TaskStore, and the process is told."""
    world.kube.delete(world.pipeline.namespace, "default", "taskstores")
    assert process.store_workflow.reconcile(Key(TaskStore.KIND, process.namespace, "default")) is None


def test_the_connections_of_a_store_are_closed_when_it_is_deleted(world: World) -> None:
    world.request("a")
    process = world.start()
    process.finish("a")
    assert connections(world) > 0
    remove_store(world, process)
    wait_until(lambda: connections(world) == 0, what="the end of the connections")


def test_the_connections_of_a_deleted_store_serve_the_work_that_uses_them_to_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.request("a")
    process = world.start()
    interpose(monkeypatch, Objects, "purge", before=lambda *_, **__: remove_store(world, process))
    process.reconcile("a")
    assert states_of(process.status("a")) == ["Deleted"]
    assert world.look().is_gone
    wait_until(lambda: connections(world) == 0, what="the end of the connections")


# --- what requests share --------------------------------------------------------------------------------------------
def opened(process: Harness, due_at: float | None) -> Connections:
    """What a request that became due then would work with."""
    with process.stores.open(process.namespace, "default", due_at=due_at) as store:
        return store.connections


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """However loaded the machine is, what was read is not too old to be shared."""
    monkeypatch.setattr(locating, "SHARED_SECONDS", 3600.0)


@pytest.mark.usefixtures("moment")
def test_only_requests_that_were_due_before_share_what_was_read_of_their_store(world: World) -> None:
    process, before = world.start(), time.monotonic()
    first = opened(process, None)
    rotate(world)
    assert opened(process, before) is first
    rotated = opened(process, time.monotonic())
    assert rotated is not first
    assert opened(process, before) is rotated
    rotate(world)
    assert opened(process, None) is not rotated


def test_what_was_read_of_a_store_is_not_shared_for_long(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locating, "SHARED_SECONDS", 0.0)
    process, before = world.start(), time.monotonic()
    first = opened(process, before)
    rotate(world)
    assert opened(process, before) is not first


@pytest.mark.usefixtures("moment")
def test_nothing_of_a_store_is_shared_once_it_is_seen_to_be_deleted(world: World) -> None:
    process, before = world.start(), time.monotonic()
    opened(process, before)
    remove_store(world, process)
    with pytest.raises(Fault) as raised:
        opened(process, before)
    assert raised.value.reason == reasons.STORE_NOT_FOUND


def rotate(world: World) -> None:
    """Somebody writes a Secret of the store, with what it held and one key more."""
    name = next(one["metadata"]["name"] for one in world.pipeline.manifests() if one["kind"] == "Secret")
    world.kube.patch_secret(world.pipeline.namespace, name, {"rotated": str(time.monotonic_ns())})


# --- what admission would have refused ------------------------------------------------------------------------------
UNSAFE: list[Any] = [
    pytest.param("redis", {"keyPatterns": ["task:{taskId}*"]}, id="key-pattern"),
    pytest.param("objectStore", {"prefixes": ["tasks/{taskId}"]}, id="object-prefix"),
]


@pytest.mark.parametrize(("part", "change"), UNSAFE)
def test_a_store_that_could_name_other_tasks_is_invalid_and_never_opened(
    world: World, monkeypatch: pytest.MonkeyPatch, part: str, change: dict[str, Any]
) -> None:
    before = world.look()
    world.request("a")
    original = Cluster.list_objects

    def list_unsafe(cluster: Cluster, kind: str, *arguments: Any, **options: Any) -> list[LiveObject]:
        found = original(cluster, kind, *arguments, **options)
        return [replace(live, spec={**live.spec, part: {**live.spec[part], **change}}) for live in found]

    monkeypatch.setattr(Cluster, "list_objects", list_unsafe)
    process = world.start()
    ready = condition(process.look_at_store(), "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reasons.STORE_INVALID)
    assert "taskId" in ready["message"]
    assert process.reconcile("a") is not None
    waiting = condition(process.status("a"), "Reconciling")
    assert waiting["reason"] == reasons.DEPENDENCY_UNAVAILABLE
    assert waiting["message"].startswith(reasons.STORE_INVALID)
    assert world.look() == before
