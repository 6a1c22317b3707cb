"""Posts Events (core/v1) from one thread of its own, so that no work ever waits for one.

Used by `kube.objects.Cluster`. Events are for people and may get lost: when too many wait, or when a post fails.
"""

import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from taskdeletion.api.common import format_time
from taskdeletion.domain.leadership import NotLeading
from taskdeletion.kube.client import Api, KubeForbidden, KubeRejected, KubeUnavailable, quoted

COMPONENT = "task-deletion-operator"
QUEUE_LIMIT = 1_000
MESSAGE_BYTES = 1_024
ATTEMPTS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to the object that `involved` (an ObjectReference) names."""

    involved: Mapping[str, str]
    type: str
    reason: str
    message: str


class EventPoster:
    """A bounded queue of Events and the daemon thread that posts them, started with the first one."""

    def __init__(self, api: Api, *, queue_limit: int = QUEUE_LIMIT) -> None:
        self._api = api
        self._queue_limit = queue_limit
        self._changed = threading.Condition()
        self._waiting: deque[Event] = deque()
        self._posting = False
        self._thread: threading.Thread | None = None

    def post(self, event: Event) -> None:
        """Queue one Event; dropped, with a log line, when too many wait."""
        with self._changed:
            if len(self._waiting) >= self._queue_limit:
                log.warning("Event %s dropped: %d are waiting already", event.reason, len(self._waiting))
                return
            self._waiting.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until nothing is waiting or being posted; False when that took longer than `timeout_seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._posting, timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._posting = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: bool(self._waiting))
                event = self._waiting.popleft()
                self._posting = True
            self._send(event)

    def _send(self, event: Event) -> None:
        path = quoted("api", "v1", "namespaces", event.involved["namespace"], "events")
        try:
            self._api.request("POST", path, body=build_event(event, datetime.now(UTC)), attempts=ATTEMPTS)
        except KubeRejected as error:
            if error.reason != "AlreadyExists":  # then an earlier try of this very Event arrived
                log.warning("Event %s lost: %s", event.reason, error)
        except (KubeUnavailable, KubeForbidden, NotLeading) as error:
            log.warning("Event %s lost: %s", event.reason, error)


def build_event(event: Event, now: datetime) -> dict[str, Any]:
    """The core/v1 Event to create, under a name of its own, so that posting it twice creates one."""
    name = f"{event.involved['name'][:200]}.{time.time_ns():x}{secrets.token_hex(4)}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": event.involved["namespace"]},
        "involvedObject": dict(event.involved),
        "type": event.type,
        "reason": event.reason,
        "message": shorten(event.message),
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": socket.gethostname(),
        "firstTimestamp": format_time(now),
        "lastTimestamp": format_time(now),
        "count": 1,
    }


def shorten(message: str) -> str:
    """At most 1,024 bytes of UTF-8, cut between characters and marked with an ellipsis."""
    encoded = message.encode()
    if len(encoded) <= MESSAGE_BYTES:
        return message
    return encoded[: MESSAGE_BYTES - len("…".encode())].decode(errors="ignore") + "…"
