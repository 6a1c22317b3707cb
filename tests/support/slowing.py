"""Runs the operator on a file system that is slow: every unlink takes the given number of milliseconds.

`python -m tests.support.slowing 20`. Nothing else of the product is changed. Used by the tests as a process, with
PYTHONPATH set to the root of the repository and to `operator/`.
"""

import os
import sys
import time
from typing import Any

from taskdeletion.__main__ import main


def slow_down(seconds: float) -> None:
    """Make every unlink of this process slow."""
    unlink = os.unlink

    def slow_unlink(*arguments: Any, **options: Any) -> None:
        time.sleep(seconds)
        unlink(*arguments, **options)

    os.unlink = slow_unlink


if __name__ == "__main__":
    slow_down(int(sys.argv[1]) / 1000)
    sys.exit(main(["operator"]))
