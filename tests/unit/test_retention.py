"""The edges of a selection, in tables: ages to the microsecond, the newest that stay, percentages, the size of a run.

What holds for every catalog and every policy is in `test_retention_properties.py`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskdeletion.api import reasons
from taskdeletion.api.retention_policy import TaskRetentionPolicySpec
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.retention import Retention, Selected, Selection

NOW = datetime(2026, 11, 25, 2, 0, 7, tzinfo=UTC)
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)
ANY_AGE = {"taskIdPattern": "*"}


def task(
    task_id: str, age: timedelta = 30 * DAY, *statuses: str, has_files: bool = True, now: datetime = NOW
) -> FinishedTask:
    """A finished task that was created `age` ago; completed unless said otherwise."""
    return FinishedTask(task_id, frozenset(statuses or ("completed",)), now - age, has_files)


def line(count: int, prefix: str = "t") -> list[FinishedTask]:
    """So many tasks, the oldest first: t01 and so on, each a day younger than the one before."""
    return [task(f"{prefix}{number:02}", (100 - number) * DAY) for number in range(1, count + 1)]


def select(
    tasks: Sequence[FinishedTask],
    *rules: dict[str, Any],
    now: datetime = NOW,
    with_files: int | None = None,
    busy: frozenset[str] = frozenset(),
    **more: Any,
) -> Selected:
    """What a policy with these rules takes. `with_files`: tasks with files, if others are than those in `tasks`."""
    spec = TaskRetentionPolicySpec.model_validate({"schedule": "@daily", "rules": list(rules), **more})
    selection = Selection(Retention.of(spec), now, busy)
    for found in tasks:
        selection.offer(found)
    return selection.result(with_files=sum(t.has_files for t in tasks) if with_files is None else with_files)


def ids(found: Selected) -> list[str]:
    return list(found.task_ids)


# --- olderThan and minimumAge -----------------------------------------------------------------------------------------
AGES = {
    "younger by a microsecond": (30 * DAY - MICROSECOND, False),
    "exactly as old": (30 * DAY, False),
    "older by a microsecond": (30 * DAY + MICROSECOND, True),
    "older by a second": (30 * DAY + SECOND, True),
    "of the future": (-DAY, False),
}


@pytest.mark.parametrize(("age", "goes"), AGES.values(), ids=AGES)
@pytest.mark.parametrize(
    ("rule", "limits"),
    [
        ({"olderThan": "30d"}, {}),
        ({"olderThan": "720h"}, {}),
        (ANY_AGE, {"minimumAge": "30d"}),
        ({"olderThan": "1m"}, {"minimumAge": "30d"}),
        ({"olderThan": "30d"}, {"minimumAge": "1m"}),
    ],
    ids=["olderThan", "the same in hours", "minimumAge", "the longer of both", "the longer of both, turned round"],
)
def test_a_task_goes_only_when_it_is_older_than_the_longer_of_both_ages(
    rule: dict[str, Any], limits: dict[str, Any], age: timedelta, goes: bool
) -> None:
    found = select([task("a", age)], rule, limits=limits)
    assert ids(found) == (["a"] if goes else [])
    assert found.cutoff == NOW - 30 * DAY


def test_parts_of_a_second_of_the_clock_make_no_task_older() -> None:
    """The cutoff of a TaskDeletion has whole seconds; a task between both would be selected, and then refused."""
    now = NOW + 999_999 * MICROSECOND
    tasks = [task("at", 30 * DAY, now=NOW), task("before", 30 * DAY + MICROSECOND, now=NOW)]
    found = select(tasks, {"olderThan": "30d"}, now=now)
    assert ids(found) == ["before"]
    assert found.cutoff == NOW - 30 * DAY


def test_the_longest_age_is_ten_years() -> None:
    tasks = [task("old", 3650 * DAY + SECOND), task("young", 3650 * DAY)]
    assert ids(select(tasks, {"olderThan": "3650d"})) == ["old"]


def test_a_minimum_age_protects_what_a_rule_wants_and_is_counted_so() -> None:
    found = select([task("a", 2 * DAY), task("b", 9 * DAY)], {"olderThan": "1d"}, limits={"minimumAge": "7d"})
    assert (ids(found), found.matched, found.protected) == (["b"], 2, 1)


def test_the_cutoff_is_that_of_the_youngest_that_any_rule_takes() -> None:
    rules = ({"statuses": ["failed"], "olderThan": "7d"}, {"olderThan": "30d"})
    assert select([], *rules).cutoff == NOW - 7 * DAY


# --- keepLast ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("keep_last", "gone"), [(1, 4), (4, 1), (5, 0), (6, 0), (100_000, 0)])
def test_the_newest_of_a_rule_stay(keep_last: int, gone: int) -> None:
    found = select(line(5), {**ANY_AGE, "keepLast": keep_last})
    assert ids(found) == [f"t{number:02}" for number in range(1, gone + 1)]
    assert (found.matched, found.protected) == (5, 5 - gone)


def test_the_newest_count_whatever_their_age() -> None:
    """Tasks that are too young to go fill the places: keepLast promises a number, not a number of old ones."""
    tasks = [task("young_1", DAY), task("young_2", 2 * DAY), task("old_1", 40 * DAY), task("old_2", 50 * DAY)]
    found = select(tasks, {"olderThan": "30d", "keepLast": 3})
    assert (ids(found), found.matched, found.protected) == (["old_2"], 2, 1)


def test_the_newest_of_one_rule_stay_for_every_rule() -> None:
    tasks = [task(f"nightly_{day}", day * DAY) for day in range(31, 35)]
    found = select(tasks, {"taskIdPattern": "nightly_*", "olderThan": "3650d", "keepLast": 2}, {"olderThan": "1d"})
    assert (ids(found), found.protected) == (["nightly_34", "nightly_33"], 2)


def test_each_rule_keeps_its_own_newest() -> None:
    tasks = [*line(3, "a"), *line(3, "b")]
    rules = [{"taskIdPattern": f"{name}*", "keepLast": keep} for name, keep in (("a", 1), ("b", 2))]
    assert ids(select(tasks, *rules)) == ["a01", "b01", "a02"]


def test_the_newest_that_two_rules_keep_count_for_both() -> None:
    tasks = [*line(2, "a"), task("z", DAY, "failed")]
    found = select(tasks, {**ANY_AGE, "keepLast": 2}, {"statuses": ["completed"], "keepLast": 1})
    assert (ids(found), found.protected) == (["a01"], 2)


def test_of_tasks_of_the_same_moment_the_last_by_id_is_the_newest() -> None:
    tasks = [task(name) for name in ("b", "c", "a")]
    assert ids(select(tasks, {**ANY_AGE, "keepLast": 1})) == ["a", "b"]
    assert ids(select(tasks, ANY_AGE, limits={"maxTasksPerRun": 2})) == ["a", "b"]


def test_a_task_without_files_keeps_no_other_task_from_staying() -> None:
    """What is gone already is no result that anybody wants kept, unless its records are to go too."""
    tasks = [task("gone", DAY, has_files=False), task("new", 2 * DAY), task("old", 3 * DAY)]
    assert ids(select(tasks, {**ANY_AGE, "keepLast": 1})) == ["old"]
    records = {"deleteDatabaseRecords": True}
    assert ids(select(tasks, {**ANY_AGE, "keepLast": 1}, template=records)) == ["old", "new"]


# --- statuses and patterns --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("statuses", "goes"),
    [
        (("completed",), True),
        (("failed",), True),
        (("completed", "failed"), True),
        (("cancelled",), False),
        (("completed", "cancelled"), False),
    ],
)
def test_every_status_of_a_task_has_to_be_one_of_the_rule(statuses: tuple[str, ...], goes: bool) -> None:
    found = select([task("a", 30 * DAY, *statuses)], {"statuses": ["completed", "failed"]})
    assert ids(found) == (["a"] if goes else [])


@pytest.mark.parametrize(
    ("pattern", "task_id", "goes"),
    {
        "the whole id": ("nightly", "nightly", True),
        "not its beginning": ("nightly", "nightly_1", False),
        "not its end": ("nightly", "a_nightly", False),
        "a star is anything": ("nightly_*", "nightly_a.b-c", True),
        "also nothing": ("nightly_*", "nightly_", True),
        "a question mark is one": ("run_?", "run_1", True),
        "not two": ("run_?", "run_12", False),
        "not none": ("run_?", "run_", False),
        "a point is a point": ("v1.2", "v1x2", False),
        "capitals are others": ("Nightly*", "nightly_1", False),
        "stars in a row": ("**a**", "bab", True),
        "the longest of stars": ("*a" * 60, "a" * 60, True),
        "takes no time to fail": ("*a" * 60 + "b", "a" * 128, False),
    }.values(),
)
def test_a_pattern_is_compared_with_the_whole_id(pattern: str, task_id: str, goes: bool) -> None:
    assert ids(select([task(task_id)], {"taskIdPattern": pattern})) == ([task_id] if goes else [])


# --- maxPercentage ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "with_files", "limit", "is_refused"),
    {
        "at the limit": (10, 100, 10, False),
        "one above": (11, 100, 10, True),
        "a third at 33": (1, 3, 33, True),
        "a third at 34": (1, 3, 34, False),
        "everything at 100": (10, 10, 100, False),
        "one of a hundred and one at 1": (1, 101, 1, False),
        "one of ninety-nine at 1": (1, 99, 1, True),
        "none": (0, 10, 1, False),
        "none of none": (0, 0, 1, False),
    }.values(),
)
def test_a_run_is_refused_whole_above_the_percentage_and_not_at_it(
    wanted: int, with_files: int, limit: int, is_refused: bool
) -> None:
    found = select(line(wanted), ANY_AGE, with_files=with_files, limits={"maxPercentage": limit})
    assert (found.reason == reasons.LIMIT_EXCEEDED) == is_refused
    assert (len(found.task_ids), found.refused) == ((0, wanted) if is_refused else (wanted, 0))


def test_a_refusal_says_the_share_the_limit_and_what_to_do() -> None:
    found = select(line(3), ANY_AGE, with_files=8, limits={"maxPercentage": 10})
    assert found.message == (
        "the rules take 3 of 8 tasks that still have files (37.5 %), and limits.maxPercentage is 10: nothing goes;"
        " correct the rules, or raise the limit if so much is to go"
    )


def test_the_percentage_is_of_what_the_rules_want_before_the_size_of_the_run_cuts_it() -> None:
    found = select(line(6), ANY_AGE, with_files=10, limits={"maxPercentage": 50, "maxTasksPerRun": 1})
    assert (found.reason, ids(found), found.refused) == (reasons.LIMIT_EXCEEDED, [], 6)


def test_what_is_protected_does_not_count_for_the_percentage() -> None:
    limits = {"maxPercentage": 50, "minimumAge": "1d"}
    rule = {**ANY_AGE, "keepLast": 2}
    found = select([*line(8), task("newest", SECOND)], rule, with_files=14, limits=limits, busy=frozenset({"t01"}))
    assert (len(found.task_ids), found.protected) == (6, 3)
    assert not select([*line(8), task("newest", SECOND)], rule, with_files=14, limits=limits).reason
    assert select(line(9), {**ANY_AGE, "keepLast": 1}, with_files=14, limits=limits).reason == reasons.LIMIT_EXCEEDED


def test_tasks_whose_files_are_gone_count_on_neither_side_of_the_percentage() -> None:
    tasks = [*line(2), *(task(f"gone_{number}", has_files=False) for number in range(50))]
    records = {"deleteDatabaseRecords": True}
    found = select(tasks, ANY_AGE, with_files=4, limits={"maxPercentage": 50}, template=records)
    assert (len(found.task_ids), found.evaluated) == (52, 54)


# --- maxTasksPerRun ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("limit", "goes"), [(1, 1), (4, 4), (5, 5), (6, 5), (200_000, 5)])
def test_a_run_takes_the_oldest_up_to_its_limit(limit: int, goes: int) -> None:
    found = select(line(5)[::-1], ANY_AGE, limits={"maxTasksPerRun": limit})
    assert ids(found) == [f"t{number:02}" for number in range(1, goes + 1)]
    assert (found.refused, found.reason) == (5 - goes, reasons.LIMITED if goes < 5 else "")
    assert found.message == (f"limits.maxTasksPerRun leaves {5 - goes} tasks to the next runs" if goes < 5 else "")


def test_what_no_limit_is_given_for_is_cut_at_ten_thousand() -> None:
    tasks = [task(f"t{number:05}", timedelta(days=60, seconds=-number)) for number in range(10_001)]
    found = select(tasks, ANY_AGE)
    assert (len(found.task_ids), found.refused) == (10_000, 1)
    assert "t10000" not in found.task_ids


def test_a_task_that_waits_for_a_place_among_the_newest_still_goes_when_it_is_pushed_out() -> None:
    """The order of the stream makes no difference, also where the oldest comes first and is held for a while."""
    for tasks in (line(6), line(6)[::-1]):
        found = select(tasks, {**ANY_AGE, "keepLast": 2}, limits={"maxTasksPerRun": 3})
        assert (ids(found), found.protected, found.refused) == (["t01", "t02", "t03"], 2, 1)


# --- busy, and nothing ------------------------------------------------------------------------------------------------
def test_what_a_live_run_names_is_protected() -> None:
    found = select(line(3), ANY_AGE, busy=frozenset({"t02", "elsewhere"}))
    assert (ids(found), found.matched, found.protected) == (["t01", "t03"], 3, 1)


@pytest.mark.parametrize(
    ("rules", "reason", "message"),
    [
        ([], reasons.NO_RULES, "spec.rules is empty, so nothing goes; add a rule"),
        (
            [{"statuses": ["cancelled"]}],
            reasons.NOTHING_MATCHED,
            "there is no task that a rule takes and nothing protects",
        ),
        (
            [{**ANY_AGE, "keepLast": 9}],
            reasons.NOTHING_MATCHED,
            "there is no task that a rule takes and nothing protects",
        ),
    ],
    ids=["no rule", "nothing matched", "everything protected"],
)
def test_where_nothing_goes_it_is_said_why(rules: list[dict[str, Any]], reason: str, message: str) -> None:
    found = select(line(3), *rules)
    assert (ids(found), found.reason, found.message) == ([], reason, message)
