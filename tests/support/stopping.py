"""Purges that stop half-way, always at the same place: what they leave is what a test is about.

Used in-process with pytest's monkeypatch. The product asks whether to stop before each directory; how it shares the
work depends on how quick the file system is, so here no file system counts as slow.
"""

from __future__ import annotations

import itertools

import pytest

from taskdeletion.backends.directory import DirectoryRoot, Purged
from taskdeletion.backends.directory.crew import Lane
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt
from taskdeletion.domain.siblings import Sibling


def stop_purges(monkeypatch: pytest.MonkeyPatch, fault: Fault, *, task_id: str | None = None) -> None:
    """Every purge (of one task) ends with `fault` before its first subdirectory."""
    original = DirectoryRoot.purge

    def purge(root: DirectoryRoot, sibling: Sibling, halt: Halt) -> tuple[Purged, Fault | None]:
        asked = itertools.count()
        stops = task_id in (None, sibling.task_id)
        return original(root, sibling, lambda: halt() or (fault if stops and next(asked) else None))

    monkeypatch.setattr(Lane, "is_slow", False)
    monkeypatch.setattr(DirectoryRoot, "purge", purge)
