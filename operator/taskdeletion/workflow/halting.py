"""When work stops at the next boundary: the process shuts down, or the request's deadline has come.

And when it waits there: while this process may lead no more.
"""

import threading
from collections.abc import Callable

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership


class Halting:
    """A `Halt` of one attempt. `deadline`: on the same monotonic clock, in seconds; None without one."""

    def __init__(
        self,
        stopping: threading.Event,
        clock: Callable[[], float],
        deadline: float | None,
        leadership: Leadership = ALONE,
    ) -> None:
        self.leadership = leadership
        self._stopping = stopping
        self._clock = clock
        self._deadline = deadline

    def __call__(self) -> Fault | None:
        """The fault to stop with, or None: then an effect may begin now."""
        while True:
            if self.is_past_deadline:
                return Fault("permanent", reasons.DEADLINE_EXCEEDED, "activeDeadlineSeconds have passed")
            if self.is_shutting_down:
                return Fault("waiting", reasons.INTERRUPTED, "the operator stopped; work goes on when it is back")
            if not self.leadership.require():
                return None

    @property
    def is_shutting_down(self) -> bool:
        """Whether the process is about to end."""
        return self._stopping.is_set()

    @property
    def is_past_deadline(self) -> bool:
        """Whether the request has no time left."""
        return self._deadline is not None and self._clock() >= self._deadline
