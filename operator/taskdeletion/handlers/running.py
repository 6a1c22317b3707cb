"""Runs kopf around the services until the process is told to stop.

Called by `__main__`. Exits at once, without waiting for threads, where work did not end in time: every effect is safe
to be cut off, and the next process continues from status.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import kopf

from taskdeletion.bootstrap import Services
from taskdeletion.handlers.registration import build_registry, build_settings
from taskdeletion.kube.client import KubeForbidden
from taskdeletion.observe.logging import configure
from taskdeletion.settings import Settings, SettingsError

log = logging.getLogger(__name__)


def run(environment: Mapping[str, str]) -> int:
    """Run the operator; returns 0 after a clean stop, 1 after one that took too long, 2 for bad input."""
    try:
        settings = Settings.from_environment(environment)
        configure(settings.log_level, settings.log_format)
        services = Services(settings)
    except (SettingsError, KubeForbidden) as error:
        sys.stderr.write(f"taskdeletion operator: {error}\n")
        return 2
    # kopf asks the system for a user name otherwise, which a container's numeric user does not have; its type for
    # this, a NewType of str, is not exported.
    identity: Any = f"task-deletion-operator-{os.getpid()}"
    kopf.run(
        registry=build_registry(services),
        settings=build_settings(),
        standalone=True,
        identity=identity,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
    )
    if not services.stop():
        log.error("work did not end within %s s; the next process continues it", settings.shutdown_seconds)
        logging.shutdown()
        os._exit(1)
    return 0
