"""Goes through a tree with as many threads as there are directories and it pays: each directory is one piece of work.

Called by `DirectoryRoot`, with a shift of the crew. A directory stays open until its subdirectories are gone; who
finishes the last of them removes it. When descriptors run short, a subtree is left to `deep`.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

from taskdeletion.backends.directory.ahead import look_ahead
from taskdeletion.backends.directory.crew import Shift
from taskdeletion.backends.directory.deep import walk_deep
from taskdeletion.backends.directory.walk import Directory, Purged, Walk
from taskdeletion.domain.faults import Fault


def run_walk(walk: Walk, shift: Shift) -> tuple[Purged, Fault | None]:
    """Walk, and say what came of it: counts, and what stopped it or could not go."""
    branches = _Branches(walk, shift)
    try:
        branches.run()
        return walk.conclude()
    finally:
        branches.close()


class _Branches:
    def __init__(self, walk: Walk, shift: Shift) -> None:
        self._walk = walk
        self._shift = shift
        self._lock = threading.Lock()
        self._open: set[Directory] = set()
        walk.attend(shift.lane, self._look_ahead)

    def run(self) -> None:
        self._expect(self._walk.top, [self._walk.name])
        self._visit_all(self._walk.top, [self._walk.name])
        self._shift.run()

    def close(self) -> None:
        """Close what a walk left open that was stopped. No thread is in it any more."""
        for directory in list(self._open):
            self._close(directory)
        self._walk.top.close()

    def _expect(self, directory: Directory, names: list[str]) -> None:
        """The directory waits for these; called before anybody can be done with the last that it waits for."""
        with self._lock:
            directory.pending += len(names)

    def _visit_all(self, directory: Directory, names: list[str]) -> None:
        self._shift.add(self._visit, [(directory, name) for name in names])

    def _visit(self, item: tuple[Directory, str]) -> None:
        self._unless_stopped(self._enter, *item)

    def _go_on(self, item: tuple[Directory, Iterator[list[str]]]) -> None:
        self._unless_stopped(self._empty_and_settle, *item)

    def _unless_stopped(self, action: Callable[..., None], *arguments: Any) -> None:
        if self._walk.stopped is not None or self._shift.is_broken:
            return
        try:
            action(*arguments)
        except Fault as fault:
            self._walk.stopped = self._walk.stopped or fault

    def _enter(self, parent: Directory, name: str) -> None:
        self._walk.ask_halt()
        directory = self._open_beside(parent, name)
        if directory is not None:
            self._empty_and_settle(directory, self._walk.empty(directory))
        else:
            self._settle(parent)

    def _open_beside(self, parent: Directory, name: str) -> Directory | None:
        """The directory, to be kept open; None where that is done with, in one way or another."""
        crew = self._shift.crew
        if crew.take_descriptor():
            directory = None
            try:
                directory = self._walk.open(parent, name)
            except OSError:  # others used them up
                walk_deep(self._walk, parent, name)
            finally:
                if directory is None:
                    crew.give_descriptor()
        else:
            walk_deep(self._walk, parent, name)
            return None
        if directory is not None:
            with self._lock:
                self._open.add(directory)
        return directory

    def _empty_and_settle(self, directory: Directory, steps: Iterator[list[str]]) -> None:
        if self._empty(directory, steps):
            self._settle(directory)

    def _empty(self, directory: Directory, steps: Iterator[list[str]]) -> bool:
        """Go through these steps. False: the rest of them was left to another thread."""
        for names in steps:
            self._expect(directory, names)  # before another thread can find that it waits for nothing
            if self._shift.lane.is_slow:  # the way down comes first, in this thread
                self._shift.add(self._go_on, [(directory, steps)])
                self._visit_all(directory, names)
                return False
            self._visit_all(directory, names)
        return True

    def _look_ahead(self, directory: Directory, names: Any, start: int) -> None:
        look_ahead(self._shift, self._walk.entries, directory.descriptor, names, start)

    def _settle(self, directory: Directory) -> None:
        """One of what a directory waited for is done. After the last it goes, and so on up."""
        if not self._count_down(directory):
            return
        while (parent := directory.parent) is not None and self._leave(parent, directory):
            directory = parent

    def _count_down(self, directory: Directory) -> bool:
        """Whether it waits for nothing any more."""
        with self._lock:
            directory.pending -= 1
            return not directory.pending

    def _leave(self, parent: Directory, directory: Directory) -> bool:
        """Remove what was emptied; True: that was the last that the parent waited for.

        The kernel removes one at a time from a parent. Whoever finds a thread at that leaves it to it, and goes on.
        """
        with self._lock:
            parent.leaving.append(directory)
            if parent.has_leaver:
                return False
            parent.has_leaver = True
        is_last = False
        while (child := self._next_leaving(parent)) is not None:
            is_last = self._leave_one(parent, child)
        return is_last

    def _next_leaving(self, parent: Directory) -> Directory | None:
        with self._lock:
            if parent.leaving and self._walk.stopped is None and not self._shift.is_broken:
                return parent.leaving.pop()
            parent.has_leaver = False
            return None

    def _leave_one(self, parent: Directory, directory: Directory) -> bool:
        if self._walk.leave(parent, directory):
            self._close(directory)
            return self._count_down(parent)
        directory.pending = 1  # something new is in it
        self._shift.add(self._go_on, [(directory, self._walk.empty(directory))])
        return False

    def _close(self, directory: Directory) -> None:
        with self._lock:
            self._open.discard(directory)
        directory.close()
        self._shift.crew.give_descriptor()
