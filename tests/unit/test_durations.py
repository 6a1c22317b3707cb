"""Lengths of time as people write them: what is one, how long the longest is, and what a refusal says."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskdeletion.api.timing import DURATION_PATTERN, UNIT_SECONDS
from taskdeletion.domain.durations import parse_duration
from tests.support.properties import share

LONGEST = timedelta(days=3650)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1m", timedelta(minutes=1)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(days=14)),
        ("3650d", LONGEST),
        ("87600h", LONGEST),
        ("5256000m", LONGEST),
        ("521w", timedelta(weeks=521)),
    ],
)
def test_a_whole_number_with_its_unit_is_a_duration(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["3651d", "87601h", "5256001m", "522w", "9999999w", "9999999d"])
def test_what_is_longer_than_3650_days_is_refused_as_that(text: str) -> None:
    with pytest.raises(ValueError, match="longer") as caught:
        parse_duration(text)
    assert str(caught.value) == f"{text} is longer than 3650d"


@pytest.mark.parametrize(
    "text",
    {
        "nothing": "",
        "number alone": "30",
        "unit alone": "d",
        "zero": "0d",
        "zero in front": "030d",
        "sign": "+1d",
        "negative": "-1d",
        "fraction": "1.5d",
        "seconds": "30s",
        "months": "3M",
        "years": "1y",
        "capital": "30D",
        "two units": "1d12h",
        "ISO 8601": "P30D",
        "space between": "30 d",
        "space in front": " 30d",
        "space behind": "30d ",
        "newline": "30d\n",
        "line behind": "30d\n1m",
        "too many digits": "10000000m",
        "digits of another script": "٣d",
        "letter that looks like another": "30ԁ",
    }.values(),
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration") as caught:
        parse_duration(text)
    assert str(caught.value) == f"{text!r} is no duration; write a whole number with m, h, d or w, such as 30d"


@share(0.3)
@given(st.integers(1, 9_999_999), st.sampled_from(sorted(UNIT_SECONDS)))
def test_every_number_and_unit_is_that_long_or_refused(number: int, unit: str) -> None:
    length = timedelta(seconds=number * UNIT_SECONDS[unit])
    try:
        assert parse_duration(f"{number}{unit}") == length
    except ValueError:
        assert length > LONGEST
    else:
        assert length <= LONGEST


@share(0.3)
@given(st.text("0123456789mhdws-+. \nMHDW", max_size=9))
def test_the_operator_takes_nothing_that_the_pattern_of_the_api_refuses(text: str) -> None:
    is_taken = True
    try:
        parse_duration(text)
    except ValueError as error:
        is_taken = "longer" in str(error)
    assert is_taken == (re.fullmatch(DURATION_PATTERN, text) is not None)
