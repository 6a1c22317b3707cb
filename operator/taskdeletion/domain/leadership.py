"""The right to begin an effect, as everybody who has one asks for it: backends, executors, workflow and `kube`.

A process that runs alone always has it. Where one of several leads, `controller.tenure` answers. Pure: knows no lease.
"""

from typing import Final, Protocol


class NotLeading(Exception):  # noqa: N818 - it says what is the case
    """The process does not lead, or has given its leadership back: no effect may begin any more."""


class Leadership(Protocol):
    """Asked directly before each effect, from any thread."""

    def require(self) -> bool:
        """Return when an effect may begin; True: that took a while, so what was compared before is old.

        Ends the process where the leadership was lost. Raises NotLeading where it never began or was given back.
        """
        ...


class _Alone:
    def require(self) -> bool:
        return False


#: Of a process beside which there is no other.
ALONE: Final[Leadership] = _Alone()
