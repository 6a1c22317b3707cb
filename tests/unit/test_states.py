"""What the keys of a task say of it: times in every form, values that cannot be read, what counts as settled."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from taskdeletion.domain.catalog import CatalogEntry
from taskdeletion.domain.states import State, StateKeys, StateReader, parse_time

NOW = datetime(2025, 7, 10, 12, 0, 0, tzinfo=UTC)
CREATED = datetime(2025, 7, 2, 17, 39, 32, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
BERLIN = ZoneInfo("Europe/Berlin")
KEYS = StateKeys(
    key_pattern="{taskId}:node:*",
    status_field="status",
    created_field="created_at",
    updated_field="updated_at",
    ttl_seconds=None,
    settle_seconds=300,
    time_zone="UTC",
    terminal_statuses=frozenset({"completed", "failed"}),
)
OLD_STATE = {"status": "completed", "created_at": CREATED.isoformat(), "updated_at": "2025-07-03T00:00:00Z"}
UNKNOWN_CHANGE = (
    "when its state last changed is not known: set updatedField or ttlSeconds in the TaskStore, or settleSeconds: 0"
)


def of_json(key: str, value: object, *, ttl_seconds: float | None = None, read_at: datetime = NOW) -> State:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return State(key.encode(), "string", (raw,), ttl_seconds, read_at)


def of_hash(key: str, fields: dict[bytes, bytes]) -> State:
    return State(key.encode(), "hash", tuple(part for pair in sorted(fields.items()) for part in pair), None, NOW)


def entry(*states: State, zone: ZoneInfo = UTC_ZONE, **keys: Any) -> CatalogEntry:
    return StateReader(replace(KEYS, **keys), zone).build_entry("task_1", states)


def with_fields(**fields: object) -> State:
    return of_json("a", {**OLD_STATE, **fields})


# --- times ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "value",
    [
        "2025-07-02T17:39:32+00:00",
        "2025-07-02T17:39:32Z",
        "2025-07-02 17:39:32Z",
        "2025-07-02T19:39:32+02:00",
        "2025-07-02T19:39:32+0200",
        "2025-07-02T19:39:32",
        "2025-07-02 19:39:32.000000",
        "20250702T173932Z",
        " 2025-07-02T17:39:32Z\n",
        1751477972,
        1751477972.0,
        1751477972000,
        1751477972000.0,
        "1751477972",
        "1751477972.0",
        "1751477972000",
    ],
    ids=repr,
)
def test_a_time_is_read_in_every_form(value: object) -> None:
    assert parse_time(value, BERLIN) == CREATED


@pytest.mark.parametrize(
    ("value", "microsecond"),
    [("2025-07-02T17:39:32.25Z", 250000), (1751477972.25, 250000), (1751477972250, 250000), ("1751477972.25", 250000)],
    ids=repr,
)
def test_fractions_of_a_second_are_kept(value: object, microsecond: int) -> None:
    assert parse_time(value, BERLIN) == CREATED.replace(microsecond=microsecond)


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, "", " ", "yesterday", [], {}, ["2025-07-02T17:39:32Z"]),
        *(0, -1, 1, 0.0, "0", "-1", 10**10, 10**13, 10**18, 10**30, -(10**30), 1e300, "1e9", "9" * 17),
        *(float("nan"), float("inf"), float("-inf"), "nan", "inf"),
        *("0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1970-01-01T00:00:00Z"),
        *(
            "2025-07-02",
            "20250702",
            "2025-W27-3",
            "2025-W27-3T17:39:32Z",
            "2025-07-02T17",
            "2025-07-02T17Z",
            "20250702T17+02:00",
            "2025-13-02T17:39:32Z",
            "2025-07-02T25:39:32Z",
            "2025-07-02T17:39:61Z",
        ),
        *(
            "٢٠٢٥-07-02T17:39:32Z",
            "١٧٥١٤٧٧٩٧٢",
            "2025-07-02T17:39:32 CEST",
            "2025-07-02T17:39:32Z" + " " * 99,
            "\ud800" * 12,
        ),
    ],
    ids=repr,
)
def test_what_is_no_time_is_not_known(value: object) -> None:
    assert parse_time(value, BERLIN) is None
    assert entry(with_fields(created_at=value)).created_at is None


def test_an_hour_that_occurs_twice_is_the_later_one() -> None:
    assert parse_time("2025-10-26T02:30:00", BERLIN) == datetime(2025, 10, 26, 1, 30, tzinfo=UTC)


def test_an_hour_that_the_change_to_summer_time_leaves_out_is_the_later_of_what_it_may_be() -> None:
    assert parse_time("2025-03-30T02:30:00", BERLIN) == datetime(2025, 3, 30, 1, 30, tzinfo=UTC)


# --- one entry of many keys -------------------------------------------------------------------------------------------
def test_an_entry_says_what_its_only_key_says() -> None:
    found = entry(with_fields())
    assert (found.task_id, found.status, found.created_at, found.activity) == ("task_1", "completed", CREATED, "")
    assert found.version.created == "2025-07-02T17:39:32.000000+00:00"


def test_a_hash_says_the_same_as_json() -> None:
    fields = {name.encode(): value.encode() for name, value in OLD_STATE.items()}
    found = entry(of_hash("a", fields))
    assert (found.status, found.created_at, found.activity) == ("completed", CREATED, "")


def test_fields_are_named_by_the_store() -> None:
    state = of_json("a", {"state": "done", "born": 1751477972, "touched": 1751477973})
    found = entry(
        state,
        status_field="state",
        created_field="born",
        updated_field="touched",
        terminal_statuses=frozenset({"done"}),
    )
    assert (found.status, found.created_at, found.activity) == ("done", CREATED, "")


def test_a_field_is_a_field_of_the_top_and_no_path() -> None:
    state = of_json("a", {**OLD_STATE, "run": {"status": "completed"}, "run.status": "failed"})
    assert entry(state, status_field="run.status").status == "failed"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["completed", "failed"], "completed"),
        (["failed", "completed"], "failed"),
        (["completed", "running", "pending"], "running"),
        (["completed", "pending", "running"], "pending"),
        (["completed", "", "running"], ""),
    ],
)
def test_the_first_status_that_is_not_terminal_is_the_tasks(statuses: list[str], expected: str) -> None:
    states = [of_json(f"k{number}", {**OLD_STATE, "status": status}) for number, status in enumerate(statuses)]
    assert entry(*states).status == entry(*reversed(states)).status == expected


def test_the_latest_creation_is_the_tasks() -> None:
    later = CREATED + timedelta(days=1)
    found = entry(of_json("a", {**OLD_STATE, "created_at": later.isoformat()}), of_json("b", OLD_STATE))
    assert (found.created_at, found.version.created) == (later, "2025-07-03T17:39:32.000000+00:00")


@pytest.mark.parametrize("value", [None, 0, "soon"])
def test_a_creation_that_one_key_does_not_say_is_not_known(value: object) -> None:
    found = entry(of_json("a", OLD_STATE), of_json("b", {**OLD_STATE, "created_at": value}))
    assert (found.created_at, found.version.created) == (None, "")


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(of_json("b", b""), id="empty"),
        pytest.param(of_json("b", b"completed"), id="no JSON"),
        pytest.param(of_json("b", b'"completed"'), id="a JSON text"),
        pytest.param(of_json("b", ["completed"]), id="a JSON list"),
        pytest.param(of_json("b", b"null"), id="JSON null"),
        pytest.param(of_json("b", b'{"status": "completed"'), id="cut off"),
        pytest.param(of_json("b", b'{"status": "completed", "x": ' + b"9" * 5000 + b"}"), id="an absurd number"),
        pytest.param(of_json("b", b"[" * 200_000), id="absurdly deep"),
        pytest.param(of_json("b", b'{"status": "completed", "x": "\xff"}'), id="not UTF-8"),
        pytest.param(of_json("b", json.dumps(OLD_STATE).encode("utf-16")), id="UTF-16"),
        pytest.param(of_json("b", {}), id="no status"),
        pytest.param(of_json("b", {"status": None}), id="null"),
        pytest.param(of_json("b", {"status": 1}), id="a number"),
        pytest.param(of_json("b", {"status": ["completed"]}), id="a list"),
        pytest.param(of_json("b", b'{"status": "\\ud800"}'), id="half a character"),
        pytest.param(of_json("b", {"status": "done\n"}), id="a control character"),
        pytest.param(of_hash("b", {b"other": b"completed"}), id="a hash without a status"),
        pytest.param(of_hash("b", {b"status": b"\xff"}), id="a hash, not UTF-8"),
        pytest.param(State(b"b", "list", (b"digest",), None, NOW), id="another type"),
    ],
)
def test_what_cannot_be_read_counts_as_running_and_has_no_creation(state: State) -> None:
    found = entry(of_json("a", OLD_STATE), state)
    assert (found.status, found.created_at, found.version.created) == ("", None, "")
    assert found.status not in KEYS.terminal_statuses


# --- versions ---------------------------------------------------------------------------------------------------------
def test_a_version_does_not_depend_on_order_clock_or_time_to_live() -> None:
    first = entry(of_json("a", OLD_STATE, ttl_seconds=60), of_json("b", OLD_STATE)).version
    later = NOW + timedelta(hours=1)
    assert first == entry(of_json("b", OLD_STATE, ttl_seconds=9), of_json("a", OLD_STATE, read_at=later)).version


@pytest.mark.parametrize(
    "states",
    [
        [of_json("a", OLD_STATE)],
        [of_json("a", OLD_STATE), of_json("c", OLD_STATE)],
        [of_json("a", OLD_STATE), of_json("b", OLD_STATE), of_json("c", OLD_STATE)],
        [of_json("a", OLD_STATE), of_json("b", json.dumps(OLD_STATE).encode() + b" ")],
        [of_json("a", OLD_STATE), State(b"b", "list", (json.dumps(OLD_STATE).encode(),), None, NOW)],
    ],
    ids=["one fewer", "another key", "one more", "another value", "another type"],
)
def test_a_version_changes_with_every_key_and_value(states: list[State]) -> None:
    before = entry(of_json("a", OLD_STATE), of_json("b", OLD_STATE))
    assert entry(*states).version != before.version


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (State(b"ab", "string", (b"c",), None, NOW), State(b"a", "string", (b"bc",), None, NOW)),
        (of_hash("a", {b"x": b"yz"}), of_hash("a", {b"xy": b"z"})),
        (of_hash("a", {b"x": b"y"}), of_hash("a", {b"x": b"y", b"": b""})),
        (of_hash("a", {b"x": b""}), State(b"a", "string", (b"x",), None, NOW)),
        (State(b"a", "list", (b"x",), None, NOW), State(b"a", "string", (b"x",), None, NOW)),
    ],
    ids=["key and value", "field and value", "an empty field", "hash and string", "list and string"],
)
def test_no_version_passes_for_another_one_by_its_bytes(one: State, other: State) -> None:
    assert entry(one).version.rest != entry(other).version.rest


def test_a_version_is_short_however_much_it_stands_for() -> None:
    states = [of_json(f"key-{number}", {**OLD_STATE, "log": "x" * 1000}) for number in range(1000)]
    assert len(str(entry(*states).version)) < 128


# --- settled ----------------------------------------------------------------------------------------------------------
def changed(seconds_ago: float, key: str = "a", *, ttl_seconds: float | None = None) -> State:
    """A key that says that it changed so long ago."""
    updated = (NOW - timedelta(seconds=seconds_ago)).isoformat()
    return of_json(key, {**OLD_STATE, "updated_at": updated}, ttl_seconds=ttl_seconds)


def expiring(ttl_seconds: float | None) -> State:
    """A key that does not say when it changed."""
    return of_json("b", {"status": "completed", "created_at": CREATED.isoformat()}, ttl_seconds=ttl_seconds)


@pytest.mark.parametrize(
    ("seconds_ago", "said"), [(-3600, "0 s"), (0, "0 s"), (12.7, "12 s"), (299.9, "299 s"), (300, ""), (86400, "")]
)
def test_a_change_just_now_is_activity(seconds_ago: float, said: str) -> None:
    expected = said and f"its state changed {said} ago, and settleSeconds is 300"
    assert entry(changed(seconds_ago)).activity == expected


def test_the_youngest_key_counts() -> None:
    assert entry(changed(9000), changed(20, "b"), changed(400, "c")).activity.startswith("its state changed 20 s ago")


@pytest.mark.parametrize(
    ("ttl_seconds", "said"),
    [
        (1000.0, "0 s"),
        (988.0, "12 s"),
        (700.5, "299 s"),
        (700.0, ""),
        (1.0, ""),
        (0.0, ""),
        (5000.0, "0 s"),
        (1e16, "0 s"),
    ],
)
def test_a_time_to_live_says_when_a_key_last_changed(ttl_seconds: float, said: str) -> None:
    expected = said and f"its state changed {said} ago, and settleSeconds is 300"
    assert entry(expiring(ttl_seconds), ttl_seconds=1000).activity == expected


@pytest.mark.parametrize(
    ("seconds_ago", "ttl_seconds", "said"),
    [(50, 100.0, "50 s"), (5000, 980.0, "20 s"), (30, None, "30 s"), (5000, None, ""), (5000, 100.0, "")],
)
def test_the_later_of_both_witnesses_counts(seconds_ago: float, ttl_seconds: float | None, said: str) -> None:
    found = entry(changed(seconds_ago, ttl_seconds=ttl_seconds), ttl_seconds=1000).activity
    assert found == (said and f"its state changed {said} ago, and settleSeconds is 300")


@pytest.mark.parametrize("state", [expiring(None), expiring(60.0)], ids=["no time to live", "one that nobody explains"])
def test_a_key_that_nothing_tells_of_is_activity(state: State) -> None:
    assert entry(changed(9000), state).activity == UNKNOWN_CHANGE
    assert entry(changed(10), state).activity == UNKNOWN_CHANGE


def test_a_key_that_stays_has_no_time_to_live_to_tell() -> None:
    assert entry(expiring(None), ttl_seconds=1000).activity == UNKNOWN_CHANGE


def test_without_a_time_to_settle_nothing_is_activity() -> None:
    assert entry(changed(0), expiring(None), settle_seconds=0).activity == ""


def test_ages_are_taken_by_the_clock_of_the_server_that_holds_the_key() -> None:
    ahead = of_json("b", {**OLD_STATE, "updated_at": NOW.isoformat()}, read_at=NOW + timedelta(hours=1))
    assert entry(changed(9000), ahead).activity == ""
