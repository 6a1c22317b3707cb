"""Task ids and the exact names made of them: a task id reaches a path, key pattern or prefix only through here.

Called by the workflow (validation) and the backends (names). Pure.
"""

import re

from taskdeletion.api.task_deletion import MAX_TASK_ID_LENGTH, TASK_ID_PATTERN

_TASK_ID = re.compile(TASK_ID_PATTERN)
ID_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def is_task_id(value: str) -> bool:
    """Whether `value` is a task id: 1 to 128 of letters, digits, `_`, `-`, `.`, not beginning with `.`."""
    return len(value) <= MAX_TASK_ID_LENGTH and _TASK_ID.fullmatch(value) is not None


def require_task_id(value: str) -> str:
    """Return `value`, or raise ValueError: the last gate before a name is built from it."""
    if not is_task_id(value):
        raise ValueError(f"{value!r} is not a task id")
    return value
