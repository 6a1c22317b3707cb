"""Where an effect asks whether it may begin, and what it does again when it had to wait for the answer."""

import threading
from collections.abc import Collection, Iterator
from typing import Any, cast

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.catalog import Catalog, CatalogEntry, Version
from taskdeletion.domain.leadership import NotLeading
from taskdeletion.workflow.guards import VersionGuard
from taskdeletion.workflow.halting import Halting

CLAIMED = Version.parse("2025-07-02|completed")


class Renewed:
    """A leadership whose answers are given: whether each of them took a while."""

    def __init__(self, *waits: bool) -> None:
        self._waits: Iterator[bool] = iter(waits)

    def require(self) -> bool:
        return next(self._waits)


class GivenBack:
    def require(self) -> bool:
        raise NotLeading("given back")


class FakeCatalog:
    """Reads that see a task, until it was restarted."""

    def __init__(self, *entries: CatalogEntry | None) -> None:
        self._entries = iter(entries)
        self.reads = 0

    def read(self, task_ids: Collection[str]) -> dict[str, Any]:
        self.reads += 1
        return {task_id: next(self._entries) for task_id in task_ids}


def guard(catalog: FakeCatalog | None, *waits: bool) -> VersionGuard:
    found = cast("Catalog | None", catalog)
    return VersionGuard(found, {"task_1": CLAIMED}, force=False, leadership=Renewed(*waits))


def test_a_batch_whose_leader_had_to_wait_compares_versions_again(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = FakeCatalog(None, None)
    denied = guard(catalog, True, False)(["task_1"])

    assert catalog.reads == 2
    assert denied["task_1"].reason == reasons.CATALOG_ENTRY_GONE


def test_without_a_wait_versions_are_compared_once() -> None:
    catalog = FakeCatalog(None)
    guard(catalog, False)(["task_1"])

    assert catalog.reads == 1


def test_a_store_without_a_catalog_asks_all_the_same() -> None:
    with pytest.raises(NotLeading):
        VersionGuard(None, {}, force=True, leadership=GivenBack())(["task_1"])


def test_a_walk_that_had_to_wait_looks_again_whether_it_is_to_stop() -> None:
    stopping = threading.Event()

    class StoppedMeanwhile:
        def require(self) -> bool:
            stopping.set()
            return True

    fault = Halting(stopping, lambda: 0.0, None, StoppedMeanwhile())()

    assert fault is not None
    assert fault.reason == reasons.INTERRUPTED


def test_a_walk_that_may_go_on_goes_on() -> None:
    assert Halting(threading.Event(), lambda: 0.0, None, Renewed(True, False))() is None


def test_a_walk_of_a_process_that_leads_no_more_goes_on_nowhere() -> None:
    with pytest.raises(NotLeading):
        Halting(threading.Event(), lambda: 0.0, None, GivenBack())()


def test_what_stops_work_anyway_needs_no_leader() -> None:
    stopping = threading.Event()
    stopping.set()

    assert Halting(stopping, lambda: 0.0, None, GivenBack())() is not None
