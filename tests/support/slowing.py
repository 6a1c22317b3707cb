"""Runs the operator on a file system that is slow: every unlink takes the given number of milliseconds.

`python -m tests.support.slowing 20`. Nothing else of the product is changed but that it unlinks one file at a time, so
that it can be stopped between two. Used by the tests as a process, with PYTHONPATH set to the root of the repository
and to `operator/`.
"""

import sys
import time
from typing import Any

from taskdeletion.__main__ import main
from taskdeletion.backends.directory import entries


def slow_down(seconds: float) -> None:
    """Make every unlink of this process slow, natively or not."""
    kind: Any = type(entries.chosen)
    remove = kind.remove

    def slow_remove(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return remove(*arguments, **options)

    entries._ENTRIES_PER_BATCH = 1
    kind.remove = slow_remove


if __name__ == "__main__":
    slow_down(int(sys.argv[1]) / 1000)
    sys.exit(main(["operator"]))
