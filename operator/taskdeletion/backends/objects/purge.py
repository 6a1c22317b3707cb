"""The state of one purge: what its batches found and deleted, and what may stop it. Sends nothing itself."""

from dataclasses import dataclass

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome, Resource
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Guard, Halt, StepResult

RESOURCE: Resource = "MinIO"


@dataclass
class Batch:
    """What became of one batch."""

    found: int
    count: int = 0
    bytes: int = 0
    retained: int = 0
    fault: Fault | None = None
    unsure: bool = False  # sent, and the reply not seen


class Purge:
    """The state of one purge. Written by its own thread only; threads that send batches read `fault`."""

    def __init__(self, task_id: str, *, delete: bool, guard: Guard, halt: Halt) -> None:
        self.task_id = task_id
        self.delete = delete
        self.fault: Fault | None = None
        self.uploads = 0
        self._guard = guard
        self._halt = halt
        self._count = 0
        self._bytes = 0
        self._unsure = False
        self.begin_pass()

    def begin_pass(self) -> None:
        """Begin to look at everything once."""
        self._retained = 0
        self._found = 0
        self._uploads_before = self.uploads

    @property
    def has_found(self) -> bool:
        """Whether this pass saw anything besides what is locked."""
        return self._found > self._retained or self.uploads > self._uploads_before

    def check(self) -> None:
        """Raise the fault to stop with, if there is one."""
        fault = self.fault or self._halt()
        if fault is not None:
            raise fault

    def ask_guard(self) -> None:
        """Raise Fault where the task must not be touched any more."""
        fault = self.fault or self._guard([self.task_id]).get(self.task_id)
        if fault is not None:
            raise fault

    def add(self, batch: Batch) -> None:
        """Take a batch into account. The first fault stays."""
        self._found += batch.found
        self._count += batch.count
        self._bytes += batch.bytes
        self._retained += batch.retained
        self._unsure |= batch.unsure
        self.fault = self.fault or batch.fault

    def result(self) -> StepResult:
        """What became of the task."""
        if self.fault is not None:
            result = StepResult.failed(self.task_id, RESOURCE, self.fault)
        elif self._retained:
            result = StepResult(self.task_id, RESOURCE, "Retained", reasons.OBJECT_LOCKED, self._lock_message())
        elif not self._count and not self.uploads:
            return StepResult(self.task_id, RESOURCE, "Skipped", reasons.ABSENT)
        else:
            outcome: Outcome = "Deleted" if self.delete else "WouldDelete"
            result = StepResult(self.task_id, RESOURCE, outcome, message=self._uploads_message())
        return result.with_counts(count=self._count, bytes=self._bytes, at_least=self._unsure)

    def _lock_message(self) -> str:
        return f"{self._retained} object versions are under retention or legal hold and stay until that ends"

    def _uploads_message(self) -> str:
        return f"and {self.uploads} uploads that were never completed" if self.uploads else ""
