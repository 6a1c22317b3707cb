"""Runs kopf around the services until the process is told to stop; where several elect a leader, once it is that.

Called by `__main__`. Exits at once, without waiting for threads, where work did not end in time: every effect is safe
to be cut off, and the next process continues from status.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import kopf

from taskdeletion.bootstrap import Services
from taskdeletion.handlers.child import is_first_process, run_in_child
from taskdeletion.handlers.registration import build_registry, build_settings
from taskdeletion.kube.client import KubeForbidden
from taskdeletion.observe.logging import configure
from taskdeletion.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def run(environment: Mapping[str, str]) -> int:
    """Run the operator; returns 0 after a clean stop, 1 after one that took too long, 2 for bad input."""
    try:
        settings = Settings.from_environment(environment)
    except SettingsError as error:
        return _refuse(error)
    if settings.leader_election and is_first_process():
        return run_in_child(lambda: _run(settings))
    return _run(settings)


def _run(settings: Settings) -> int:
    configure(settings.log_level, settings.log_format)
    try:
        services = Services(settings)
    except (KubeForbidden, OSError) as error:
        return _refuse(error)
    try:
        with suppress(asyncio.CancelledError):
            asyncio.run(_serve(services, settings))
    finally:
        _stop(services, settings)
    return 0


def _stop(services: Services, settings: Settings) -> None:
    if not services.stop():  # then the lease is not given back either: threads of ours may still be at work
        log.error("work did not end within %s s; the next process continues it", settings.shutdown_seconds)
        logging.shutdown()
        os._exit(1)
    services.resign()


def _refuse(error: Exception) -> int:
    sys.stderr.write(f"taskdeletion operator: {error}\n")
    return 2


async def _serve(services: Services, settings: Settings) -> None:
    """Stand by, then run kopf, until a signal comes."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    if not await _lead(services, told):
        return
    registry = build_registry(services)
    # kopf asks the system for a user name otherwise, which a container's numeric user does not have; its type for
    # this, a NewType of str, is not exported.
    identity: Any = f"task-deletion-operator-{os.getpid()}"

    @kopf.on.cleanup(registry=registry)
    async def let_go(**_: Any) -> None:
        told.set()  # kopf waits 5 s for its own wait for the flag otherwise

    await kopf.operator(
        registry=registry,
        settings=build_settings(),
        standalone=True,
        identity=identity,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=told,  # kopf takes the signals over, and may have missed one that came before
    )


async def _lead(services: Services, told: asyncio.Event) -> bool:
    """Whether this process leads now; False where it was told to stop first."""
    leading = asyncio.create_task(asyncio.to_thread(services.wait_to_lead))
    stopping = asyncio.create_task(told.wait())
    await asyncio.wait([leading, stopping], return_when=asyncio.FIRST_COMPLETED)
    if told.is_set():
        services.withdraw()
    stopping.cancel()
    return await leading and not told.is_set()
