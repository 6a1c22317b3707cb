"""The demo fails where what is left of a task, or what a status says of it, is not what was expected."""

from typing import Any

import pytest

from dev.demo import find_faults, read_outcomes
from dev.pipeline import Residue
from dev.story import KEPT, POLICY, Expected, Outcome

TASK = Expected("task_1", "in_progress", KEPT, Outcome("mixed", "Refused", "TaskRunning"))
LEFT = Residue(directory=12, siblings=0, keys=3, objects=4, row=None, steps=2)
SAID = Outcome("mixed", "Refused", "TaskRunning")


def test_a_task_as_expected_has_no_faults() -> None:
    assert find_faults(TASK, LEFT, LEFT, [SAID]) == []


@pytest.mark.parametrize(
    "said",
    [
        [],
        [Outcome("mixed", "NotFound", "TaskRunning")],
        [Outcome("mixed", "Refused", "TaskNewerThanRequest")],
        [Outcome("preview", "Refused", "TaskRunning")],
        [SAID, SAID],
    ],
    ids=["nothing", "another state", "another reason", "another request", "twice"],
)
def test_what_a_status_says_is_compared(said: list[Outcome]) -> None:
    assert len(find_faults(TASK, LEFT, LEFT, said)) == 1


def test_a_task_that_nobody_named_is_in_no_status() -> None:
    neighbour = Expected("task_1", "completed", KEPT)
    assert find_faults(neighbour, LEFT, LEFT, []) == []
    assert len(find_faults(neighbour, LEFT, LEFT, [SAID])) == 1


def test_what_is_left_is_compared() -> None:
    changed = Residue(directory=11, siblings=0, keys=3, objects=4, row=None, steps=2)
    assert len(find_faults(TASK, LEFT, changed, [SAID])) == 1


def test_outcomes_are_read_by_task_and_those_of_a_policy_under_its_name() -> None:
    tasks = [
        {"taskId": "task_1", "state": "Deleted"},
        {"taskId": "task_2", "state": "Refused", "reason": "TaskRunning"},
    ]
    requests: list[dict[str, Any]] = [
        {"metadata": {"name": "mixed"}, "status": {"tasks": tasks[1:]}},
        {"metadata": {"name": "x-1", "labels": {"datapipeline.dev/policy": POLICY}}, "status": {"tasks": tasks[:1]}},
        {"metadata": {"name": "y-1", "labels": {"datapipeline.dev/policy": "nightly"}}, "status": {"tasks": tasks}},
        {"metadata": {"name": "preview"}},
    ]
    assert read_outcomes(requests) == {
        "task_1": [Outcome(POLICY, "Deleted")],
        "task_2": [Outcome("mixed", "Refused", "TaskRunning")],
    }
