"""The composition root: settings in, a wired and running set of services out.

Called by `__main__` and, through it, by the handlers, which start and stop the services inside kopf's life. The only
module that knows every room; it decides nothing.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn
from uuid import uuid4

from pydantic import ValidationError

from taskdeletion.api.retention_policy import TaskRetentionPolicy
from taskdeletion.api.task_deletion import TaskDeletion, TaskDeletionSpec, TaskDeletionStatus
from taskdeletion.api.task_store import TaskStore
from taskdeletion.controller.candidacy import Candidacy
from taskdeletion.controller.kill_timer import KillTimer, clock
from taskdeletion.controller.queue import WorkQueue
from taskdeletion.controller.workers import Workers
from taskdeletion.domain.conditions import is_terminal
from taskdeletion.domain.election import Timing
from taskdeletion.domain.leadership import ALONE, NotLeading
from taskdeletion.kube.admission import read_installed
from taskdeletion.kube.children import Children
from taskdeletion.kube.client import Api, KubeForbidden, KubeUnavailable, connect
from taskdeletion.kube.lease import LeaseObject
from taskdeletion.kube.objects import Cluster, Key, LiveObject, StatusConflict
from taskdeletion.observe import families
from taskdeletion.observe.health import HealthServer
from taskdeletion.observe.metrics import CONTENT_TYPE, Metrics
from taskdeletion.observe.serving import Page, PageServer
from taskdeletion.settings import Settings
from taskdeletion.workflow.admission import Admission
from taskdeletion.workflow.deletion import DeletionWorkflow
from taskdeletion.workflow.intake import Intake, lane_of
from taskdeletion.workflow.ownership import Ownership
from taskdeletion.workflow.record import build_standing
from taskdeletion.workflow.retention import RetentionWorkflow
from taskdeletion.workflow.store_status import StoreWorkflow
from taskdeletion.workflow.stores import Stores
from taskdeletion.workflow.sweep import Sweep

HEARTBEAT_LIMIT_SECONDS = 60.0
EVENT_FLUSH_SECONDS = 2.0
#: What is no error of a look: the API server is away or refuses, or somebody else wrote first.
PASSING = (KubeUnavailable, KubeForbidden, StatusConflict)
log = logging.getLogger(__name__)


class Services:
    """Everything that runs beside kopf's loop. `notice`, `beat` and `withdraw` do not block, everything else does.

    In a process of several: `wait_to_lead`, then as in a process that is alone `start` and `stop`, then `resign`.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises KubeForbidden where there is no way to log in, OSError where the kernel cannot guard a leader."""
        self.settings = settings
        self._stopping = threading.Event()
        self._has_workers = self._is_working = False
        self._beat_at = time.monotonic()
        self._candidacy = build_candidacy(settings) if settings.leader_election else None
        leadership = self._candidacy.tenure if self._candidacy is not None else ALONE
        self._metrics = Metrics()
        pool_size = settings.workers + settings.store_threads + 4
        self._api = connect(pool_size=pool_size, leadership=leadership, watcher=self._metrics.api_request)
        self._cluster = Cluster(self._api, settings.namespaces)
        self._queue: WorkQueue[Key] = WorkQueue(lane_limit=settings.store_threads)
        self._ownership = Ownership(self._queue.add)
        self._stores = Stores(self._cluster, settings, leadership=leadership)
        self._intake = Intake(self._queue.add, self._queue.add_after)
        admission = build_admission(self._api, settings)
        self._deletions = DeletionWorkflow(
            self._cluster,
            self._stores,
            self._ownership,
            self._stopping,
            leadership=leadership,
            admission=admission,
            metrics=self._metrics,
        )
        sweep = Sweep(self._cluster, self._stores, self._ownership)
        self._store_workflow = StoreWorkflow(
            self._cluster,
            self._stores,
            self._ownership,
            sweep,
            self._queue.add,
            settings.probe_interval_seconds,
            metrics=self._metrics,
        )
        self._retention = RetentionWorkflow(
            self._cluster,
            Children(self._api),
            self._stores,
            self._ownership,
            self._stopping,
            admission=admission,
            metrics=self._metrics,
        )
        self._workers = Workers(self._queue, self._reconcile, count=settings.workers, name="worker", passing=PASSING)
        self._resync = threading.Thread(target=self._resync_often, name="resync", daemon=True)
        self._health = self._build_health()
        self._exposition = self._build_exposition()

    def _build_health(self) -> HealthServer | None:
        if self.settings.health_address is None:
            return None
        return HealthServer(self.settings.health_address, self._find_dead, self._find_unready)

    def _build_exposition(self) -> PageServer | None:
        if self.settings.metrics_address is None:
            return None
        metrics, queue = self._metrics, self._queue
        metrics.watch_process(version("task-deletion-operator"))
        metrics.watch(families.LEADER, lambda: float(not self._is_standing_by))
        metrics.watch(families.WORKERS, lambda: float(self.settings.workers))
        metrics.watch(families.BUSY_WORKERS, lambda: float(queue.depth().processing))
        metrics.watch(families.QUEUE_DEPTH, lambda: float(queue.depth().ready), "ready")
        metrics.watch(families.QUEUE_DEPTH, lambda: float(queue.depth().delayed), "delayed")
        metrics.watch(families.QUEUE_SECONDS, queue.oldest_seconds)
        pages = {"/metrics": lambda: Page(200, metrics.expose(), CONTENT_TYPE)}
        return PageServer(self.settings.metrics_address, pages, name="metrics")

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served, once started."""
        return self._exposition.port if self._exposition is not None else None

    @property
    def health_port(self) -> int | None:
        """Where the probes are answered, once started."""
        return self._health.port if self._health is not None else None

    def wait_to_lead(self) -> bool:
        """Stand by until this process leads; False where it was withdrawn. True at once where it is alone."""
        self._start_servers()
        if self._candidacy is None:
            return True
        log.info("stands by: lease %s in namespace %s", self.settings.lease_name, self.settings.lease_namespace)
        leads = self._candidacy.wait()
        if leads:
            self._beat_at = time.monotonic()
            log.info("leads")
        return leads

    def withdraw(self) -> None:
        """Stand by no more. Without effect once this process leads."""
        if self._candidacy is not None:
            self._candidacy.withdraw()

    def resign(self) -> None:
        """Let another lead. Only after `stop` said that all work has ended."""
        if self._candidacy is not None:
            self._candidacy.resign()

    def start(self) -> None:
        """Start everything. Work begins only when every request is known: who owns which task depends on it."""
        if self._is_standing_by:
            raise NotLeading("leader election is on: wait_to_lead comes first")
        self._start_servers()
        self._seed()
        self._workers.start()
        self._has_workers = True
        self._resync.start()
        self._is_working = True
        served = ", ".join(self.settings.namespaces) or "all namespaces"
        ports = f"health on port {self.health_port}, metrics on port {self.metrics_port}"
        log.info("version %s serves %s; %s", version("task-deletion-operator"), served, ports)

    def _start_servers(self) -> None:
        for server in (self._health, self._exposition):
            if server is not None and not server.is_started:
                server.start()

    def stop(self) -> bool:
        """Stop at the next boundary; False when some work did not end in `shutdown_seconds`. Idempotent."""
        self._stopping.set()
        ended = not self._has_workers or self._workers.stop(self.settings.shutdown_seconds)
        self._cluster.flush(EVENT_FLUSH_SECONDS)
        if ended:
            self._stores.close()
            self._api.close()
        for server in (self._health, self._exposition):
            if server is not None:
                server.stop()
        return ended

    def notice(self, kind: str, event: str | None, body: Mapping[str, Any]) -> None:
        """Take an event of the watch."""
        self._intake.notice(kind, event, body)

    def beat(self) -> None:
        """kopf's loop turns."""
        self._beat_at = time.monotonic()

    def _reconcile(self, key: Key) -> float | None:
        with self._metrics.look(key.kind, PASSING):
            return self._look(key)

    def _look(self, key: Key) -> float | None:
        if key.kind == TaskStore.KIND:
            return self._store_workflow.reconcile(key) if not self._stopping.is_set() else None
        if key.kind == TaskRetentionPolicy.KIND:
            return self._retention.reconcile(key) if not self._stopping.is_set() else None
        return self._deletions.reconcile(key, due_at=self._queue.due_at(key))

    # --- knowing everybody ------------------------------------------------------------------------------------------
    def _seed(self) -> None:
        self._cluster.visit(TaskDeletion.KIND, self._observe)

    def _observe(self, live: LiveObject) -> None:
        if says_ended(live.status):  # most have, and reading all of their tasks takes long
            self._metrics.recall_end(live.key.namespace, live.spec, live.status)
            return
        try:
            spec = TaskDeletionSpec.model_validate(live.spec)
            status = TaskDeletionStatus.model_validate(live.status)
        except ValidationError:
            return  # its reconciliation says what is wrong with it; it has claimed nothing
        if not live.deleting and not is_terminal(status.conditions or []):
            self._ownership.observe(build_standing(live, status.tasks or [], spec))
            self._deletions.recall(live, time.monotonic())
            phase = live.status.get("phase")
            self._metrics.present.note_request(live.key.namespace, live.key.name, phase=phase, waits_for=None)

    def _resync_often(self) -> None:
        while not self._stopping.wait(self.settings.resync_seconds):
            try:
                self._look_at_everything()
            except (KubeUnavailable, KubeForbidden) as error:
                log.warning("the resync was left out: %s", error)

    def _look_at_everything(self) -> None:
        """A watch can lose events (a re-list after 410 reports no deletions): look at every object once in a while."""
        found: set[Key] = set()
        for kind in (TaskStore.KIND, TaskRetentionPolicy.KIND, TaskDeletion.KIND):
            self._cluster.visit(kind, lambda live: self._look_at(live, found))
        for key in self._ownership.live_keys():
            self._queue.add(key)
        self._intake.retain(found)

    def _look_at(self, live: LiveObject, found: set[Key]) -> None:
        found.add(live.key)
        seen = live.status.get("observedGeneration") == live.generation
        if live.key.kind != TaskDeletion.KIND or "completionTime" not in live.status or not seen:
            self._queue.add(live.key, lane=lane_of(live.key, live.spec))

    # --- health -----------------------------------------------------------------------------------------------------
    @property
    def _is_standing_by(self) -> bool:
        return self._candidacy is not None and not self._candidacy.is_leading

    def _find_dead(self) -> str | None:
        if self._candidacy is not None and (problem := self._candidacy.find_dead(HEARTBEAT_LIMIT_SECONDS)):
            return problem
        if self._is_standing_by:
            return None
        silent = time.monotonic() - self._beat_at
        if silent > HEARTBEAT_LIMIT_SECONDS:
            return f"the event loop has not turned for {silent:.0f} s"
        if not self._is_working or self._stopping.is_set():
            return None
        if not self._workers.is_healthy() or not self._resync.is_alive():
            return "a thread has died"
        return None

    def _find_unready(self) -> str | None:
        if self._stopping.is_set():
            return "stopping"
        if self._candidacy is not None and self._is_standing_by:
            return self._candidacy.find_problem()
        return None if self._is_working else "not every TaskDeletion is known yet"


def build_admission(api: Api, settings: Settings) -> Admission | None:
    """What has to be in force before the operator does what it guards; None where nobody asked for that."""
    if not settings.admission_policy:
        return None
    name = settings.admission_policy
    return Admission(name, settings.admission_digest, partial(read_installed, api, name))


def build_candidacy(settings: Settings) -> Candidacy:
    """This process's part in the election of the one that works."""
    identity = f"{socket.gethostname()}_{uuid4()}"  # of this process: the next one in the same pod is another
    timing = Timing(settings.lease_seconds)
    api = connect(pool_size=1, timeout_seconds=timing.renew_seconds)
    leases = LeaseObject(api, settings.lease_namespace, settings.lease_name, identity, settings.lease_seconds)
    return Candidacy(identity, timing, leases, timer=KillTimer(), clock=clock, end=end_process)


def end_process(message: str) -> NoReturn:
    """End at once, without waiting for anything: every effect is safe to be cut off."""
    log.critical("%s; the process ends", message)
    logging.shutdown()
    os._exit(1)


def says_ended(status: Mapping[str, Any]) -> bool:
    """`is_terminal`, of a status that was not read into its model."""
    conditions = status.get("conditions") or []
    return any(found.get("type") in ("Complete", "Failed") and found.get("status") == "True" for found in conditions)
