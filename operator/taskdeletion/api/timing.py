"""How times of day and lengths of time are written: the schedule of a policy, and durations such as 30d.

Used by the kind TaskRetentionPolicy; what they mean is in `domain.schedule` and `domain.durations`.
"""

from typing import Annotated, Final

from pydantic import Field

from taskdeletion.api.common import matching, rule, with_rules

LONGEST_DURATION_SECONDS: Final = 3650 * 86_400
UNIT_SECONDS: Final = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}

DURATION_PATTERN: Final = r"^[1-9][0-9]{0,6}[mhdw]$"


def _field(number: str, names: str = "") -> str:
    """The pattern of one field of a schedule: `*`, numbers or names, ranges, lists, steps."""
    value = f"(?:{number}|{names})" if names else f"(?:{number})"
    term = rf"(?:\*|{value}(?:-{value})?)(?:/[1-9][0-9]?)?"
    return rf"{term}(?:,{term})*"


_MONTHS: Final = "JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC"
_DAYS: Final = "SUN|MON|TUE|WED|THU|FRI|SAT"
_FIELDS: Final = (
    _field("[0-5]?[0-9]"),
    _field("[01]?[0-9]|2[0-3]"),
    _field("0?[1-9]|[12][0-9]|3[01]"),
    _field("0?[1-9]|1[0-2]", _MONTHS),
    _field("[0-7]", _DAYS),
)
SCHEDULE_PATTERN: Final = rf"^(?:@(?:yearly|annually|monthly|weekly|daily|midnight|hourly)|{' +'.join(_FIELDS)})$"
SCHEDULE_ADVICE: Final = (
    "a schedule has five fields (minute, hour, day of month, month, day of week; names such as JAN and MON in capitals)"
    " or is one of @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually; write for example 0 2 * * *"
)
_DURATION_ADVICE: Final = (
    "a duration is a whole number, at least 1, with its unit m, h, d or w; write for example 12h or 30d"
)
_LONG: Final = "{" + ", ".join(f"'{unit}': {seconds}" for unit, seconds in UNIT_SECONDS.items()) + "}"

Duration = Annotated[
    str,
    Field(
        pattern=DURATION_PATTERN,
        min_length=2,
        max_length=8,
        json_schema_extra=with_rules(
            rule(f"self.matches(r'{DURATION_PATTERN}')", _DURATION_ADVICE),
            rule(
                f"!self.matches(r'{DURATION_PATTERN}') || int(self.substring(0, self.size() - 1))"
                f" * {_LONG}[self.substring(self.size() - 1)] <= {LONGEST_DURATION_SECONDS}",
                "a duration is at most 3650d",
            ),
        ),
    ),
]
Schedule = Annotated[str, matching(SCHEDULE_PATTERN, SCHEDULE_ADVICE, min_length=1, max_length=128)]
