"""Runs the operator on a slow file system and without the timer of the kernel, as where no signal reaches it.

`python -m tests.support.undying 20`: see `tests.support.slowing`. A process that stood still beyond its lease goes on
then, and only its own checks keep it from doing anything. Used by the tests as a process.
"""

import sys
from typing import Any

from taskdeletion.__main__ import main
from taskdeletion.controller.kill_timer import KillTimer
from tests.support.slowing import slow_down


def disarm() -> None:
    """Let the timer of this process never be set."""

    kind: Any = KillTimer
    kind.set = lambda timer, at: None


if __name__ == "__main__":
    disarm()
    slow_down(int(sys.argv[1]) / 1000)
    sys.exit(main(["operator"]))
