"""The one exception that backends and gateways raise for a failure of the outside world.

Raised by `backends` and `kube` where there is no per-task result to put the failure in; caught in `workflow`.
"""

from typing import Literal

FaultKind = Literal["waiting", "retriable", "permanent"]


class Fault(Exception):
    """A named failure.

    `kind`: `waiting` passes by itself and uses no attempt (unreachable, wrong password, Secret not there yet);
    `retriable` uses an attempt (timeout, lock held, 5xx, busy); `permanent` is reported at once (permission,
    read-only). `reason` is a constant of `api.reasons`; `message` is for people and names no secret.
    """

    def __init__(self, kind: FaultKind, reason: str, message: str) -> None:
        super().__init__(kind, reason, message)
        self.kind: FaultKind = kind
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and self.args == other.args

    __hash__ = Exception.__hash__

    @property
    def retriable(self) -> bool:
        """Whether trying again later can help."""
        return self.kind != "permanent"
