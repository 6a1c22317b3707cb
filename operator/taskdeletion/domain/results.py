"""What a backend found and did, as values: the currency between backends, executors and the workflow. Pure."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from taskdeletion.api.task_deletion import Outcome, Resource
from taskdeletion.domain.faults import Fault, FaultKind


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcome of one resource of one task.

    `count`: files, keys, objects or rows; `bytes`: freed bytes (directory, objects), 0 where unknown.
    `kind` is set for outcome Failed only. `at_least`: a crash made the counts uncertain.
    """

    task_id: str
    resource: Resource
    outcome: Outcome
    reason: str = ""
    message: str = ""
    kind: FaultKind | None = None
    count: int = 0
    bytes: int = 0
    at_least: bool = False

    @classmethod
    def failed(cls, task_id: str, resource: Resource, fault: Fault, *, count: int = 0, bytes: int = 0) -> "StepResult":
        """The result for a fault, with what had been deleted before it."""
        return cls(task_id, resource, "Failed", fault.reason, fault.message, fault.kind, count, bytes)

    def with_counts(self, *, count: int, bytes: int, at_least: bool) -> "StepResult":
        """The same outcome with other counts."""
        return replace(self, count=count, bytes=bytes, at_least=at_least)


class Halt(Protocol):
    """Asked between batches: returns the fault to stop with (shutdown, deadline), or None to go on."""

    def __call__(self) -> Fault | None: ...


#: Asked directly before every batch of keys or objects goes, with the ids of the tasks in the batch: the compare of
#: versions. Returns the tasks that must not be touched any more, each with why. May raise Fault.
Guard = Callable[[Collection[str]], Mapping[str, Fault]]


def never_halt() -> Fault | None:
    """A Halt that never stops."""
    return None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that a probe of a backend found wrong; `waiting` faults in the making."""

    reason: str
    message: str
