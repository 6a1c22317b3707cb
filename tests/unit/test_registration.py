"""What kopf is told: two event handlers, the life of the services, and nothing that would own an object."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

import kopf
import pytest

from taskdeletion.api.common import GROUP, VERSION
from taskdeletion.bootstrap import Services
from taskdeletion.handlers import registration
from taskdeletion.handlers.registration import build_registry, build_settings
from taskdeletion.kube.objects import PAGE_SIZE

PATIENCE_SECONDS = 10


class FakeServices:
    def __init__(self) -> None:
        self.noticed: list[tuple[str, str | None, Mapping[str, Any]]] = []
        self.calls: list[tuple[str, bool]] = []
        self.beats = 0
        self.beaten_twice = threading.Event()

    def notice(self, kind: str, event: str | None, body: Mapping[str, Any]) -> None:
        self.noticed.append((kind, event, body))

    def start(self) -> None:
        """Blocks, as the real one does, until the loop has turned beside it."""
        assert self.beaten_twice.wait(PATIENCE_SECONDS)
        self._note("start")

    def stop(self) -> bool:
        self._note("stop")
        return True

    def beat(self) -> None:
        self.beats += 1
        if self.beats == 2:
            self.beaten_twice.set()

    def _note(self, name: str) -> None:
        self.calls.append((name, threading.current_thread() is threading.main_thread()))


@pytest.fixture
def services() -> FakeServices:
    return FakeServices()


@pytest.fixture
def registry(services: FakeServices) -> kopf.OperatorRegistry:
    return build_registry(cast(Services, services))


def handlers(registry: kopf.OperatorRegistry, part: str) -> list[Any]:
    return list(getattr(registry, part).get_all_handlers())


def test_events_of_all_kinds_are_watched(registry: kopf.OperatorRegistry) -> None:
    found = [handler.selector for handler in handlers(registry, "_watching")]

    assert [(one.group, one.version, one.any_name or one.plural) for one in found] == [
        (GROUP, VERSION, "taskdeletions"),
        (GROUP, VERSION, "taskretentionpolicies"),
        (GROUP, VERSION, "taskstores"),
    ]


@pytest.mark.parametrize("part", ["_changing", "_spawning", "_indexing", "_webhooks"])
def test_nothing_is_registered_that_would_add_a_finalizer_or_keep_progress(
    registry: kopf.OperatorRegistry, part: str
) -> None:
    assert handlers(registry, part) == []


@pytest.mark.parametrize(("number", "kind"), [(0, "TaskDeletion"), (1, "TaskRetentionPolicy"), (2, "TaskStore")])
@pytest.mark.parametrize("event", ["ADDED", "MODIFIED", "DELETED", None])
def test_an_event_is_handed_on_as_it_came(
    registry: kopf.OperatorRegistry, services: FakeServices, number: int, kind: str, event: str | None
) -> None:
    body = {"metadata": {"name": "x"}}
    notice = handlers(registry, "_watching")[number].fn
    asyncio.run(notice(event={"type": event, "object": body}, logger=None, name="x"))

    assert services.noticed == [(kind, event, body)]


def activity(registry: kopf.OperatorRegistry, name: str) -> Callable[..., Any]:
    found: list[Callable[..., Any]] = [one.fn for one in handlers(registry, "_activities") if one.fn.__name__ == name]
    assert len(found) == 1
    return found[0]


def test_the_services_start_and_stop_beside_the_loop_which_goes_on_turning(
    registry: kopf.OperatorRegistry, services: FakeServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "BEAT_SECONDS", 0.001)

    async def live() -> None:
        await activity(registry, "start")(memo=None)
        await activity(registry, "stop")(memo=None)

    asyncio.run(live())

    assert services.calls == [("start", False), ("stop", False)]
    assert services.beats >= 2


def test_a_login_is_renewed_before_a_rotated_token_expires(
    registry: kopf.OperatorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = kopf.ConnectionInfo(server="https://example.invalid", token="t")
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: login)

    found = activity(registry, "log_in")()

    assert (found.server, found.token) == (login.server, login.token)
    assert found.expiration is not None
    assert found.expiration.tzinfo is not None


def test_the_service_account_of_the_pod_comes_first(
    registry: kopf.OperatorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: kopf.ConnectionInfo(server="https://pod"))
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: kopf.ConnectionInfo(server="https://person"))

    assert activity(registry, "log_in")().server == "https://pod"


def test_no_login_at_all_is_none(registry: kopf.OperatorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kopf, "login_with_service_account", lambda **_: None)
    monkeypatch.setattr(kopf, "login_with_kubeconfig", lambda **_: None)

    assert activity(registry, "log_in")() is None


def test_kopf_writes_nothing_of_its_own() -> None:
    settings = build_settings()

    assert settings.posting.loggers is False
    assert settings.scanning.disabled is True
    assert settings.peering.standalone is True
    assert settings.persistence.finalizer.startswith(f"{GROUP}/")


def test_a_silent_connection_is_noticed() -> None:
    settings = build_settings()

    assert settings.watching.server_timeout
    assert settings.watching.connect_timeout
    assert settings.networking.request_timeout


class Uncopyable:
    """A value of an object that nobody may copy."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("an event must not cost a copy of its object")


def test_kopf_copies_nothing_of_an_object_and_keeps_nothing_of_it() -> None:
    persistence, patch = build_settings().persistence, kopf.Patch()
    raw: Any = {"metadata": {"name": "x", "annotations": {"a": Uncopyable()}}, "spec": {"a": Uncopyable()}}
    body = kopf.Body(raw)
    essence = persistence.diffbase_storage.build(body=body, extra_fields=["spec"])
    handler: Any = "some-handler"

    assert persistence.progress_storage.clear(essence=essence) == {}
    persistence.diffbase_storage.store(body=body, patch=patch, essence=essence)
    persistence.progress_storage.store(key=handler, record={}, body=body, patch=patch)
    persistence.progress_storage.touch(body=body, patch=patch, value="now")
    persistence.progress_storage.purge(key=handler, body=body, patch=patch)
    assert dict(patch) == {}
    assert persistence.diffbase_storage.fetch(body=body) is None
    assert persistence.progress_storage.fetch(key=handler, body=body) is None


def test_a_list_is_read_in_pages_of_which_the_largest_is_small() -> None:
    chunk = build_settings().watching.chunk_size

    assert chunk == PAGE_SIZE
    assert chunk * 512 * 1024 <= 16 * 1024 * 1024
