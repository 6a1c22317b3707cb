"""What the composition root decides by itself: next to nothing."""

from datetime import UTC, datetime
from typing import get_args

import pytest

from taskdeletion.api.task_deletion import TaskDeletionStatus
from taskdeletion.bootstrap import says_ended
from taskdeletion.domain.conditions import Stage, View, build_conditions, is_terminal

NOW = datetime(2025, 7, 31, tzinfo=UTC)


@pytest.mark.parametrize("stage", get_args(Stage))
def test_a_status_as_it_is_stored_says_whether_the_request_has_ended(stage: Stage) -> None:
    conditions = build_conditions([], View(stage, "Reason", "text"), generation=1, now=NOW)
    stored = TaskDeletionStatus(conditions=conditions).to_api()

    assert says_ended(stored) is is_terminal(conditions)
    assert says_ended(stored) is (stage in ("succeeded", "failed", "rejected"))


@pytest.mark.parametrize(
    "status", [{}, {"conditions": None}, {"conditions": [{"type": "Complete", "status": "False"}]}]
)
def test_a_status_that_says_nothing_is_that_of_a_live_request(status: dict[str, object]) -> None:
    assert says_ended(status) is False
