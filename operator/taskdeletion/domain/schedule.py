"""When a policy is due: cron fields in a time zone, in, and moments in UTC, out. Pure.

Fields are local times, and each fires once: one that a change of the clock leaves out at the end of the gap, one that
occurs twice at the first. Where the hour is `*`, what counts are real hours. Source of the fields: CronSim, as Debian's
cron: day of month and day of week both hold where one of them begins with `*`, else either is enough.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

MACROS: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: Local time that stands still, or is left out, at one change of the clock: longer than any that ever was but one.
_CHANGE: Final = timedelta(hours=3)
#: How far back the latest time is looked for, step by step, so that neither minutes nor years take long.
_WINDOWS: Final = tuple(timedelta(days=days) for days in (1 / 24, 1, 32, 366, 9 * 366))
_MINUTE: Final = timedelta(minutes=1)
_DATES: Final = ", or dates that never come"
_STEPPED_RANGE: Final = re.compile(r"([0-9A-Z]+)-([0-9A-Z]+)/")
_NAMES: Final = {
    **{name: day for day, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))},
    **{
        name: month
        for month, name in enumerate(
            ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"), start=1
        )
    },
}
_SOME_DAY: Final = datetime(2024, 1, 1)  # noqa: DTZ001 - fields are local times


@dataclass(frozen=True)
class Schedule:
    """Five cron fields in a zone; see `parse_schedule`."""

    fields: str
    zone: ZoneInfo

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time that is due after `moment`, in UTC; None where none comes within 50 years."""
        return next(self._times_after(moment), None)

    def latest(self, *, after: datetime, until: datetime) -> datetime | None:
        """The last time that is due after `after` and not after `until`, in UTC; None where there is none."""
        for window in _WINDOWS:
            start = max(after, until - window)
            found = self._last_between(start, until)
            if found is not None or start == after:
                return found
        return None

    def _last_between(self, start: datetime, until: datetime) -> datetime | None:
        found = None
        for time in self._times_after(start):
            if time > until:
                break
            found = time
        return found

    def _times_after(self, moment: datetime) -> Iterator[datetime]:
        """All times after `moment`, each once, in order."""
        last = moment.astimezone(UTC)
        for time in self._real_hours(last) if self.fields.split()[1] == "*" else self._local_times(last):
            if time > last:
                yield time
                last = time

    def _real_hours(self, moment: datetime) -> Iterator[datetime]:
        for time in CronSim(self.fields, moment.astimezone(self.zone)):
            yield time.astimezone(UTC)

    def _local_times(self, moment: datetime) -> Iterator[datetime]:
        start = moment.astimezone(self.zone).replace(tzinfo=None) - _CHANGE
        for time in CronSim(self.fields, start):
            yield self._resolve(time)

    def _resolve(self, time: datetime) -> datetime:
        """The moment of a local time: of two the first, of none the end of the gap."""
        moment = time.replace(tzinfo=self.zone).astimezone(UTC)
        while moment.astimezone(self.zone).replace(tzinfo=None) != time:
            time += _MINUTE
            moment = time.replace(tzinfo=self.zone).astimezone(UTC)
        return moment


def parse_schedule(expression: str, time_zone: str) -> Schedule:
    """`expression` (five fields or a macro) in the IANA zone `time_zone`. Raises ValueError that says what to write."""
    fields = MACROS.get(expression, expression)
    try:
        zone = ZoneInfo(time_zone)
    except (KeyError, ValueError, OSError):
        message = f"spec.timeZone: {time_zone!r} is not a time zone; write it exactly, for example Europe/Berlin"
        raise ValueError(message) from None
    problem = _find_problem(fields)
    if problem:
        raise ValueError(f"spec.schedule: {expression!r} cannot be used: {problem}; write for example 0 2 * * *")
    return Schedule(fields, zone)


def _value(word: str) -> int:
    return _NAMES[word] if word in _NAMES else int(word)


def _find_problem(fields: str) -> str:
    """What is wrong with five cron fields, or ""."""
    if len(fields.split()) != 5:
        return "it needs five fields"
    try:
        next(CronSim(fields, _SOME_DAY))
    except CronSimError as error:
        return f"{error}{_DATES if 'day-of-month' in str(error) else ''}"
    if any(_value(first) == _value(last) for first, last in _STEPPED_RANGE.findall(fields)):
        return "a range of one value has a step"  # CronSim takes 2-2/6 for 2/6
    return ""
