"""Finds the lines of the benchmark table: every module of `bench.lines` holds some in `LINES`.

Called by `bench.__main__`. Measures nothing; a module that cannot be used is an error that names it, never left out.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Sequence

import bench.lines
from bench.line import Line


class SelectionError(Exception):
    """The lines, or the names that were asked for, cannot be used; the text says which and what to do."""


def discover(package: str = bench.lines.__name__, path: Sequence[str] | None = None) -> list[Line]:
    """All lines, in the order of their modules. Raises SelectionError."""
    places = list(bench.lines.__path__) if path is None else list(path)
    names = sorted(module.name for module in pkgutil.iter_modules(places, f"{package}."))
    lines = [line for name in names for line in _lines_of(name)]
    twice = [name for name, times in Counter(line.name for line in lines).items() if times > 1]
    if twice:
        raise SelectionError(f"two lines have the name {twice[0]}; rename one")
    return lines


def _lines_of(module: str) -> list[Line]:
    try:
        found = importlib.import_module(module).LINES
    except Exception as error:
        raise SelectionError(f"{module} cannot be used: {type(error).__name__}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(line, Line) for line in found):
        raise SelectionError(f"{module}.LINES is not a list of lines")
    return found


def select(lines: Sequence[Line], names: Sequence[str]) -> list[Line]:
    """The lines of these names, or beginning with them (`redis` for all of Redis); all without names.

    In the order of `lines`, each once. Raises SelectionError for a name that no line has.
    """
    if not names:
        return list(lines)
    chosen: set[str] = set()
    for name in names:
        found = {line.name for line in lines if line.name == name} or {
            line.name for line in lines if line.name.startswith(name)
        }
        if not found:
            raise SelectionError(f"no line is named {name}, or begins with it; python -m bench --list lists them")
        chosen |= found
    return [line for line in lines if line.name in chosen]
