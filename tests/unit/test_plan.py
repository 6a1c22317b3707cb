"""The order of work and the rounds it is done in."""

from datetime import UTC, datetime

import pytest

from taskdeletion.api.task_deletion import TaskDeletionSpec
from taskdeletion.domain.plan import ROUND_SIZE, build_rounds, build_tasks
from taskdeletion.domain.request import Request

IDS = [f"task_{number}" for number in range(2 * ROUND_SIZE + 1)]


def test_tasks_begin_pending_in_the_order_given() -> None:
    spec = TaskDeletionSpec(task_ids=["b", "a", "c"], confirm=True)
    tasks = build_tasks(Request("ns", "td", "uid", datetime(2025, 7, 2, tzinfo=UTC), spec))

    assert [(task.task_id, task.state) for task in tasks] == [("b", "Pending"), ("a", "Pending"), ("c", "Pending")]


@pytest.mark.parametrize(
    ("count", "continue_on_error", "sizes"),
    [
        pytest.param(0, True, [], id="nothing"),
        pytest.param(1, True, [1], id="one"),
        pytest.param(ROUND_SIZE, True, [ROUND_SIZE], id="one full round"),
        pytest.param(ROUND_SIZE + 1, True, [ROUND_SIZE, 1], id="one more"),
        pytest.param(2 * ROUND_SIZE + 1, True, [ROUND_SIZE, ROUND_SIZE, 1], id="three rounds"),
        pytest.param(0, False, [], id="nothing, one at a time"),
        pytest.param(3, False, [1, 1, 1], id="one at a time"),
    ],
)
def test_rounds_hold_every_task_once_in_order(count: int, continue_on_error: bool, sizes: list[int]) -> None:
    rounds = build_rounds(IDS[:count], continue_on_error=continue_on_error)

    assert [len(round_ids) for round_ids in rounds] == sizes
    assert [task_id for round_ids in rounds for task_id in round_ids] == IDS[:count]
