"""How long work tells a person that it is going on.

Everything in `dev` that may take more than a second gets a `Progress` to call; it must not know who shows it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[str], None]

#: How often work that goes on says so: to somebody who watches, and into a log.
REPEAT_SECONDS_ON_A_TERMINAL = 15.0
REPEAT_SECONDS_IN_A_LOG = 60.0


def print_to_stderr(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class Elapsed:
    """A label and the time since it began; `tick` repeats it now and then for as long as it is called.

    Every few seconds on a terminal, at most once a minute elsewhere.
    """

    def __init__(self, label: str, progress: Progress) -> None:
        self.label = label
        self.progress = progress
        self.repeat_seconds = REPEAT_SECONDS_ON_A_TERMINAL if sys.stderr.isatty() else REPEAT_SECONDS_IN_A_LOG
        self.began = self.last = time.monotonic()
        progress(f"{label} ...")

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def tick(self) -> None:
        if time.monotonic() - self.last >= self.repeat_seconds:
            self.last = time.monotonic()
            self.progress(f"{self.label} ... {self.seconds():.0f} s")

    def done(self) -> None:
        self.progress(f"{self.label}: done in {self.seconds():.1f} s")
