"""The selection against a naive model, for any catalog, rules and limits (ADR 0012).

The model is the issue's sentences, written down over a sorted list; it shares no code with `domain.retention`. Each
property takes 1,000 examples, the same ones every time; HYPOTHESIS_PROFILE=thorough takes 20,000.
"""

import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st

from taskdeletion.api import reasons
from taskdeletion.api.common import format_time
from taskdeletion.api.retention_policy import Rule, TaskRetentionPolicySpec
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.retention import Group, Retention, Selected, Selection
from tests.support.properties import REPEATABLE

_AGES: Final = {None: 0, "1m": 60, "1h": 3600, "1d": 86_400, "2d": 172_800, "1w": 604_800}
_NOW: Final = datetime(2026, 3, 29, 2, 30, 7, tzinfo=UTC)
#: Where no limit on the number of tasks is to cut.
_NO_CUT: Final = 1000


@dataclass(frozen=True)
class Case:
    """A catalog and a policy. `others`: tasks with files that are not finished."""

    tasks: Sequence[FinishedTask]
    others: int
    now: datetime
    busy: frozenset[str]
    rules: list[dict[str, Any]]
    limits: dict[str, Any]
    with_gone: bool

    @property
    def spec(self) -> TaskRetentionPolicySpec:
        template = {"deleteDatabaseRecords": True} if self.with_gone else {}
        spec = {"schedule": "@daily", "rules": self.rules, "limits": self.limits, "template": template}
        return TaskRetentionPolicySpec.model_validate(spec)

    @property
    def with_files(self) -> int:
        return self.others + sum(task.has_files for task in self.tasks)

    def limited(self, **limits: Any) -> "Case":
        """The same with other limits; None takes one away."""
        merged = self.limits | limits
        return replace(self, limits={name: value for name, value in merged.items() if value is not None})


def select(case: Case) -> Selected:
    selection = Selection(Retention.of(case.spec), case.now, case.busy)
    for task in case.tasks:
        selection.offer(task)
    return selection.result(with_files=case.with_files)


# --- the model --------------------------------------------------------------------------------------------------------
def model(case: Case) -> Selected:
    """What the issue says goes, with an empty message."""
    spec = case.spec
    limits = spec.limits
    # The cutoff of a TaskDeletion has whole seconds, and only what was created before it may go.
    now = case.now.replace(microsecond=0)
    seen = sorted((task for task in case.tasks if task.has_files or case.with_gone), key=_rank)
    wanted = [task for task in seen if any(_wants(rule, task, now) for rule in spec.rules)]
    kept = {task.task_id for rule in spec.rules for task in _newest(rule, seen, case.busy)}
    stays = {task.task_id for task in wanted if not _is_older(task, limits.minimum_age, now)} | kept | case.busy
    free = [task for task in wanted if task.task_id not in stays]
    goes = free[: limits.max_tasks_per_run]
    share_limit = limits.max_percentage
    with_files = case.with_files - sum(task.has_files for task in case.tasks if task.task_id in case.busy)
    is_refused = share_limit is not None and sum(task.has_files for task in free) > share_limit / 100 * with_files
    if is_refused:
        goes = []
    smallest = min((_AGES[rule.older_than] for rule in spec.rules), default=0)
    return Selected(
        task_ids=[task.task_id for task in goes],
        cutoff=now - timedelta(seconds=max(smallest, _AGES[limits.minimum_age])),
        evaluated=case.with_files + sum(not task.has_files for task in seen),
        matched=len(wanted),
        protected=len(wanted) - len(free),
        refused=len(free) - len(goes),
        reason=_name_reason(case, is_refused=is_refused, free=len(free), goes=len(goes)),
        groups=_group(spec.rules, goes),
    )


def _group(rules: Sequence[Rule], goes: Sequence[FinishedTask]) -> list[Group]:
    """Tasks of which the same rules speak, whatever their ids, in the order of the oldest of each group."""
    keys = [tuple(rule.statuses is None or task.statuses <= set(rule.statuses) for rule in rules) for task in goes]
    groups = []
    for key in dict.fromkeys(keys):
        mine = [task for task, its_key in zip(goes, keys, strict=True) if its_key == key]
        groups.append(Group(frozenset().union(*(t.statuses for t in mine)), [t.task_id for t in mine]))
    return groups


def _rank(task: FinishedTask) -> tuple[datetime, str]:
    return task.created_at, task.task_id


def _is_about(rule: Rule, task: FinishedTask) -> bool:
    if rule.statuses is not None and any(status not in rule.statuses for status in task.statuses):
        return False
    return rule.task_id_pattern is None or _matches(rule.task_id_pattern, task.task_id)


def _matches(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return _matches(pattern[1:], text) or (bool(text) and _matches(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and _matches(pattern[1:], text[1:])


def _is_older(task: FinishedTask, age: str | None, now: datetime) -> bool:
    return task.created_at < now - timedelta(seconds=_AGES[age])


def _wants(rule: Rule, task: FinishedTask, now: datetime) -> bool:
    return _is_about(rule, task) and _is_older(task, rule.older_than, now)


def _newest(rule: Rule, oldest_first: Sequence[FinishedTask], busy: Collection[str]) -> Sequence[FinishedTask]:
    about = [task for task in reversed(oldest_first) if _is_about(rule, task) and task.task_id not in busy]
    return about[: rule.keep_last or 0]


def _name_reason(case: Case, *, is_refused: bool, free: int, goes: int) -> str:
    if is_refused:
        return reasons.LIMIT_EXCEEDED
    if not case.rules:
        return reasons.NO_RULES
    if not free:
        return reasons.NOTHING_MATCHED
    return reasons.LIMITED if goes < free else ""


# --- any catalog, any policy ------------------------------------------------------------------------------------------
_WORDS: Final = ("completed", "failed", "cancelled")
_IDS: Final = ["".join(letters) for size in (1, 2, 3) for letters in itertools.product("ab_1", repeat=size)]
_STATUSES: Final = [frozenset(words) for size in (1, 2, 3) for words in itertools.combinations(_WORDS, size)]
#: Few times, so that many are equal, and most are near to an age that a rule may name.
_CREATED: Final = [
    _NOW - timedelta(seconds=seconds, microseconds=near)
    for seconds in (*_AGES.values(), 2 * 604_800, -60)
    for near in (0, 0, -1_000_000, -7, -1, 1, 1_000_000)
]
_HAS_FILES: Final = (True, True, False)
_CHOICES: Final = (_IDS, _STATUSES, _CREATED, _HAS_FILES)


def _task(number: int) -> FinishedTask:
    """One number draws a whole task: many small draws would take most of the time."""
    chosen: list[Any] = []
    for choices in _CHOICES:
        number, index = divmod(number, len(choices))
        chosen.append(choices[index])
    return FinishedTask(*chosen)


_TASKS: Final = st.lists(
    st.integers(0, math.prod(len(choices) for choices in _CHOICES) - 1),
    unique_by=lambda number: number % len(_IDS),
    max_size=14,
).map(lambda numbers: [_task(number) for number in numbers])
_DURATIONS: Final = st.sampled_from([age for age in _AGES if age])
_RULES: Final = st.fixed_dictionaries(
    {},
    optional={
        "statuses": st.sampled_from([sorted(words) for words in _STATUSES]),
        "olderThan": _DURATIONS,
        "taskIdPattern": st.sampled_from(["*", "a*", "*b", "?", "a?", "*1*", "?_*", "a*b", "**a", "b", "_?1"]),
        "keepLast": st.integers(1, 6),
    },
).filter(lambda rule: bool(set(rule) - {"keepLast"}))
_LIMITS: Final = st.fixed_dictionaries(
    {},
    optional={
        "maxTasksPerRun": st.integers(1, 8),
        "maxPercentage": st.sampled_from([1, 10, 25, 50, 75, 99, 100]),
        "minimumAge": _DURATIONS,
    },
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tasks = draw(_TASKS)
    names = [task.task_id for task in tasks]
    return Case(
        tasks=tasks,
        others=draw(st.integers(0, 20)),
        now=_NOW + timedelta(microseconds=draw(st.sampled_from([0, 0, 1, 7, 999_999]))),
        busy=frozenset(draw(st.sets(st.sampled_from([*names, "gone"]), max_size=2))),
        rules=draw(st.lists(_RULES, max_size=4)),
        limits=draw(_LIMITS),
        with_gone=draw(st.booleans()),
    )


@REPEATABLE
@given(cases())
def test_the_selection_is_that_of_the_model(case: Case) -> None:
    found = select(case)
    assert replace(found, task_ids=list(found.task_ids), groups=list(found.groups), message="") == model(case)
    assert bool(found.message) == bool(found.reason)


@REPEATABLE
@given(cases(), st.data())
def test_the_order_of_the_stream_makes_no_difference(case: Case, data: st.DataObject) -> None:
    assert select(replace(case, tasks=data.draw(st.permutations(case.tasks)))) == select(case)


@REPEATABLE
@given(cases())
def test_every_selected_task_was_created_before_the_cutoff_that_a_manifest_can_say(case: Case) -> None:
    found = select(case)
    cutoff = datetime.fromisoformat(format_time(found.cutoff))
    assert all(task.created_at < cutoff for task in _chosen(case, found))


@REPEATABLE
@given(cases())
def test_what_goes_is_ordered_oldest_first_and_no_more_than_the_limit(case: Case) -> None:
    found = select(case.limited(maxPercentage=None))
    ranks = [_rank(task) for task in _chosen(case, found)]
    assert ranks == sorted(set(ranks))
    assert len(ranks) == min(case.spec.limits.max_tasks_per_run, found.matched - found.protected)


@REPEATABLE
@given(cases(), _DURATIONS)
def test_no_task_below_the_minimum_age_goes(case: Case, minimum_age: str) -> None:
    found = select(case.limited(minimumAge=minimum_age))
    youngest = case.now - timedelta(seconds=_AGES[minimum_age])
    assert all(task.created_at < youngest for task in _chosen(case, found))


@REPEATABLE
@given(cases())
def test_without_a_rule_nothing_goes(case: Case) -> None:
    found = select(replace(case, rules=[]))
    assert (list(found.task_ids), found.matched, found.reason) == ([], 0, reasons.NO_RULES)


@REPEATABLE
@given(cases(), st.integers(1, 100))
def test_the_percentage_refuses_all_or_nothing(case: Case, limit: int) -> None:
    unlimited, limited = select(case.limited(maxPercentage=None)), select(case.limited(maxPercentage=limit))
    if limited.reason == reasons.LIMIT_EXCEEDED:
        assert (len(limited.task_ids), limited.refused) == (0, limited.matched - limited.protected)
    else:
        assert limited == unlimited


@REPEATABLE
@given(cases())
def test_runs_one_after_the_other_take_what_one_large_run_takes(case: Case) -> None:
    whole = select(case.limited(maxPercentage=None, maxTasksPerRun=_NO_CUT))
    taken: list[str] = []
    while found := select(case.limited(maxPercentage=None)).task_ids:
        taken += found
        case = replace(case, tasks=[task for task in case.tasks if task.task_id not in taken])
    assert taken == list(whole.task_ids)


# --- a protection more ------------------------------------------------------------------------------------------------
def _protections(case: Case) -> Iterator[Case]:
    """The same case with one protection more, each way there is beside the limits of a whole run."""
    for number, rule in enumerate(case.rules):
        for keep_last in (1, 2, 5):
            stricter = rule | {"keepLast": rule.get("keepLast", 0) + keep_last}
            yield replace(case, rules=[*case.rules[:number], stricter, *case.rules[number + 1 :]])
    for age, seconds in _AGES.items():
        if seconds > _AGES[case.limits.get("minimumAge")]:
            yield case.limited(minimumAge=age)
    for task in case.tasks:
        yield replace(case, busy=case.busy | {task.task_id})


@REPEATABLE
@given(cases())
def test_a_protection_more_selects_no_other_task_where_no_limit_cuts(case: Case) -> None:
    case = case.limited(maxPercentage=None, maxTasksPerRun=_NO_CUT)
    before = select(case).task_ids
    for protected in _protections(case):
        assert set(select(protected).task_ids) <= set(before)


@REPEATABLE
@given(cases())
def test_a_protection_more_lets_only_the_next_in_line_move_up(case: Case) -> None:
    """Where maxTasksPerRun cuts, each task that is now protected makes room for at most one that had to wait."""
    case = case.limited(maxPercentage=None)
    before, line = list(select(case).task_ids), list(select(case.limited(maxTasksPerRun=_NO_CUT)).task_ids)
    for protected in _protections(case):
        after, free = list(select(protected).task_ids), select(protected.limited(maxTasksPerRun=_NO_CUT)).task_ids
        stayed = [name for name in before if name in free]
        assert after[: len(stayed)] == stayed
        moved_up = after[len(stayed) :]
        assert moved_up == [name for name in line[len(before) :] if name in free][: len(moved_up)]
        assert len(moved_up) <= len(before) - len(stayed)


@REPEATABLE
@given(cases())
def test_a_protection_more_never_makes_a_run_larger_but_may_bring_it_below_the_percentage(case: Case) -> None:
    before, unlimited = select(case), select(case.limited(maxPercentage=None))
    for protected in _protections(case):
        after = select(protected)
        assert len(after.task_ids) <= len(unlimited.task_ids)
        if before.reason != reasons.LIMIT_EXCEEDED:
            assert after.reason != reasons.LIMIT_EXCEEDED
            assert len(after.task_ids) <= len(before.task_ids)


@REPEATABLE
@given(cases(), st.integers(1, 8))
def test_a_smaller_run_takes_the_oldest_of_a_larger_one(case: Case, fewer: int) -> None:
    larger = select(case)
    limit = min(fewer, case.spec.limits.max_tasks_per_run)
    assert list(select(case.limited(maxTasksPerRun=limit)).task_ids) == list(larger.task_ids[:limit])


@REPEATABLE
@given(cases(), st.integers(1, 100))
def test_a_lower_percentage_takes_the_same_or_nothing(case: Case, lower: int) -> None:
    higher = select(case)
    limit = min(lower, case.limits.get("maxPercentage", 100))
    assert select(case.limited(maxPercentage=limit)).task_ids in (higher.task_ids, ())


def _chosen(case: Case, found: Selected) -> list[FinishedTask]:
    """The selected tasks, in the order of the selection."""
    by_id = {task.task_id: task for task in case.tasks}
    return [by_id[task_id] for task_id in found.task_ids]
