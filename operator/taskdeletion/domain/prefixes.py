"""Object prefixes: from a template of a TaskStore to the exact prefix of one task. Pure.

Called by the objects backend and by the validation of TaskStores. No prefix is built anywhere else.
"""

import re

from taskdeletion.api.task_store import PREFIX_PATTERN
from taskdeletion.domain.task_ids import require_task_id

PLACEHOLDER = "{taskId}"
#: Begins with a dot, which no task id does.
NOBODY = ".taskdeletion-probe-"
_PREFIX = re.compile(PREFIX_PATTERN)


def require_prefix_template(template: str) -> str:
    """Return `template`, or raise ValueError where it could name the objects of another task."""
    if _PREFIX.fullmatch(template) is None:
        raise ValueError(f"{template!r} is not a prefix: it holds {PLACEHOLDER} once, no wildcards, and ends with '/'")
    return template


def build_prefix(template: str, task_id: str) -> str:
    """The prefix that all objects of one task have, and no object of another task; it ends with '/'."""
    head, _, tail = require_prefix_template(template).partition(PLACEHOLDER)
    return head + require_task_id(task_id) + tail


def build_nobodys_prefix(template: str, token: str) -> str:
    """A prefix of the same shape that belongs to no task: what a probe may name. `token` makes it unique."""
    return require_prefix_template(template).replace(PLACEHOLDER, NOBODY + token)
