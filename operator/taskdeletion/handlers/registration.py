"""Registers with kopf what it is used for: one event handler per kind that puts a key on our queue.

Called by `__main__` and by tests that embed the operator. No change handlers, daemons, timers or finalizers
(docs/adr/0001-rooms.md, "Alternatives"): kopf lists, watches and re-lists; it does not own the work.
"""

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from taskdeletion.api.common import GROUP, VERSION
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.api.task_store import TaskStore
from taskdeletion.bootstrap import Services
from taskdeletion.handlers.storages import NoEssence, NoProgress
from taskdeletion.kube.objects import PAGE_SIZE

LOGIN_EXPIRES_AFTER = timedelta(minutes=10)
BEAT_SECONDS = 1.0
#: kopf holds the last event of each object, whole, for this long after it.
IDLE_SECONDS = 1.0


def build_settings() -> kopf.OperatorSettings:
    """kopf's settings for this operator. FACTS of kopf 1.45 are behind each."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = f"{GROUP}/never-used"
    settings.persistence.progress_storage = NoProgress()
    settings.persistence.diffbase_storage = NoEssence()
    settings.queueing.exit_timeout = 30
    settings.queueing.idle_timeout = IDLE_SECONDS
    settings.watching.chunk_size = PAGE_SIZE
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    settings.networking.request_timeout = 30
    settings.posting.loggers = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    return settings


def build_registry(services: Services) -> kopf.OperatorRegistry:
    """A registry whose handlers feed `services`, and start and stop them with the operator."""
    registry = kopf.OperatorRegistry()
    register(registry, services)
    return registry


def register(registry: kopf.OperatorRegistry, services: Services) -> None:
    """Add the handlers to a registry of the caller's, such as that of `kopf run`."""
    _register_life(registry, services)
    for kind in (TaskDeletion, TaskRetentionPolicy, TaskStore):
        _register_events(registry, services, kind=kind.KIND, plural=kind.PLURAL)


def _register_events(registry: kopf.OperatorRegistry, services: Services, *, kind: str, plural: str) -> None:
    @kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"notice-{plural}")
    async def notice(event: kopf.RawEvent, **_: Any) -> None:
        services.notice(kind, event["type"], event["object"])


def _register_life(registry: kopf.OperatorRegistry, services: Services) -> None:
    @kopf.on.login(registry=registry, errors=kopf.ErrorsMode.PERMANENT)
    def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
        found = kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
        return dataclasses.replace(found, expiration=datetime.now(UTC) + LOGIN_EXPIRES_AFTER) if found else None

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        _beat(asyncio.get_running_loop(), services)
        await asyncio.to_thread(services.start)

    @kopf.on.cleanup(registry=registry)
    async def stop(**_: Any) -> None:
        await asyncio.to_thread(services.stop)


def _beat(loop: asyncio.AbstractEventLoop, services: Services) -> None:
    """A callback, not a task: kopf cancels tasks that were created after it started."""
    services.beat()
    loop.call_later(BEAT_SECONDS, _beat, loop, services)
