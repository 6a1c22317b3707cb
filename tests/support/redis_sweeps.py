"""Sweeps of Redis keys as the tests make and read them, of one server or a cluster; and a guard that remembers."""

from collections.abc import Callable, Collection, Mapping, Sequence

import pytest

from taskdeletion.api import reasons
from taskdeletion.backends.redis import RedisKeys
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt, StepResult, never_halt


class Guard:
    """Remembers whom it was asked about; refuses some tasks, from the nth question on; may act meanwhile."""

    def __init__(
        self,
        *,
        refuse: Sequence[str] = (),
        after: int = 0,
        fault: Fault | None = None,
        act: Callable[[int], object] | None = None,
    ) -> None:
        self.questions: list[set[str]] = []
        self.refuse, self.after, self.fault, self.act = refuse, after, fault, act

    def __call__(self, task_ids: Collection[str]) -> Mapping[str, Fault]:
        self.questions.append(set(task_ids))
        if self.act is not None:
            self.act(len(self.questions))
        if self.fault is not None and len(self.questions) > self.after:
            raise self.fault
        refused = set(self.refuse) & set(task_ids) if len(self.questions) > self.after else set()
        return {task_id: Fault("permanent", reasons.TASK_RESTARTED, "the task was restarted") for task_id in refused}


def sweep(
    keys: RedisKeys, *task_ids: str, delete: bool = True, guard: Guard | None = None, halt: Halt = never_halt
) -> list[StepResult]:
    results = keys.sweep(task_ids, delete=delete, guard=guard or Guard(), halt=halt)
    assert set(results) == set(task_ids)
    assert all(result.task_id == task_id and result.resource == "Redis" for task_id, result in results.items())
    return [results[task_id] for task_id in task_ids]


def summary(results: Sequence[StepResult]) -> list[tuple[str, str, int]]:
    return [(result.outcome, result.reason, result.count) for result in results]


def assert_refused(keys: RedisKeys, kind: str, reason: str) -> StepResult:
    """The three ways in agree on what is in the way."""
    (result,) = sweep(keys, "task_1")
    assert (result.outcome, result.kind, result.reason, result.count) == ("Failed", kind, reason, 0)
    with pytest.raises(Fault) as caught:
        keys.find_rest(["task_1"])
    assert (caught.value.kind, caught.value.reason) == (kind, reason)
    problem = keys.probe()
    assert problem is not None
    assert problem.reason == reason
    return result
