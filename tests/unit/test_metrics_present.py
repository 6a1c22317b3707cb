"""Gauges of what is there: a row for each object, gone with it, and limited in number."""

from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from taskdeletion.observe.present import WHOLE, PolicyRow, Present, StoreRow
from tests.support.scraping import Scrape

NOW = datetime(2026, 7, 31, 2, tzinfo=UTC)
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def present() -> Present:
    return Present(NOW.timestamp, limit=3)


def read(present: Present) -> Scrape:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(present)
    return Scrape(generate_latest(registry).decode())


def test_live_requests_are_counted_by_phase_and_leave_with_their_end(present: Present) -> None:
    present.note_request("a", "one", phase="Running", waits_for=None)
    present.note_request("a", "two", phase=None, waits_for="StoreNotFound")
    present.note_request("b", "two", phase="Pending", waits_for="StoreNotFound")
    present.note_request("b", "three", phase="Suspended", waits_for=None)
    page = read(present)
    phases = {
        phase: page.total("taskdeletion_live_requests", phase=phase) for phase in ("Pending", "Running", "Suspended")
    }
    assert phases == {"Pending": 2, "Running": 1, "Suspended": 1}
    assert page.values("taskdeletion_waiting_requests", object_namespace="a", reason="StoreNotFound") == [1]

    present.drop_request("a", "two")
    present.note_request("b", "two", phase="Running", waits_for=None)
    page = read(present)
    assert page.values("taskdeletion_waiting_requests") == []
    assert page.total("taskdeletion_live_requests", phase="Running") == 2


def test_a_store_is_ready_where_none_of_its_parts_has_a_problem(present: Present) -> None:
    present.note_store("a", "good", StoreRow({"Redis": [], "Catalog": []}, 7.0, 0, 2))
    present.note_store("a", "bad", StoreRow({"Redis": ["Unavailable", "Unavailable"], "Catalog": []}, 8.0))
    present.note_store("a", "none", StoreRow({WHOLE: ["OverlappingStore"]}, 9.0))
    page = read(present)

    ready = {name: page.values("taskdeletion_store_ready", store=name) for name in ("good", "bad", "none")}
    assert ready == {"good": [1], "bad": [0], "none": [0]}
    assert page.values("taskdeletion_dependency_up", store="bad", part="Redis") == [0]
    assert page.values("taskdeletion_dependency_up", store="bad", part="Catalog") == [1]
    assert page.values("taskdeletion_dependency_up", store="none") == []
    assert page.values("taskdeletion_dependency_problems", store="bad") == [2]
    assert page.values("taskdeletion_dependency_problems", part=WHOLE, reason="OverlappingStore") == [1]
    assert page.values("taskdeletion_leftovers", store="good", state="deleting") == [2]
    assert page.values("taskdeletion_leftovers", store="bad") == []


def test_leftovers_that_could_not_be_counted_now_are_those_of_before(present: Present) -> None:
    present.note_store("a", "s", StoreRow({"Directory": []}, 7.0, 1, 2))
    present.note_store("a", "s", StoreRow({"Directory": ["VolumeNotMounted"]}, 8.0))
    page = read(present)

    assert page.values("taskdeletion_leftovers", state="deleting") == [2]
    assert page.values("taskdeletion_store_probe_timestamp_seconds") == [8]


def test_nothing_is_left_of_a_store_that_is_gone(present: Present) -> None:
    present.note_store("a", "s", StoreRow({"Redis": []}, 7.0, 1, 2))
    present.note_end("a", "s", is_success=True, at=NOW)
    assert [labels for _, labels, _ in read(present).samples() if labels.get("store") == "s"]
    present.drop_store("a", "s")
    assert not [labels for _, labels, _ in read(present).samples() if labels.get("store") == "s"]

    present.note_store("a", "s", StoreRow({"Redis": []}, 7.0))
    assert read(present).values("taskdeletion_last_success_timestamp_seconds") == []


def test_of_ends_the_latest_counts_and_only_for_stores_that_are_there(present: Present) -> None:
    for hours in (2, 1, 3):
        present.note_end("a", "s", is_success=True, at=NOW - hours * AN_HOUR)
    present.note_end("a", "never-there", is_success=False, at=NOW)
    present.note_store("a", "s", StoreRow({}, 0.0))
    page = read(present)

    assert page.values("taskdeletion_last_success_timestamp_seconds") == [(NOW - AN_HOUR).timestamp()]
    assert page.values("taskdeletion_last_failure_timestamp_seconds") == []


def test_requests_that_name_stores_which_never_were_are_not_kept(present: Present) -> None:
    present.note_store("a", "s", StoreRow({}, 0.0))
    present.note_end("a", "s", is_success=True, at=NOW)
    for number in range(1000):
        present.note_end("a", f"made-up-{number}", is_success=False, at=NOW)

    assert len(present._ends) < 20
    assert read(present).values("taskdeletion_last_success_timestamp_seconds") == [NOW.timestamp()]


@pytest.mark.parametrize(
    ("due", "upcoming", "lag"),
    [
        pytest.param(None, NOW + AN_HOUR, 0, id="it is not time yet"),
        pytest.param(NOW - AN_HOUR, NOW + AN_HOUR, 3600, id="a run waits"),
        pytest.param(None, NOW - AN_HOUR, 3600, id="nobody has looked since"),
        pytest.param(NOW - 2 * AN_HOUR, NOW - AN_HOUR, 7200, id="both"),
        pytest.param(None, None, 0, id="suspended"),
    ],
)
def test_a_policy_lags_since_the_oldest_run_that_has_not_begun(
    present: Present, due: datetime | None, upcoming: datetime | None, lag: float
) -> None:
    present.note_policy("a", "p", PolicyRow(True, "Scheduled", due, upcoming))
    page = read(present)

    assert page.values("taskdeletion_policy_lag_seconds", policy="p") == [lag]
    assert len(page.values("taskdeletion_policy_next_schedule_timestamp_seconds")) == (upcoming is not None)


def test_a_policy_that_is_not_ready_says_why_and_leaves_with_all_of_its_series(present: Present) -> None:
    present.note_policy("a", "p", PolicyRow(True, "Scheduled", None, NOW, NOW))
    present.note_policy("a", "p", PolicyRow(False, "LimitExceeded", None, NOW, NOW))
    page = read(present)
    assert page.values("taskdeletion_policy_ready") == page.values(
        "taskdeletion_policy_ready", policy="p", reason="LimitExceeded"
    )
    assert page.values("taskdeletion_policy_ready") == [0]

    present.drop_policy("a", "p")
    assert not [labels for _, labels, _ in read(present).samples() if "policy" in labels]


def test_objects_beyond_the_limit_are_only_counted(present: Present) -> None:
    for number in range(5):
        present.note_store("a", f"s{number}", StoreRow({}, 0.0))
    for number in range(4):
        present.note_policy("a", f"p{number}", PolicyRow(True, "Scheduled"))
    page = read(present)

    assert len(page.values("taskdeletion_store_ready")) == 3
    assert page.values("taskdeletion_hidden_objects", kind="TaskStore") == [2]
    assert page.values("taskdeletion_hidden_objects", kind="TaskRetentionPolicy") == [1]
