"""Looks names up side by side before they are unlinked: a directory lets many lookups in at a time, and one unlink.

Called by `branches` for a batch of names, in the thread that is about to unlink them. Decides and removes nothing, and
passes no result on: an unlink that finds its name known to the kernel waits for the server once instead of twice.
"""

from time import monotonic_ns
from typing import Any, Final

from taskdeletion.backends.directory.crew import Lane, Shift
from taskdeletion.backends.directory.entries import Entries

_ONE_THREAD: Final = 1
#: Of four names each. With fewer, other directories are a better use of helpers: they wait for less.
_FEWEST_PIECES: Final = 17
_BUDGET_NS: Final = 100_000_000


def look_ahead(outer: Shift, entries: Entries[Any], directory: int, names: Any, start: int) -> None:
    """Look at the batch that begins at `start`, with helpers, where operations are slow and helpers are free.

    Ends after about `_BUDGET_NS`, looked at or not: whoever unlinks is to ask for a halt again before long.
    """
    if not _has_free_helpers(outer):
        return
    pieces = entries.split(names, start)
    if len(pieces) < _FEWEST_PIECES:
        return
    shift = Shift(outer.crew, outer.lane, _ONE_THREAD)
    deadline = monotonic_ns() + _BUDGET_NS

    def look(piece: Any) -> None:
        if monotonic_ns() < deadline:
            entries.remove(directory, piece, 0, unlink=False)
            outer.lane.note(0, 0)  # more helpers may come; what was known already says nothing of the file system

    shift.add(look, pieces)
    shift.run()


def _has_free_helpers(shift: Shift) -> bool:
    lane: Lane = shift.lane
    return lane.is_slow and lane.threads < shift.crew.limit
