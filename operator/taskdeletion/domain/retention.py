"""Which finished tasks a policy takes: rules and limits in, a stream of tasks through, a selection out. Pure.

The order of the stream makes no difference, and memory depends on `keepLast` and `maxTasksPerRun`, not on the number of
tasks (ADR 0012). Nothing here reads a catalog or knows how a selection is carried out.
"""

import fnmatch
import heapq
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from taskdeletion.api import reasons
from taskdeletion.api.retention_policy import Rule, TaskRetentionPolicySpec
from taskdeletion.domain.catalog import FinishedTask
from taskdeletion.domain.durations import parse_duration

NO_AGE: Final = timedelta(0)
#: Creation and id: what "oldest" and "newest" mean, so that equal times have one order too.
Rank = tuple[datetime, str]
#: A rule at work: its number, the match of its pattern, what it takes is created before this, its keepLast.
_AtWork = tuple[int, Callable[[str], object] | None, datetime, int]


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """A rule in values. `statuses` None: any terminal one; `pattern` None: any id; `keep_last` 0: protects nothing."""

    statuses: frozenset[str] | None
    pattern: re.Pattern[str] | None
    older_than: timedelta
    keep_last: int

    @classmethod
    def of(cls, rule: Rule) -> "RetentionRule":
        """From what the policy says. Raises ValueError for a duration that is none."""
        return cls(
            statuses=frozenset(rule.statuses) if rule.statuses is not None else None,
            # Translated without backtracking: no pattern takes longer than its length times that of the id.
            pattern=re.compile(fnmatch.translate(rule.task_id_pattern)) if rule.task_id_pattern is not None else None,
            older_than=parse_duration(rule.older_than) if rule.older_than is not None else NO_AGE,
            keep_last=rule.keep_last or 0,
        )


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules and limits of a policy. `max_percentage` None: no such limit; `with_gone`: records are to go too."""

    rules: Sequence[RetentionRule]
    max_tasks: int
    max_percentage: int | None
    minimum_age: timedelta
    with_gone: bool

    @classmethod
    def of(cls, spec: TaskRetentionPolicySpec) -> "Retention":
        """From the spec of a policy. Raises ValueError for a duration that is none."""
        limits = spec.limits
        return cls(
            rules=[RetentionRule.of(rule) for rule in spec.rules],
            max_tasks=limits.max_tasks_per_run,
            max_percentage=limits.max_percentage,
            minimum_age=parse_duration(limits.minimum_age) if limits.minimum_age is not None else NO_AGE,
            with_gone=spec.template.delete_database_records is True,
        )

    @property
    def smallest_age(self) -> timedelta:
        """No task that is younger can be selected."""
        return max(self.minimum_age, min((rule.older_than for rule in self.rules), default=NO_AGE))


class Group(NamedTuple):
    """Tasks that the same rules speak of. `statuses`: in each of them these rules would speak of the task, too."""

    statuses: frozenset[str]
    task_ids: Sequence[str]


@dataclass(frozen=True, slots=True)
class Selected:
    """What goes. `task_ids`: oldest first, and the same in `groups`. `cutoff`: all of them were created before it.

    `matched`: tasks that a rule wants, of them `protected` and `refused` stay. `evaluated`: tasks that have files, or
    finished ones whose records are to go. `reason`, `message`: why nothing goes, or not everything; "" otherwise.
    `store_uid`: of the TaskStore whose catalog was read.
    """

    task_ids: Sequence[str]
    cutoff: datetime
    evaluated: int
    matched: int
    protected: int
    refused: int
    reason: str = ""
    message: str = ""
    groups: Sequence[Group] = ()
    store_uid: str = ""


@dataclass(slots=True)
class _Held:
    """A task among the newest of `rules` rules. `is_wanted`: some rule would take it."""

    is_wanted: bool
    has_files: bool
    statuses: frozenset[str]
    rules: int = 0


@dataclass
class Selection:
    """One evaluation at `now` (of the catalog). `offer` every finished task once, then ask for the `result`.

    `busy`: ids that live requests of the policy name. They are left to those, and are as good as gone: none takes a
    place of `keepLast`, and none counts among the tasks of which `maxPercentage` is a share.
    """

    retention: Retention
    now: datetime
    busy: Collection[str] = frozenset()
    _newest: list[list[Rank]] = field(init=False)
    _minimum_age_begins: datetime = field(init=False)
    _held: dict[str, _Held] = field(default_factory=dict)
    _oldest: list[tuple[timedelta, "_Backwards", frozenset[str]]] = field(default_factory=list)
    _at_work: dict[frozenset[str], list[_AtWork]] = field(default_factory=dict)
    _matched: int = 0
    _protected: int = 0
    _free: int = 0
    _free_with_files: int = 0
    _gone: int = 0
    _busy_with_files: int = 0

    def __post_init__(self) -> None:
        self.now = self.now.replace(microsecond=0)  # a cutoff has whole seconds, and refuses what is as old as it
        self._newest = [[] for _ in self.retention.rules]
        self._minimum_age_begins = self.now - self.retention.minimum_age

    def offer(self, task: FinishedTask) -> None:
        """Take one finished task into account."""
        if not task.has_files:
            if not self.retention.with_gone:
                return
            self._gone += 1
        task_id, created_at = task.task_id, task.created_at
        is_wanted, keeping, is_busy = False, [], task_id in self.busy
        self._busy_with_files += is_busy and task.has_files
        for number, match, before, keep_last in self._rules_about(task.statuses):
            if match is None or match(task_id) is not None:
                is_wanted = is_wanted or created_at < before
                if keep_last and not is_busy and self._is_among_newest((created_at, task_id), number, keep_last):
                    keeping.append(number)
        self._matched += is_wanted
        if is_wanted and (created_at >= self._minimum_age_begins or is_busy):
            self._protected += 1
            is_wanted = False
        if keeping:
            self._hold((created_at, task_id), _Held(is_wanted, task.has_files, task.statuses), keeping)
        elif is_wanted:
            self._let_go((created_at, task_id), task.statuses, has_files=task.has_files)

    def result(self, *, with_files: int) -> Selected:
        """What goes. `with_files`: tasks of the catalog that still have files, finished or not."""
        kept = sum(held.is_wanted for held in self._held.values())
        protected, evaluated = self._protected + kept, with_files + self._gone
        cutoff = self.now - self.retention.smallest_age
        refusal = self._find_refusal(with_files - self._busy_with_files)
        if refusal is not None:
            reason, message = refusal
            return Selected((), cutoff, evaluated, self._matched, protected, self._free, reason, message)
        goes = sorted(self._oldest, key=lambda entry: entry[:2], reverse=True)
        task_ids, left = [str(task_id) for _, task_id, _ in goes], self._free - len(goes)
        reason, message = self._explain(left)
        groups = self._group(zip(task_ids, (statuses for _, _, statuses in goes), strict=True))
        return Selected(task_ids, cutoff, evaluated, self._matched, protected, left, reason, message, groups)

    def _group(self, tasks: Iterable[tuple[str, frozenset[str]]]) -> list[Group]:
        """Tasks with their statuses, by the rules that speak of these: what ends otherwise meanwhile is for others."""
        task_ids: dict[tuple[int, ...], list[str]] = {}
        statuses: dict[tuple[int, ...], set[str]] = {}
        for task_id, found in tasks:
            rules = tuple(number for number, *_ in self._rules_about(found))
            task_ids.setdefault(rules, []).append(task_id)
            statuses.setdefault(rules, set()).update(found)
        return [Group(frozenset(statuses[rules]), ids) for rules, ids in task_ids.items()]

    def _rules_about(self, statuses: frozenset[str]) -> list[_AtWork]:
        """The rules that may speak of a task of these statuses; catalogs have few combinations of them."""
        found = self._at_work.get(statuses)
        if found is None:
            found = self._at_work[statuses] = [
                (number, rule.pattern and rule.pattern.match, self.now - rule.older_than, rule.keep_last)
                for number, rule in enumerate(self.retention.rules)
                if rule.statuses is None or statuses <= rule.statuses
            ]
        return found

    # --- the newest of each rule, which stay ------------------------------------------------------------------------
    def _is_among_newest(self, rank: Rank, number: int, keep_last: int) -> bool:
        newest = self._newest[number]
        return len(newest) < keep_last or rank > newest[0]

    def _hold(self, rank: Rank, held: _Held, rules: Sequence[int]) -> None:
        """Put a task among the newest of these rules; what they all have no room for any more is let go."""
        self._held[rank[1]] = held
        held.rules = len(rules)
        for number in rules:
            newest = self._newest[number]
            if len(newest) < self.retention.rules[number].keep_last:
                heapq.heappush(newest, rank)
            else:
                self._release(heapq.heappushpop(newest, rank))

    def _release(self, rank: Rank) -> None:
        held = self._held[rank[1]]
        held.rules -= 1
        if not held.rules:
            del self._held[rank[1]]
            if held.is_wanted:
                self._let_go(rank, held.statuses, has_files=held.has_files)

    # --- the oldest of all, which go --------------------------------------------------------------------------------
    def _let_go(self, rank: Rank, statuses: frozenset[str], *, has_files: bool) -> None:
        self._free += 1
        self._free_with_files += has_files
        age = self.now - rank[0]
        if len(self._oldest) < self.retention.max_tasks:
            heapq.heappush(self._oldest, (age, _Backwards(rank[1]), statuses))
        elif age >= self._oldest[0][0]:
            heapq.heappushpop(self._oldest, (age, _Backwards(rank[1]), statuses))

    def _find_refusal(self, with_files: int) -> tuple[str, str] | None:
        limit = self.retention.max_percentage
        if limit is None or self._free_with_files * 100 <= limit * with_files:
            return None
        share = self._free_with_files * 100 / with_files if with_files else 100
        message = (
            f"the rules take {self._free_with_files} of {with_files} tasks that still have files ({share:.1f} %), and"
            f" limits.maxPercentage is {limit}: nothing goes; correct the rules, or raise the limit if so much is to go"
        )
        return reasons.LIMIT_EXCEEDED, message

    def _explain(self, left: int) -> tuple[str, str]:
        if not self.retention.rules:
            return reasons.NO_RULES, "spec.rules is empty, so nothing goes; add a rule"
        if left:
            return reasons.LIMITED, f"limits.maxTasksPerRun leaves {left} tasks to the next runs"
        if not self._free:
            return reasons.NOTHING_MATCHED, "there is no task that a rule takes and nothing protects"
        return "", ""


class _Backwards(str):
    """A task id that sorts the other way round: the heap holds the newest of the oldest on top."""

    __slots__ = ()

    def __lt__(self, other: str) -> bool:
        return str.__gt__(self, other)
