"""When a policy is due: fields, macros, changes of the clock, missed times; and that against a walk over minutes."""

import functools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from taskdeletion.domain.schedule import MACROS, Schedule, parse_schedule
from tests.support.properties import share

_MINUTE: Final = timedelta(minutes=1)


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def following(schedule: Schedule, moment: datetime) -> datetime:
    """The next time, which there has to be, and which is a later one."""
    found = schedule.next_after(moment)
    assert found is not None
    assert found > moment
    return found


def times(expression: str, zone: str, begin: str, end: str) -> list[str]:
    """All times after `begin` and not after `end`, in UTC."""
    schedule, found = parse_schedule(expression, zone), []
    moment = following(schedule, at(begin))
    while moment <= at(end):
        found.append(moment.strftime("%m-%d %H:%M"))
        moment = following(schedule, moment)
    return found


def first_days(expression: str, count: int) -> list[str]:
    """The first days of 2026 (it begins on a Thursday) on which a schedule is due."""
    schedule, found, moment = parse_schedule(expression, "UTC"), [], at("2025-12-31 23:59")
    for _ in range(count):
        moment = following(schedule, moment)
        found.append(moment.strftime("%m-%d"))
    return found


# --- fields -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("expression", "expected"),
    {
        "one minute": ("5 2 * * *", ["01-01 02:05", "01-02 02:05", "01-03 02:05"]),
        "zeros in front": ("05 02 01 09 *", ["09-01 02:05"]),
        "list": ("5,35 2 2 1 *", ["01-02 02:05", "01-02 02:35"]),
        "range": ("0 2-4 2 1 *", ["01-02 02:00", "01-02 03:00", "01-02 04:00"]),
        "step": ("*/25 2 2 1 *", ["01-02 02:00", "01-02 02:25", "01-02 02:50"]),
        "step of a range": ("10-40/15 2 2 1 *", ["01-02 02:10", "01-02 02:25", "01-02 02:40"]),
        "step from a number": ("20/15 2 2 1 *", ["01-02 02:20", "01-02 02:35", "01-02 02:50"]),
        "step longer than the field": ("*/99 2 2 1 *", ["01-02 02:00"]),
        "list of ranges and steps": ("0-1,58/1 2 2 1 *", ["01-02 02:00", "01-02 02:01", "01-02 02:58", "01-02 02:59"]),
        "two spaces": ("0  2 2 1 *", ["01-02 02:00"]),
        "month by name": ("0 2 1 FEB,NOV *", ["02-01 02:00", "11-01 02:00"]),
        "months by name in a range": ("0 2 1 NOV-DEC *", ["11-01 02:00", "12-01 02:00"]),
        "last day of a long month": ("0 2 31 1-4 *", ["01-31 02:00", "03-31 02:00"]),
    }.values(),
)
def test_five_fields_mean_what_cron_means_by_them(expression: str, expected: list[str]) -> None:
    assert times(expression, "UTC", "2025-12-31 23:59", "2026-12-31 23:59")[: len(expected)] == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    {
        "sunday is 0": ("0 0 * * 0", ["01-04", "01-11"]),
        "and 7": ("0 0 * * 7", ["01-04", "01-11"]),
        "and SUN": ("0 0 * * SUN", ["01-04", "01-11"]),
        "a range that ends with 7": ("0 0 * * 6-7", ["01-03", "01-04", "01-10"]),
        "days by name in a range": ("0 0 * * MON-WED", ["01-05", "01-06", "01-07", "01-12"]),
        "every second day of the week": ("0 0 * * */2", ["01-01", "01-03", "01-04", "01-06"]),
        "day of month alone": ("0 0 13 * *", ["01-13", "02-13"]),
        "either of both": ("0 0 13 * FRI", ["01-02", "01-09", "01-13", "01-16"]),
        "both, where the day of month begins with a star": ("0 0 */12 * FRI", ["02-13", "03-13", "05-01"]),
        "both, where the day of week begins with a star": ("0 0 1-7 * */6", ["01-03", "01-04", "02-01", "02-07"]),
        "either, where a range names every day of the week": ("0 0 13 * 0-6", ["01-01", "01-02"]),
    }.values(),
)
def test_the_two_day_fields_go_together_as_in_cron(expression: str, expected: list[str]) -> None:
    assert first_days(expression, len(expected)) == expected


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("@hourly", ["2026-01-01T00:00", "2026-01-01T01:00"]),
        ("@daily", ["2026-01-01T00:00", "2026-01-02T00:00"]),
        ("@midnight", ["2026-01-01T00:00", "2026-01-02T00:00"]),
        ("@weekly", ["2026-01-04T00:00", "2026-01-11T00:00"]),
        ("@monthly", ["2026-01-01T00:00", "2026-02-01T00:00"]),
        ("@yearly", ["2026-01-01T00:00", "2027-01-01T00:00"]),
        ("@annually", ["2026-01-01T00:00", "2027-01-01T00:00"]),
    ],
)
def test_a_macro_is_its_five_fields(macro: str, expected: list[str]) -> None:
    schedule = parse_schedule(macro, "UTC")
    first = following(schedule, at("2025-12-31 23:30"))
    assert [first, following(schedule, first)] == [at(text) for text in expected]


def test_every_macro_is_in_the_table_above() -> None:
    assert set(MACROS) == {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}


@pytest.mark.parametrize(
    ("expression", "problem"),
    {
        "four fields": ("0 2 * *", "it needs five fields"),
        "six fields": ("0 0 2 * * *", "it needs five fields"),
        "minute 60": ("60 2 * * *", "Bad minute"),
        "hour 24": ("0 24 * * *", "Bad hour"),
        "day 32": ("0 2 32 * *", "Bad day-of-month, or dates that never come"),
        "month 13": ("0 2 * 13 *", "Bad month"),
        "day of week 8": ("0 2 * * 8", "Bad day-of-week"),
        "step 0": ("*/0 2 * * *", "Bad minute"),
        "backwards": ("0 5-2 * * *", "Bad hour"),
        "backwards over the week's end": ("0 2 * * FRI-SUN", "Bad day-of-week"),
        "30 February": ("0 2 30 2 *", "Bad day-of-month, or dates that never come"),
        "31 of short months": ("0 2 31 4,6,9,11 *", "Bad day-of-month, or dates that never come"),
        "unknown macro": ("@reboot", "it needs five fields"),
        "a range of one hour with a step": ("0 2-2/6 * * *", "a range of one value has a step"),
        "the same, written otherwise": ("0 02-2/6 * * *", "a range of one value has a step"),
        "a range of one day by name": ("0 2 * * MON-1/2", "a range of one value has a step"),
    }.values(),
)
def test_what_is_no_schedule_is_refused_with_the_field_and_an_example(expression: str, problem: str) -> None:
    with pytest.raises(ValueError, match="cannot be used") as caught:
        parse_schedule(expression, "UTC")
    assert str(caught.value) == f"spec.schedule: {expression!r} cannot be used: {problem}; write for example 0 2 * * *"


@pytest.mark.parametrize("zone", ["Europe/Atlantis", "Europe", "../etc/passwd", "/etc/localtime", "", "UTC+2"])
def test_what_is_no_zone_is_refused_with_an_example(zone: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone") as caught:
        parse_schedule("0 2 * * *", zone)
    advice = "write it exactly, for example Europe/Berlin"
    assert str(caught.value) == f"spec.timeZone: {zone!r} is not a time zone; {advice}"


def test_a_day_that_comes_every_four_years_is_waited_for() -> None:
    schedule = parse_schedule("0 2 29 2 *", "UTC")
    assert schedule.next_after(at("2026-01-01")) == at("2028-02-29 02:00")
    assert schedule.latest(after=at("2020-01-01"), until=at("2027-12-31")) == at("2024-02-29 02:00")


# --- changes of the clock ---------------------------------------------------------------------------------------------
#: Zone, begin and end of a span in UTC around one change, and what is due in it.
CHANGES: Final = {
    # 2026-03-29 02:00 becomes 03:00 at 01:00 UTC
    "Berlin, in the gap": ("30 2 * * *", "Europe/Berlin", "2026-03-28", "2026-03-30", ["03-28 01:30", "03-29 01:00"]),
    "Berlin, the gap often": ("*/10 2 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29 23:59", ["03-29 01:00"]),
    "Berlin, the gap and its end": ("30 2,3 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29 23:59",
                                    ["03-29 01:00", "03-29 01:30"]),
    "Berlin, the gap and its end at once": ("0 2,3 * * *", "Europe/Berlin", "2026-03-29", "2026-03-29 23:59",
                                            ["03-29 01:00"]),
    "Berlin, real hours over the gap": ("30 * 29 3 *", "Europe/Berlin", "2026-03-28 23:59", "2026-03-29 02:59",
                                        ["03-29 00:30", "03-29 01:30", "03-29 02:30"]),
    # 2026-10-25 03:00 becomes 02:00 at 01:00 UTC
    "Berlin, twice": ("30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", "2026-10-26 12:00",
                      ["10-25 00:30", "10-26 01:30"]),
    "Berlin, the last before the change": ("59 2 * * *", "Europe/Berlin", "2026-10-25", "2026-10-25 23:59",
                                           ["10-25 00:59"]),
    "Berlin, where the change leads to": ("0 2 * * *", "Europe/Berlin", "2026-10-24 23:59", "2026-10-25 23:59",
                                          ["10-25 00:00"]),
    "Berlin, the first behind it": ("0 3 * * *", "Europe/Berlin", "2026-10-25", "2026-10-25 23:59", ["10-25 02:00"]),
    "Berlin, real hours": ("0 * 25 10 *", "Europe/Berlin", "2026-10-24 23:59", "2026-10-25 02:59",
                           ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
    "Berlin, named hours": ("0 0-23 25 10 *", "Europe/Berlin", "2026-10-24 23:59", "2026-10-25 02:59",
                            ["10-25 00:00", "10-25 02:00"]),
    # 2026-03-08 02:00 becomes 03:00 at 07:00 UTC, 2026-11-01 02:00 becomes 01:00 at 06:00 UTC
    "New York, in the gap": ("30 2 * * *", "America/New_York", "2026-03-08", "2026-03-09 12:00",
                             ["03-08 07:00", "03-09 06:30"]),
    "New York, twice": ("30 1 * * *", "America/New_York", "2026-11-01", "2026-11-02 12:00",
                        ["11-01 05:30", "11-02 06:30"]),
    "New York, midnight stays": ("@daily", "America/New_York", "2026-11-01", "2026-11-03",
                                 ["11-01 04:00", "11-02 05:00"]),
    # half an hour: 2026-10-04 02:00 becomes 02:30 at 15:30 UTC, 2026-04-05 02:00 becomes 01:30 at 15:00 UTC
    "Lord Howe, in the gap": ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03", "2026-10-04 23:00",
                              ["10-03 15:30", "10-04 15:15"]),
    "Lord Howe, behind the gap": ("45 2 * * *", "Australia/Lord_Howe", "2026-10-03", "2026-10-04 00:00",
                                  ["10-03 15:45"]),
    "Lord Howe, twice": ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04", "2026-04-05 23:00",
                         ["04-04 14:45", "04-05 15:15"]),
    "Lord Howe, once before": ("15 1 * * *", "Australia/Lord_Howe", "2026-04-04", "2026-04-05 00:00",
                               ["04-04 14:15"]),
    # 2011-12-30 never was: the 29th ended at 10:00 UTC on the 30th, and the 31st began
    "Apia, the day that never was": ("0 2 30 12 *", "Pacific/Apia", "2011-12-29", "2012-01-02", ["12-30 10:00"]),
    "Apia, every night": ("0 2 * * *", "Pacific/Apia", "2011-12-29", "2011-12-31",
                          ["12-29 12:00", "12-30 10:00", "12-30 12:00"]),
    "Apia, midnight": ("@daily", "Pacific/Apia", "2011-12-29", "2011-12-31 11:00",
                       ["12-29 10:00", "12-30 10:00", "12-31 10:00"]),
    # midnight itself is left out: 2026-09-06 00:00 becomes 01:00 at 04:00 UTC
    "Santiago, no midnight": ("@daily", "America/Santiago", "2026-09-05 12:00", "2026-09-07 12:00",
                              ["09-06 04:00", "09-07 03:00"]),
    "Santiago, weekly": ("@weekly", "America/Santiago", "2026-09-05 12:00", "2026-09-13 12:00",
                         ["09-06 04:00", "09-13 03:00"]),
}  # fmt: skip


@pytest.mark.parametrize(("expression", "zone", "begin", "end", "expected"), CHANGES.values(), ids=CHANGES)
def test_a_change_of_the_clock_fires_each_time_once(
    expression: str, zone: str, begin: str, end: str, expected: list[str]
) -> None:
    assert times(expression, zone, begin, end) == expected


@pytest.mark.parametrize(("expression", "zone", "begin", "end", "expected"), CHANGES.values(), ids=CHANGES)
def test_whoever_looks_every_half_hour_over_a_change_of_the_clock_finds_the_same_runs(
    expression: str, zone: str, begin: str, end: str, expected: list[str]
) -> None:
    """As the workflow does it: what is due since the last run, and not before the policy was first seen."""
    schedule, done, found = parse_schedule(expression, zone), at(begin), []
    for moment in minutes_between(at(begin), at(end), step=30 * _MINUTE):
        due = schedule.latest(after=done, until=moment)
        if due is not None:
            found.append(due.strftime("%m-%d %H:%M"))
            done = due
    assert found == expected


@pytest.mark.parametrize(("day", "count"), [("2026-03-28", 24), ("2026-03-29", 23), ("2026-10-25", 25)])
def test_an_hourly_schedule_counts_the_real_hours_of_a_day(day: str, count: int) -> None:
    zone = ZoneInfo("Europe/Berlin")
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    end = (begin + timedelta(days=1)).astimezone(UTC)
    schedule, found, moment = parse_schedule("@hourly", "Europe/Berlin"), 0, begin.astimezone(UTC) - _MINUTE
    while (moment := following(schedule, moment)) < end:
        found += 1
    assert found == count


# --- missed, late, edited ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("after", "until", "expected"),
    {
        "none missed": ("2026-05-01 02:00", "2026-05-02 01:59:59", None),
        "due now": ("2026-05-01 02:00", "2026-05-02 02:00", "2026-05-02 02:00"),
        "one missed": ("2026-05-01 02:00", "2026-05-02 17:00", "2026-05-02 02:00"),
        "a month missed": ("2026-05-01 02:00", "2026-06-01 01:00", "2026-05-31 02:00"),
        "years missed": ("2019-05-01 02:00", "2026-05-01 01:00", "2026-04-30 02:00"),
        "a moment behind the last": ("2026-05-01 01:59:59.999999", "2026-05-01 02:00", "2026-05-01 02:00"),
        "at the last": ("2026-05-01 02:00", "2026-05-01 02:00", None),
        "parts of a second": ("2026-05-01 02:00", "2026-05-02 02:00:00.000001", "2026-05-02 02:00"),
        "the clock jumped back": ("2026-05-05 02:00", "2026-05-03 12:00", None),
    }.values(),
)
def test_what_was_missed_is_due_once_as_its_latest_time(after: str, until: str, expected: str | None) -> None:
    schedule = parse_schedule("0 2 * * *", "UTC")
    found = schedule.latest(after=at(after), until=at(until))
    assert found == (at(expected) if expected else None)
    if found is not None:
        assert schedule.latest(after=found, until=at(until)) is None


def test_a_missed_year_is_found() -> None:
    schedule = parse_schedule("@yearly", "Asia/Tokyo")
    assert schedule.latest(after=at("2024-06-01"), until=at("2026-11-25")) == at("2025-12-31 15:00")


def test_a_clock_that_jumps_back_and_goes_on_fires_nothing_twice() -> None:
    schedule, done, found = parse_schedule("*/10 * * * *", "Europe/Berlin"), at("2026-05-01 00:00"), []
    for minutes in (*range(60), *range(20, 75)):
        due = schedule.latest(after=done, until=at("2026-05-01 00:00") + minutes * _MINUTE)
        if due is not None:
            found.append(due)
            done = due
    assert found == [at("2026-05-01 00:00") + minutes * _MINUTE for minutes in range(10, 75, 10)]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("Asia/Tokyo", "2026-05-01 17:00"),
        ("America/New_York", "2026-05-02 06:00"),
        ("Asia/Kathmandu", "2026-05-01 20:15"),
    ],
)
def test_a_policy_that_moves_to_another_zone_is_due_at_its_next_local_time_and_not_before(
    zone: str, expected: str
) -> None:
    """A policy of Berlin ran at 02:00; its zone is changed at noon."""
    edited, schedule = at("2026-05-01 12:00"), parse_schedule("0 2 * * *", zone)
    assert schedule.latest(after=edited, until=edited + timedelta(hours=5) - _MINUTE) is None
    assert schedule.next_after(edited) == at(expected)


# --- against a walk over all minutes ----------------------------------------------------------------------------------
#: A zone and a moment in UTC, near a change of its clock; the last has none.
_PLACES: Final = (
    ("Europe/Berlin", "2026-03-29 01:00"),
    ("Europe/Berlin", "2026-10-25 01:00"),
    ("America/New_York", "2026-03-08 07:00"),
    ("America/New_York", "2026-11-01 06:00"),
    ("America/Santiago", "2026-09-06 04:00"),
    ("America/Santiago", "2026-04-05 03:00"),
    ("Australia/Lord_Howe", "2026-10-03 15:30"),
    ("Australia/Lord_Howe", "2026-04-04 15:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Asia/Kathmandu", "2026-02-28 20:00"),
)
#: Changes by anything but an hour, where CronSim, which knows the real hours, may take or leave one that it should not.
_ODD_CHANGES: Final = ("Australia/Lord_Howe", "Pacific/Apia")
_AROUND: Final = timedelta(days=1)
_NAMES: Final = {"SUN": 0, "MON": 1, "FRI": 5, "MAR": 3, "OCT": 10, "DEC": 12}
#: How many times in a row are looked at.
_FOLLOWED: Final = 20
_BOUNDS: Final = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def minutes_between(begin: datetime, end: datetime, step: timedelta = _MINUTE) -> Iterator[datetime]:
    """Moments from `begin` to `end`, both included."""
    moment = begin
    while moment <= end:
        yield moment
        moment += step


class Wall(NamedTuple):
    """What a clock on the wall shows, as the fields of a schedule."""

    minute: int
    hour: int
    day: int
    month: int
    weekday: int

    @classmethod
    def of(cls, wall: datetime) -> "Wall":
        return cls(wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday())


@functools.cache
def walk(place: tuple[str, str]) -> Sequence[tuple[datetime, Wall, Sequence[Wall]]]:
    """Every minute around a place; what the wall shows then; of this and the minutes that it left out, what is new."""
    zone, middle, found = ZoneInfo(place[0]), at(place[1]), []
    highest = (middle - 2 * _AROUND).astimezone(zone).replace(tzinfo=None) - _MINUTE
    for moment in minutes_between(middle - 2 * _AROUND, middle + _AROUND):
        wall = moment.astimezone(zone).replace(tzinfo=None)
        found.append((moment, Wall.of(wall), [Wall.of(new) for new in minutes_between(highest + _MINUTE, wall)]))
        highest = max(highest, wall)
    return found


def values_of(text: str, low: int, high: int) -> set[int]:
    """What a field allows."""
    allowed: set[int] = set()
    for term in text.split(","):
        span, _, step = term.partition("/")
        first, _, last = span.partition("-")
        begin = low if first == "*" else _number(first)
        end = _number(last) if last else high if first == "*" or step else begin
        allowed.update(range(begin, end + 1, int(step or 1)))
    return allowed


def _number(text: str) -> int:
    return _NAMES[text] if text in _NAMES else int(text)


def due_times(expression: str, place: tuple[str, str]) -> list[datetime]:
    """What is due around a place: a minute whose wall clock matches, or that follows on minutes which it left out."""
    fields = expression.split()
    allowed = [values_of(text, low, high) for text, (low, high) in zip(fields, _BOUNDS, strict=True)]
    days_together = "*" in (fields[2][0], fields[4][0])

    def matches(wall: Wall) -> bool:
        if wall.minute not in allowed[0] or wall.hour not in allowed[1] or wall.month not in allowed[3]:
            return False
        of_month, of_week = wall.day in allowed[2], bool({wall.weekday, wall.weekday % 7} & allowed[4])
        return of_month and of_week if days_together else of_month or of_week

    if fields[1] == "*":
        return [moment for moment, wall, _ in walk(place) if matches(wall)]
    return [moment for moment, _, new in walk(place) if any(map(matches, new))]


def _terms(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high)
    steps = st.sampled_from(["", "", "/2", "/3", "/7", "/15", "/99"])
    ranges = st.lists(numbers, min_size=2, max_size=2, unique=True).map(lambda ends: f"{min(ends)}-{max(ends)}")
    spans = st.one_of(numbers.map(str), ranges, st.sampled_from(["*", *names]))
    return st.tuples(spans, steps).map("".join)


def _fields(low: int, high: int, names: Sequence[str] = ()) -> st.SearchStrategy[str]:
    return st.lists(_terms(low, high, names), min_size=1, max_size=3).map(",".join)


_HOURS: Final = st.one_of(st.just("*"), st.sampled_from(["1", "2", "1-3", "0", "0,2"]), _fields(0, 23))
_EXPRESSIONS: Final = st.tuples(
    _fields(0, 59),
    _HOURS,
    st.one_of(st.just("*"), _fields(1, 31)),
    st.one_of(st.just("*"), _fields(1, 12, ("MAR", "OCT-DEC"))),
    st.one_of(st.just("*"), _fields(0, 7, ("SUN", "MON-FRI"))),
).map(" ".join)
_SECONDS: Final = st.integers(-int(_AROUND.total_seconds()), int(_AROUND.total_seconds()))


@settings(share(0.2), phases=[Phase.explicit, Phase.generate])  # a walk is long, and shrinking takes thousands
@given(_EXPRESSIONS, st.sampled_from(_PLACES), st.lists(_SECONDS, min_size=2, max_size=2))
def test_due_times_are_those_of_a_walk_over_all_minutes(
    expression: str, place: tuple[str, str], seconds: list[int]
) -> None:
    assume(expression.split()[1] != "*" or place[0] not in _ODD_CHANGES)
    after, until = sorted(at(place[1]) + timedelta(seconds=number) for number in seconds)
    try:
        schedule = parse_schedule(expression, place[0])
    except ValueError:
        return  # 30 February
    between = [time for time in due_times(expression, place) if after < time <= until]
    assert schedule.latest(after=after, until=until) == (between[-1] if between else None)
    moment = after
    for time in between[:_FOLLOWED]:
        moment = following(schedule, moment)
        assert moment == time
