"""Lengths of time as people write them in a policy: 30d, 12h. Pure."""

import re
from datetime import timedelta

from taskdeletion.api.timing import DURATION_PATTERN, LONGEST_DURATION_SECONDS, UNIT_SECONDS


def parse_duration(text: str) -> timedelta:
    """`text` as a length of time. Raises ValueError for what is none, or is longer than 3650 days."""
    if re.fullmatch(DURATION_PATTERN, text) is None:
        raise ValueError(f"{text!r} is no duration; write a whole number with m, h, d or w, such as 30d")
    seconds = int(text[:-1]) * UNIT_SECONDS[text[-1]]
    if seconds > LONGEST_DURATION_SECONDS:
        raise ValueError(f"{text} is longer than 3650d")
    return timedelta(seconds=seconds)
