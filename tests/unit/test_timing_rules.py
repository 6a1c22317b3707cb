"""The edges of what a policy may say about times and numbers, as the models have them that the CRD is made of."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from taskdeletion.api.retention_policy import Limits, Rule, TaskRetentionPolicySpec, Template
from taskdeletion.api.timing import DURATION_PATTERN, LONGEST_DURATION_SECONDS, SCHEDULE_PATTERN, UNIT_SECONDS
from taskdeletion.domain.schedule import MACROS, parse_schedule

OLD = {"olderThan": "30d"}


def spec(**fields: Any) -> TaskRetentionPolicySpec:
    return TaskRetentionPolicySpec.model_validate({"schedule": "@daily", **fields})


# --- schedules --------------------------------------------------------------------------------------------------------
#: Lowest and highest value of each field, the first below or above it, and where the field is.
_FIELDS = {
    "minute": (0, "0", "59", ("60", "99", "-1")),
    "hour": (1, "0", "23", ("24", "99", "-1")),
    "day of month": (2, "1", "31", ("0", "32", "00")),
    "month": (3, "1", "12", ("0", "13", "00")),
    "day of week": (4, "0", "7", ("8", "07", "-1")),
}


def with_field(number: int, text: str) -> str:
    """A schedule whose fields are all stars but one."""
    fields = ["*"] * 5
    fields[number] = text
    return " ".join(fields)


@pytest.mark.parametrize(("number", "low", "high", "outside"), _FIELDS.values(), ids=_FIELDS)
def test_a_field_takes_its_lowest_and_its_highest_value_and_none_beside(
    number: int, low: str, high: str, outside: tuple[str, ...]
) -> None:
    for text in (low, high, f"{low}-{high}", f"{low},{high}", f"*/{high}" if high != "7" else "*/2", "*"):
        schedule = with_field(number, text)
        assert spec(schedule=schedule).schedule == schedule
        assert parse_schedule(schedule, "UTC").fields == schedule
    for text in (*outside, "", "-", "1-", ",1", "1,", "1//2", "1/0", "/2", "?", "L", "1#2", "1W", "H"):
        with pytest.raises(ValidationError):
            spec(schedule=with_field(number, text))


@pytest.mark.parametrize(
    "schedule",
    ["0 2 * MON *", "0 2 * * JAN", "0 2 MON * *", "0 2 * jan *", "0 2 * * Mon", "0 2 * * MON#1", "0 2 * * MONDAY"],
)
def test_a_name_stands_in_its_own_field_in_capitals_only(schedule: str) -> None:
    with pytest.raises(ValidationError):
        spec(schedule=schedule)


@pytest.mark.parametrize("macro", MACROS)
def test_every_macro_that_the_operator_knows_is_one_for_the_api(macro: str) -> None:
    assert re.fullmatch(SCHEDULE_PATTERN, macro)
    assert spec(schedule=macro).schedule == macro


@pytest.mark.parametrize("schedule", ["@reboot", "@every 1h", "@Daily", "@", "daily", " 0 2 * * *", "0 2 * * * "])
def test_other_words_are_no_schedule(schedule: str) -> None:
    with pytest.raises(ValidationError):
        spec(schedule=schedule)


def test_a_schedule_has_at_most_128_characters() -> None:
    longest = "0" + ",00" * 39 + ",0 2 * * *"
    assert len(longest) == 128
    assert spec(schedule=longest).schedule == longest
    with pytest.raises(ValidationError, match="at most 128"):
        spec(schedule=longest + "," + "1")


# --- durations --------------------------------------------------------------------------------------------------------
def test_the_units_are_minutes_hours_days_and_weeks() -> None:
    assert UNIT_SECONDS == {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
    assert 3650 * UNIT_SECONDS["d"] == LONGEST_DURATION_SECONDS


@pytest.mark.parametrize("text", ["1m", "9999999m", "1w", "30d"])
def test_a_duration_of_one_to_seven_digits_fits_everywhere(text: str) -> None:
    assert re.fullmatch(DURATION_PATTERN, text)
    assert Rule.model_validate({"olderThan": text}).older_than == text
    assert Limits.model_validate({"minimumAge": text}).minimum_age == text


@pytest.mark.parametrize("text", ["", "m", "0m", "01m", "10000000m", "1", "1s", "1.0d", "1d ", 30, None])
def test_what_is_no_duration_does_not_fit(text: object) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"olderThan": text})


# --- rules and limits -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "name", "low", "high"),
    [
        (Rule, "keepLast", 1, 100_000),
        (Limits, "maxTasksPerRun", 1, 200_000),
        (Limits, "maxPercentage", 1, 100),
        (Template, "backoffLimit", 0, 100),
        (Template, "activeDeadlineSeconds", 1, 2_147_483_647),
        (Template, "ttlSecondsAfterFinished", 300, 2_147_483_647),
    ],
)
def test_a_number_is_taken_up_to_its_edges(
    model: type[Rule | Limits | Template], name: str, low: int, high: int
) -> None:
    beside = OLD if model is Rule else {}
    for number in (low, high):
        assert model.model_validate({**beside, name: number}).to_api()[name] == number
    for number in (low - 1, high + 1, -1):
        with pytest.raises(ValidationError, match=name):
            model.model_validate({**beside, name: number})


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("startingDeadlineSeconds", 10, 2_147_483_647),
        ("successfulDeletionsHistoryLimit", 0, 1000),
        ("failedDeletionsHistoryLimit", 0, 1000),
    ],
)
def test_a_number_of_the_policy_itself_is_taken_up_to_its_edges(name: str, low: int, high: int) -> None:
    for number in (low, high):
        assert spec(**{name: number}).to_api()[name] == number
    for number in (low - 1, high + 1):
        with pytest.raises(ValidationError, match=name):
            spec(**{name: number})


@pytest.mark.parametrize("rule", [{}, {"keepLast": 20}, {"statuses": None, "olderThan": None}])
def test_a_rule_without_a_condition_is_refused_with_what_to_add(rule: dict[str, Any]) -> None:
    advice = r"needs at least one of statuses, olderThan and taskIdPattern.*olderThan: 3650d"
    with pytest.raises(ValidationError, match=advice):
        Rule.model_validate(rule)


@pytest.mark.parametrize("rule", [{"statuses": ["failed"]}, OLD, {"taskIdPattern": "*"}])
def test_one_condition_is_enough(rule: dict[str, Any]) -> None:
    assert Rule.model_validate({**rule, "keepLast": 1}).keep_last == 1


def test_a_policy_has_at_most_16_rules() -> None:
    assert len(spec(rules=[OLD] * 16).rules) == 16
    with pytest.raises(ValidationError, match="at most 16"):
        spec(rules=[OLD] * 17)


def test_what_is_not_said_is_careful() -> None:
    found = spec()
    assert (found.rules, found.suspend, found.dry_run, found.concurrency_policy) == ([], False, False, "Forbid")
    assert (found.limits.max_tasks_per_run, found.limits.max_percentage, found.limits.minimum_age) == (
        10_000,
        None,
        None,
    )
    assert found.template.to_api() == {}
