"""The state of a task that lives in Redis keys: from raw values to one catalog entry. Pure.

Called by the Redis catalog with what it read. Whatever a value holds, there is an answer and never an exception: what
cannot be read as state counts as running, and a time that cannot be read is not known.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from operator import attrgetter
from typing import Final, NamedTuple

from taskdeletion.domain.catalog import CatalogEntry, Version, in_utc

#: Numbers from 1973 to 2286 are times; the gap between them is neither. Zero, which often means "not set", is none.
_SECONDS: Final = (10**8, 10**10)
_MILLISECONDS: Final = (10**11, 10**13)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = _EPOCH + timedelta(seconds=_SECONDS[0])
_NUMBER: Final = re.compile(r"[0-9]{1,16}(\.[0-9]{1,16})?")
_GOING_ON: Final = "+"  # behind the number of keys in a version, where one of them is not terminal
_REST: Final = re.compile(r"([0-9]+)\|[0-9a-f]{64}")  # of a version: the number of keys, and a digest over all of them
_WITH_MINUTES: Final = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}[T ][0-9]{2}:?[0-9]{2}")
_LONGEST_TIME: Final = 64
_NEVER_TOLD: Final = (
    "when its state last changed is not known: set updatedField or ttlSeconds in the TaskStore, or settleSeconds: 0"
)


@dataclass(frozen=True)
class StateKeys:
    """What a TaskStore says of the keys that hold the state of its tasks.

    `ttl_seconds`: what the pipeline gives a key with every change, None where that is not known. `settle_seconds`: a
    state that changed less than this ago counts as running; 0: no such check. `time_zone`: IANA name, of times without.
    """

    key_pattern: str
    status_field: str
    created_field: str
    updated_field: str
    ttl_seconds: int | None
    settle_seconds: int
    time_zone: str
    terminal_statuses: frozenset[str]


@dataclass(frozen=True, slots=True)
class State:
    """One key as it was read. `content` of a string: its value; of a hash: each field and its value, sorted by field.

    Of any other `kind` (as Redis names it) it is a digest. `ttl_seconds`: None for a key that stays; `read_at`: by the
    clock of the server.
    """

    key: bytes
    kind: str
    content: tuple[bytes, ...]
    ttl_seconds: float | None
    read_at: datetime


class StateFacts(NamedTuple):
    """What one key says. `status`: "" where there is none; `age_seconds`: since its last change, None if nothing tells.

    `is_settled`: its last change was long enough ago, or the TaskStore asks for no such check.
    """

    status: str
    created_at: datetime | None
    age_seconds: float | None
    is_settled: bool


@dataclass(frozen=True)
class StateReader:
    """Makes the entry of a task from its keys. `zone`: of times without one."""

    keys: StateKeys
    zone: tzinfo

    def build_entry(self, task_id: str, states: Iterable[State]) -> CatalogEntry:
        """The entry of a task with at least one key; the order of `states` does not matter.

        Its status is the first, by key, that is not terminal; its creation the latest of all keys, None where one
        lacks it. Its version changes with every change of a value, not with a time to live.
        """
        ordered = sorted(states, key=attrgetter("key"))
        facts = [self.read(state) for state in ordered]
        created_at = _latest([fact.created_at for fact in facts])
        created = "" if created_at is None else created_at.isoformat(timespec="microseconds")
        mark = "" if all(fact.status in self.keys.terminal_statuses for fact in facts) else _GOING_ON
        version = Version(created, f"{len(ordered)}{mark}|{_digest(ordered)}")
        return CatalogEntry(
            task_id,
            version,
            self._choose_status(facts),
            created_at,
            self._describe_activity(facts),
            frozenset(fact.status for fact in facts),
        )

    def read(self, state: State) -> StateFacts:
        """What one key says. A task is finished where every key has a terminal status and is settled."""
        keys, settle = self.keys, self.keys.settle_seconds
        status, created, updated = _read_fields(state, (keys.status_field, keys.created_field, keys.updated_field))
        age = self._find_age(state, parse_time(updated, self.zone))
        is_settled = not settle or (age is not None and age >= settle)
        return StateFacts(_read_status(status), parse_time(created, self.zone), age, is_settled)

    def _find_age(self, state: State, updated_at: datetime | None) -> float | None:
        """Seconds since the last change, by the later of two witnesses; negative where clocks differ."""
        ages = []
        if updated_at is not None:
            ages.append((state.read_at - updated_at).total_seconds())
        if self.keys.ttl_seconds is not None and state.ttl_seconds is not None:
            ages.append(self.keys.ttl_seconds - state.ttl_seconds)
        return min(ages, default=None)

    def _choose_status(self, facts: Sequence[StateFacts]) -> str:
        going_on = (fact.status for fact in facts if fact.status not in self.keys.terminal_statuses)
        return next(going_on, facts[0].status)

    def _describe_activity(self, facts: Sequence[StateFacts]) -> str:
        if all(fact.is_settled for fact in facts):
            return ""
        ages = [fact.age_seconds for fact in facts if fact.age_seconds is not None]
        if len(ages) < len(facts):
            return _NEVER_TOLD
        return f"its state changed {int(max(min(ages), 0))} s ago, and settleSeconds is {self.keys.settle_seconds}"


def has_lost_keys(before: Version, now: Version) -> bool:
    """Whether both are of one finished run, and fewer keys are there now. False for versions of another catalog."""
    counts = [_REST.fullmatch(version.rest) for version in (before, now)]
    if before.created != now.created or None in counts:
        return False
    had, has = (int(found[1]) for found in counts if found)
    return has < had


def parse_time(value: object, zone: tzinfo) -> datetime | None:
    """A time in UTC, or None where `value` is none that can be relied on.

    ISO 8601 (a time without a zone is in `zone`, see `in_utc`), or seconds or milliseconds since 1970, also as text. A
    date alone, or an hour without minutes, is no time: it would make a task older than it is.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _from_number(value)
    if not isinstance(value, str) or len(value) > _LONGEST_TIME:
        return None
    text = value.strip()
    return _from_number(float(text)) if _NUMBER.fullmatch(text) else _from_text(text, zone)


def _from_number(number: float) -> datetime | None:
    if _SECONDS[0] <= number < _SECONDS[1]:
        return _EPOCH + timedelta(seconds=number)
    if _MILLISECONDS[0] <= number < _MILLISECONDS[1]:
        return _EPOCH + timedelta(milliseconds=number)
    return None


def _from_text(text: str, zone: tzinfo) -> datetime | None:
    if not _WITH_MINUTES.match(text):
        return None
    try:
        time = datetime.fromisoformat(text)
        found = time.astimezone(UTC) if time.tzinfo else in_utc(time, zone)
    except (ValueError, OverflowError):
        return None
    return found if found >= _EARLIEST else None


def _read_status(value: object) -> str:
    """A word that can be shown to people, or ""."""
    return value if isinstance(value, str) and value.isprintable() else ""


def _read_fields(state: State, names: Sequence[str]) -> list[object]:
    if state.kind == "string":
        fields = _parse_object(state.content[0])
        return [fields.get(name) for name in names]
    if state.kind == "hash":
        values = dict(zip(state.content[::2], state.content[1::2], strict=True))
        return [_decode(values.get(name.encode())) for name in names]
    return [None for _ in names]


def _parse_object(raw: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(raw.decode())
    except (ValueError, RecursionError):  # not UTF-8, no JSON, or nested deeper than anybody means
        return {}
    return found if isinstance(found, dict) else {}


def _decode(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _latest(times: Sequence[datetime | None]) -> datetime | None:
    known = [time for time in times if time is not None]
    return max(known) if len(known) == len(times) else None


def _digest(states: Iterable[State]) -> str:
    """SHA-256 over all keys and values, each behind its length, so that nothing can pass for something else."""
    found = hashlib.sha256()
    for state in states:
        for part in _parts_of(state):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
    return found.hexdigest()


def _parts_of(state: State) -> Iterator[bytes]:
    yield state.key
    yield state.kind.encode()
    yield len(state.content).to_bytes(8, "big")
    yield from state.content
