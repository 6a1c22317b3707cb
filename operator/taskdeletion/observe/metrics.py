"""The operator's metrics: one registry, made by `bootstrap` and handed in; what happened goes in, text comes out.

Every method is told of one thing that happened, costs microseconds, and raises nothing. It decides nothing and holds
nothing that work depends on: a process that dies takes its counters with it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource, TaskDeletionSpec, TaskDeletionStatus, TaskStatus
from taskdeletion.domain.results import StepResult
from taskdeletion.observe import families
from taskdeletion.observe.bounds import Names, known_reason
from taskdeletion.observe.families import Family
from taskdeletion.observe.present import Present

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
DEFAULT_STORE: Final = "default"
_ENDS: Final = ("Succeeded", "PartiallyFailed", "Failed")
_KINDS: Final = ("TaskDeletion", "TaskStore", "TaskRetentionPolicy")
_VERBS: Final = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_OF_THE_PROCESS: Final = (
    families.QUEUE_DEPTH,
    families.QUEUE_SECONDS,
    families.WORKERS,
    families.BUSY_WORKERS,
    families.LEADER,
    families.BUILD,
)


class Metrics:
    """All metrics of one process. Thread-safe. `present`: what is there now, as the workflow sees it."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._namespaces = Names()
        self.registry = CollectorRegistry(auto_describe=True)
        self.present = Present()
        self.registry.register(self.present)
        self._ended = self._counter(families.ENDED_REQUESTS)
        self._request_seconds = self._histogram(families.REQUEST_SECONDS)
        self._tasks = self._counter(families.TASKS)
        self._resources = self._counter(families.RESOURCES)
        self._deleted: Mapping[Resource, Counter] = {
            "Directory": self._counter(families.FILES),
            "Redis": self._counter(families.REDIS_KEYS),
            "MinIO": self._counter(families.OBJECTS),
            "DatabaseRecords": self._counter(families.RECORDS),
        }
        self._freed = self._counter(families.FREED_BYTES)
        self._attempts = self._counter(families.ATTEMPTS)
        self._attempt_seconds = self._histogram(families.ATTEMPT_SECONDS)
        self._retries = self._counter(families.RETRIES)
        self._claim_seconds = self._histogram(families.CLAIM_SECONDS)
        self._step_seconds = self._histogram(families.STEP_SECONDS)
        self._reconcile_seconds = self._histogram(families.RECONCILE_SECONDS)
        self._errors = self._counter(families.RECONCILE_ERRORS)
        self._policy_runs = self._counter(families.POLICY_RUNS)
        self._api_requests = self._counter(families.API_REQUESTS)
        self._api_seconds = self._histogram(families.API_SECONDS)
        self._gauges = {family.name: self._gauge(family) for family in _OF_THE_PROCESS}
        for kind in _KINDS:  # from 0 on, so that the first error is an increase
            for error in ("expected", "unforeseen"):
                self._errors.labels(kind, error)

    # --- requests ---------------------------------------------------------------------------------------------------
    def request_ended(
        self,
        namespace: str,
        spec: TaskDeletionSpec,
        status: TaskDeletionStatus,
        tasks: Iterable[TaskStatus],
        *,
        reason: str,
        is_cancelled: bool = False,
    ) -> None:
        """A request ended, with these tasks; its status was written, unless it is gone."""
        phase, place = (
            reasons.CANCELLED if is_cancelled else status.phase or "Failed",
            self._namespaces.admit(namespace),
        )
        dry_run = str(spec.dry_run).lower()
        self._ended.labels(place, phase, known_reason(reason), dry_run).inc()
        if status.start_time is not None and status.completion_time is not None:
            seconds = (status.completion_time - status.start_time).total_seconds()
            self._request_seconds.labels(phase, dry_run).observe(max(0.0, seconds))
        for task in tasks:
            self._tasks.labels(place, task.state, known_reason(task.reason)).inc()
            for found in task.resources or []:
                self._resources.labels(found.resource, found.outcome, known_reason(found.reason)).inc()
        if status.completion_time is not None and not spec.dry_run:
            self._note_end(namespace, spec.store_ref.name, phase, status.completion_time)

    def recall_end(self, namespace: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> None:
        """A request that ended before this process began, as it is stored."""
        store = (spec.get("storeRef") or {}).get("name", DEFAULT_STORE)
        try:
            ended_at = datetime.fromisoformat(str(status.get("completionTime")))
        except ValueError:
            return
        if not spec.get("dryRun"):
            self._note_end(namespace, str(store), status.get("phase"), ended_at)

    def _note_end(self, namespace: str, store: str, phase: str | None, at: datetime) -> None:
        if phase in _ENDS:
            self.present.note_end(namespace, store, is_success=phase == "Succeeded", at=at)

    def results_found(self, namespace: str, results: Iterable[StepResult]) -> None:
        """What an attempt deleted. Not for dry runs."""
        place = self._namespaces.admit(namespace)
        for result in results:
            if result.count:
                self._deleted[result.resource].labels(place).inc(result.count)
            if result.bytes:
                self._freed.labels(place, result.resource).inc(result.bytes)

    # --- the work ---------------------------------------------------------------------------------------------------
    @contextmanager
    def attempt(self, is_counted: Callable[[], bool]) -> Iterator[None]:
        """One attempt, for the length of a `with` block; `is_counted`, asked behind it: whether anything was begun."""
        began = self._clock()
        try:
            yield
        finally:
            if is_counted():
                self._attempts.inc()
                self._attempt_seconds.observe(self._clock() - began)

    def retry(self, reason: str) -> None:
        """Another attempt follows, for this reason."""
        self._retries.labels(known_reason(reason)).inc()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """The claim of a round, for the length of a `with` block."""
        with self._claim_seconds.time():
            yield

    def round(self) -> "Round":
        """The purge of a round begins."""
        return Round(self._clock, self._step_seconds)

    @contextmanager
    def look(self, kind: str, expected: tuple[type[Exception], ...]) -> Iterator[None]:
        """One look at an object, for the length of a `with` block; `expected`: errors that pass by themselves."""
        with self._reconcile_seconds.labels(kind).time():
            try:
                yield
            except Exception as error:
                self._errors.labels(kind, "expected" if isinstance(error, expected) else "unforeseen").inc()
                raise

    def policy_run(self, namespace: str, outcome: str, reason: str) -> None:
        """A run of a policy ended, or was not begun."""
        self._policy_runs.labels(self._namespaces.admit(namespace), outcome, known_reason(reason)).inc()

    def api_request(self, method: str, status: int | None, seconds: float) -> None:
        """One attempt of a request to the API server; `status` None: there was no answer."""
        verb = method if method in _VERBS else "other"
        self._api_requests.labels(verb, "none" if status is None else str(status)).inc()
        self._api_seconds.labels(verb).observe(seconds)

    # --- the process ------------------------------------------------------------------------------------------------
    def watch_process(self, version: str) -> None:
        """Add what is known of the process: memory, file descriptors, CPU, Python, the operator's version."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._gauges[families.BUILD.name].labels(version).set(1)

    def watch(self, family: Family, ask: Callable[[], float], *labels: str) -> None:
        """A gauge of the process that is asked for whenever somebody scrapes."""
        gauge = self._gauges[family.name]
        (gauge.labels(*labels) if labels else gauge).set_function(ask)

    def expose(self) -> bytes:
        """Everything, in the text format (`CONTENT_TYPE`)."""
        return generate_latest(_WithoutBirths(self.registry))

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.text, family.labels, registry=self.registry)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.text, family.labels, registry=self.registry)

    def _histogram(self, family: Family) -> Histogram:
        return Histogram(family.name, family.text, family.labels, registry=self.registry, buckets=family.buckets)


class Round:
    """The purge of one round of tasks: how long each resource took until its last result was there."""

    def __init__(self, clock: Callable[[], float], histogram: Histogram) -> None:
        self._clock = clock
        self._histogram = histogram
        self._began = clock()
        self._seconds: dict[Resource, float] = {}

    def saw(self, results: Iterable[StepResult]) -> None:
        """These results have come in."""
        seconds = self._clock() - self._began
        self._seconds.update((result.resource, seconds) for result in results)

    def restart(self) -> None:
        """What follows begins now: records go when everything else is gone."""
        self._began = self._clock()

    def end(self, results: Iterable[StepResult]) -> None:
        """These are all results of the round: what was not seen before came in since `restart`."""
        self.saw(result for result in results if result.resource not in self._seconds)
        for resource, seconds in self._seconds.items():
            self._histogram.labels(resource).observe(seconds)


class _WithoutBirths(Collector):
    """What another collector has, without the time at which each counter was made: half of it, and nobody asks."""

    def __init__(self, whole: Collector) -> None:
        self._whole = whole

    def collect(self) -> Iterator[Metric]:
        for metric in self._whole.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric
