"""What an interrupted run has measured already, so that `--resume` goes on where it ended.

Used by `bench.__main__`. Figures are kept by commit, in a file that git does not know; those of another commit, or of
one with changes that are not committed, are never mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.line import Line
from bench.measuring import Result

Figures = Mapping[str, Sequence[float]]


class Kept:
    """The figures of one commit, line by line. `folder` is made when the first is kept."""

    def __init__(self, folder: Path, commit: str) -> None:
        self._path = folder / f"{commit}.json"
        self._lines: dict[str, Figures] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def find(self, line: Line) -> Result | None:
        """The result of a line that was measured, or None."""
        figures = self._lines.get(line.name)
        return None if figures is None else Result(line, figures)

    def keep(self, result: Result) -> None:
        """Keep what was measured; a line that was not run is tried again."""
        if result.not_run is None:
            self._lines[result.line.name] = result.figures
            self._path.parent.mkdir(exist_ok=True)
            self._path.write_text(json.dumps(self._lines))
