"""Names of the siblings that a claimed directory moves to: `.claimed-<uid>-<taskId>`, then `.deleting-<uid>-<taskId>`.

Called by the directory backend and the sweep. Pure. No task id begins with '.', so no sibling is ever a task.
"""

import re
from dataclasses import dataclass
from typing import Literal

from taskdeletion.api.task_deletion import TASK_ID_PATTERN
from taskdeletion.domain.task_ids import is_task_id

SiblingKind = Literal["claimed", "deleting"]
_UID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = re.compile(rf"\.(claimed|deleting)-({_UID})-({TASK_ID_PATTERN})")


@dataclass(frozen=True, slots=True)
class Sibling:
    """A directory that was moved aside. `claimed`: whole; `deleting`: purge begun. `owner`: uid of the request."""

    kind: SiblingKind
    owner: str
    task_id: str

    @property
    def name(self) -> str:
        """The name in the store's root."""
        return f".{self.kind}-{self.owner}-{self.task_id}"


def parse_sibling(name: str) -> Sibling | None:
    """The sibling that `name` stands for, or None for every other name."""
    found = _NAME.fullmatch(name)
    if found is None or not is_task_id(found[3]):
        return None
    kind, owner, task_id = found.groups()
    return Sibling("claimed" if kind == "claimed" else "deleting", owner, task_id)
