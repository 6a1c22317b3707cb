"""The time for which this process leads: whoever begins an effect asks here first (`domain.leadership`).

Extended by `controller.candidacy` with each renewal. It knows times, not leases.
"""

import math
import threading
from collections.abc import Callable
from typing import NoReturn

from taskdeletion.domain.leadership import NotLeading


class Tenure:
    """A `Leadership` that ends unless it is extended. Thread-safe. `clock` returns seconds and never goes back.

    `margin_seconds` have to be left for an effect to begin. `end` is called where none are left, and never returns.
    """

    def __init__(self, margin_seconds: float, clock: Callable[[], float], end: Callable[[str], NoReturn]) -> None:
        self._margin_seconds = margin_seconds
        self._clock = clock
        self._end = end
        self._until = -math.inf  # read without the lock: one assignment changes it
        self._is_open = False
        self._changed = threading.Condition()

    def extend(self, until: float) -> None:
        """Lead until then."""
        with self._changed:
            self._until, self._is_open = until, True
            self._changed.notify_all()

    def close(self) -> None:
        """Lead no more, by choice: whoever still asks gets NotLeading."""
        with self._changed:
            self._until, self._is_open = -math.inf, False
            self._changed.notify_all()

    def require(self) -> bool:
        """See `Leadership`. Costs one look at the clock."""
        if self._until - self._clock() >= self._margin_seconds:
            return False
        with self._changed:
            while (left := self._until - self._clock()) < self._margin_seconds:
                if not self._is_open:
                    raise NotLeading("this process does not lead")
                if left <= 0:
                    self._end("the lease is over, and an effect was about to begin")
                self._changed.wait(left)
        return True
