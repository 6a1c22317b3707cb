"""What is there now, as gauges: live requests, stores, policies. A row goes with its object, so no gauge outlives it.

The workflow notes what it has just seen; `metrics` has the registry that asks for the gauges. Thread-safe; nothing is
worked out before somebody asks.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from taskdeletion.observe import families
from taskdeletion.observe.bounds import OBJECT_LIMIT, Names, known_reason
from taskdeletion.observe.families import Family

Name = tuple[str, str]
#: The part of a store that stands for all of it.
WHOLE: Final = "Store"
_PHASES: Final = ("Pending", "Running", "Suspended")


@dataclass(frozen=True, slots=True)
class StoreRow:
    """One TaskStore as it was last probed. `parts`: the reasons of what is wrong with each; `WHOLE`: as such.

    `claimed`, `deleting`: directories that nobody owns; None where they were not counted.
    """

    parts: Mapping[str, Sequence[str]]
    probed_at: float
    claimed: int | None = None
    deleting: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One TaskRetentionPolicy as it was last looked at. `due`: of a run that has not begun."""

    is_ready: bool
    reason: str
    due: datetime | None = None
    upcoming: datetime | None = None
    succeeded_at: datetime | None = None


class Present(Collector):
    """The tables, and their gauges. `clock`: seconds since 1970."""

    def __init__(self, clock: Callable[[], float] = time.time, *, limit: int = OBJECT_LIMIT) -> None:
        self._clock = clock
        self._limit = limit
        self._requests: dict[Name, tuple[str, str | None]] = {}
        self._stores: dict[Name, StoreRow] = {}
        self._policies: dict[Name, PolicyRow] = {}
        self._ends: dict[tuple[Name, bool], float] = {}
        self._lock = threading.Lock()

    # --- what the workflow says -------------------------------------------------------------------------------------
    def note_request(self, namespace: str, name: str, *, phase: str | None, waits_for: str | None) -> None:
        """A live request as it stands; `waits_for`: the reason of what is not there."""
        with self._lock:
            self._requests[namespace, name] = phase or "Pending", waits_for

    def drop_request(self, namespace: str, name: str) -> None:
        """It has ended, or is gone."""
        with self._lock:
            self._requests.pop((namespace, name), None)

    def note_end(self, namespace: str, store: str, *, is_success: bool, at: datetime) -> None:
        """A request of the store ended."""
        key = (namespace, store), is_success
        with self._lock:
            self._ends[key] = max(self._ends.get(key, 0.0), at.timestamp())
            if len(self._ends) > 4 * self._limit:  # a request can name a store that was never there
                self._ends = {key: ended for key, ended in self._ends.items() if key[0] in self._stores}

    def note_store(self, namespace: str, name: str, row: StoreRow) -> None:
        """A store was probed. Leftovers that were not counted now are those that were counted last."""
        with self._lock:
            before = self._stores.get((namespace, name))
            if row.deleting is None and before is not None:
                row = StoreRow(row.parts, row.probed_at, before.claimed, before.deleting)
            self._stores[namespace, name] = row

    def drop_store(self, namespace: str, name: str) -> None:
        """It is gone."""
        with self._lock:
            self._stores.pop((namespace, name), None)
            for is_success in (True, False):
                self._ends.pop(((namespace, name), is_success), None)

    def note_policy(self, namespace: str, name: str, row: PolicyRow) -> None:
        """A policy was looked at."""
        with self._lock:
            self._policies[namespace, name] = row

    def drop_policy(self, namespace: str, name: str) -> None:
        """It is gone."""
        with self._lock:
            self._policies.pop((namespace, name), None)

    # --- what the registry asks -------------------------------------------------------------------------------------
    def collect(self) -> Iterator[GaugeMetricFamily]:
        """All gauges of the tables."""
        with self._lock:
            requests = list(self._requests.items())
            stores = dict(islice(self._stores.items(), self._limit))
            policies = dict(islice(self._policies.items(), self._limit))
            hidden = {
                "TaskStore": len(self._stores) - len(stores),
                "TaskRetentionPolicy": len(self._policies) - len(policies),
            }
            ends = {key: at for key, at in self._ends.items() if key[0] in stores}
        yield from _collect_requests(requests)
        yield from _collect_stores(stores)
        yield from _collect_ends(ends)
        yield from _collect_policies(policies, self._clock())
        yield _gauge(families.HIDDEN, (((kind,), count) for kind, count in hidden.items()))


def _gauge(family: Family, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(family.name, family.text, labels=family.labels)
    for labels, value in values:
        gauge.add_metric(labels, value)
    return gauge


def _collect_requests(requests: Sequence[tuple[Name, tuple[str, str | None]]]) -> Iterator[GaugeMetricFamily]:
    phases = Counter(phase for _, (phase, _) in requests)
    names = Names()
    waiting = Counter(
        (names.admit(namespace), known_reason(waits_for)) for (namespace, _), (_, waits_for) in requests if waits_for
    )
    yield _gauge(families.LIVE_REQUESTS, (((phase,), phases[phase]) for phase in _PHASES))
    yield _gauge(families.WAITING_REQUESTS, waiting.items())


def _collect_stores(stores: Mapping[Name, StoreRow]) -> Iterator[GaugeMetricFamily]:
    parts = {(*name, part): found for name, row in stores.items() for part, found in row.parts.items()}
    problems = Counter((*place, known_reason(reason)) for place, found in parts.items() for reason in found)
    ready = {name: float(not any(row.parts.values())) for name, row in stores.items()}
    up = {place: float(not found) for place, found in parts.items() if place[2] != WHOLE}
    counts: dict[tuple[str, ...], float] = {}
    for name, row in stores.items():
        if row.claimed is not None and row.deleting is not None:
            counts |= {(*name, "claimed"): row.claimed, (*name, "deleting"): row.deleting}
    yield _gauge(families.STORE_READY, ready.items())
    yield _gauge(families.DEPENDENCY_UP, up.items())
    yield _gauge(families.DEPENDENCY_PROBLEMS, problems.items())
    yield _gauge(families.PROBE_TIME, ((name, row.probed_at) for name, row in stores.items()))
    yield _gauge(families.LEFTOVERS, counts.items())


def _collect_ends(ends: Mapping[tuple[Name, bool], float]) -> Iterator[GaugeMetricFamily]:
    for family, wanted in ((families.LAST_SUCCESS, True), (families.LAST_FAILURE, False)):
        yield _gauge(family, ((name, at) for (name, is_success), at in ends.items() if is_success is wanted))


def _collect_policies(policies: Mapping[Name, PolicyRow], now: float) -> Iterator[GaugeMetricFamily]:
    ready = {(*name, known_reason(row.reason)): float(row.is_ready) for name, row in policies.items()}
    yield _gauge(families.POLICY_READY, ready.items())
    yield _gauge(
        families.POLICY_NEXT, ((name, row.upcoming.timestamp()) for name, row in policies.items() if row.upcoming)
    )
    yield _gauge(families.POLICY_LAG, ((name, _lag(row, now)) for name, row in policies.items()))
    yield _gauge(
        families.POLICY_SUCCESS,
        ((name, row.succeeded_at.timestamp()) for name, row in policies.items() if row.succeeded_at),
    )


def _lag(row: PolicyRow, now: float) -> float:
    """Since when the oldest run is due that has not begun; a run that nobody has looked at counts, too."""
    times = [at.timestamp() for at in (row.due, row.upcoming) if at is not None]
    return max(0.0, now - min(times)) if times else 0.0
