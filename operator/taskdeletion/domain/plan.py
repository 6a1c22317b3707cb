"""The plan of a request: its tasks in the order of work, and the rounds they are claimed in. Pure."""

from collections.abc import Sequence

from taskdeletion.api.task_deletion import TaskStatus
from taskdeletion.domain.request import Request

#: Tasks of one claim (docs/safety.md, "The order of effects"): locks stay short, and a cancelled request stops soon.
ROUND_SIZE = 50


def build_tasks(request: Request) -> list[TaskStatus]:
    """The tasks of a new request, in the order given."""
    return [TaskStatus(task_id=task_id, state="Pending") for task_id in request.spec.task_ids]


def build_rounds(task_ids: Sequence[str], *, continue_on_error: bool) -> list[list[str]]:
    """Sets of at most 50 tasks that are worked on together; one at a time where the first error is to stop."""
    size = ROUND_SIZE if continue_on_error else 1
    return [list(task_ids[start : start + size]) for start in range(0, len(task_ids), size)]
