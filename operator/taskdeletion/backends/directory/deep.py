"""Goes through a subtree alone and with few descriptors, whatever its depth: for when descriptors are short.

Called by `branches`, in its threads. Far ancestors are closed, and found again by '..', which counts only while it is
the directory that the walk came from.
"""

import os

from taskdeletion.backends.directory.faults import fault_from
from taskdeletion.backends.directory.linux import DIRECTORY
from taskdeletion.backends.directory.walk import Directory, Walk, moved_away

_OPEN_LEVELS = 6


def walk_deep(walk: Walk, parent: Directory, name: str) -> None:
    """Everything under `name` of the open `parent`, which stays open. Raises the Fault that stops the walk."""
    levels = [parent]
    try:
        _enter(walk, levels, name)
        while len(levels) > 1:
            level = levels[-1]
            if level.children:
                walk.ask_halt()
                _enter(walk, levels, level.children.pop())
            else:
                _leave(walk, levels)
    finally:
        for level in levels[1:]:
            level.close()


def _enter(walk: Walk, levels: list[Directory], name: str) -> None:
    try:
        level = walk.open(levels[-1], name)
    except OSError as error:  # not even for the few
        walk.could_not_enter(levels[-1], name, error)
        return
    if level is None:
        return
    levels.append(level)
    if len(levels) - 1 > _OPEN_LEVELS:
        levels[-1 - _OPEN_LEVELS].close()
    _empty(walk, level)


def _empty(walk: Walk, level: Directory) -> None:
    for names in walk.empty(level):
        level.children += names


def _leave(walk: Walk, levels: list[Directory]) -> None:
    parent, level = levels[-2:]
    _reopen(parent, level)
    if walk.leave(parent, level):
        level.close()
        levels.pop()
    else:
        _empty(walk, level)


def _reopen(parent: Directory, level: Directory) -> None:
    if parent.descriptor >= 0:
        return
    try:
        descriptor = os.open("..", DIRECTORY, dir_fd=level.descriptor)
    except OSError as error:
        raise fault_from(error, "the way back from a deep directory is gone") from error
    found = os.fstat(descriptor)
    if (found.st_dev, found.st_ino) != parent.identity:
        os.close(descriptor)
        raise moved_away()
    parent.descriptor = descriptor
