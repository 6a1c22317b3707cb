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
    unseen: int = 0  # locks that we may not look at

    def leave_out(self, size: int) -> None:
        """One object of it did not go, or would not."""
        self.count -= 1
        self.bytes -= size


class Purge:
    """The state of one purge. Written by its own thread only; threads that send batches read `fault`."""

    def __init__(self, task_id: str, *, delete: bool, guard: Guard, halt: Halt) -> None:
        self.task_id = task_id
        self.delete = delete
        self.fault: Fault | None = None
        self.uploads = 0
        self.unnamed = 0
        self.looks_at_locks = False
        self._guard = guard
        self._halt = halt
        self._count = 0
        self._bytes = 0
        self._unsure = False
        self.begin_pass()

    def begin_pass(self) -> None:
        """Begin to look at everything once."""
        self._retained = 0
        self._unseen = 0
        self._found = 0
        self.unnamed = 0
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
        self._unseen += batch.unseen
        self._unsure |= batch.unsure
        self.fault = self.fault or batch.fault

    def result(self) -> StepResult:
        """What became of the task."""
        fault = self.fault or self._unnamed_fault()
        if fault is not None:
            result = StepResult.failed(self.task_id, RESOURCE, fault)
        elif self._retained:
            result = StepResult(self.task_id, RESOURCE, "Retained", reasons.OBJECT_LOCKED, self._lock_message())
        elif not self._count and not self.uploads:
            return StepResult(self.task_id, RESOURCE, "Skipped", reasons.ABSENT)
        else:
            outcome: Outcome = "Deleted" if self.delete else "WouldDelete"
            result = StepResult(self.task_id, RESOURCE, outcome, message=self._message())
        return result.with_counts(count=self._count, bytes=self._bytes, at_least=self._unsure)

    def _lock_message(self) -> str:
        return f"{self._retained} object versions are under retention or legal hold and stay until that ends"

    def _message(self) -> str:
        parts = []
        if self.uploads:
            parts.append(f"and {self.uploads} uploads that were never completed")
        if self._unseen:
            parts.append(f"the access key may not look at the locks of {self._unseen} versions: some may have to stay")
        return "; ".join(parts)

    def _unnamed_fault(self) -> Fault | None:
        if not self.unnamed:
            return None
        message = (
            f"the object store lists {self.unnamed} names without saying exactly what they are (control characters, or"
            " the segments . and ..), so that nobody can ask for them; remove them with the server's own tools"
        )
        return Fault("permanent", reasons.SERVER_ERROR, message)
