"""What one line of the benchmark table is: the same work, done by us and by a named peer, again and again.

A line knows how to set up its work and to let one contestant do it; `bench.measuring` decides how often and in which
order, and `bench.report` what comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

OURS = "ours"


class Contest(Protocol):
    """One line's work, set up. `contestants`: OURS first, then the named peer, then others that are only shown."""

    contestants: Sequence[str]

    def prepare(self, contestant: str) -> None:
        """Put everything there that the next run is to remove. Not measured."""

    def run(self, contestant: str) -> float:
        """Let one contestant do the work; the figure in the line's unit. Raises where the work was not done whole."""


@dataclass(frozen=True)
class Line:
    """One line. `target`, `aim`: the most that our figure may be, as a ratio to the peer's, or absolute without a peer.

    `rounds`: how often every contestant runs, in turn. `unit`: of the figures, s or MB. `note`: what the figure means
    or what limits it, for the table.
    """

    name: str
    work: str
    peer: str | None
    target: float | None
    aim: float | None
    open: Callable[[], AbstractContextManager[Contest]]
    rounds: int = 7
    unit: str = "s"
    note: str = ""
