"""Lets the contestants of one line do its work in turn, round by round, and says what comes of it.

Called by `bench.__main__`. In each round every contestant runs once (A B C, A B C): what slows the machine for a while
slows all of them. The first round warms up and is not counted. Knows no line and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.intervals import Interval, median_interval, pair_ratios
from bench.line import OURS, Contest, Line

Progress = Callable[[str], None]


class CannotRunError(Exception):
    """Raised by `Line.open` where this machine lacks what the line needs; the text says what, and how to get it."""


@dataclass(frozen=True)
class Result:
    """What became of one line. `figures`: of each contestant, round by round, in the line's unit.

    `not_run`: why there are none: the machine lacks something, or (`failed`) a contestant did not do its work.
    """

    line: Line
    figures: Mapping[str, Sequence[float]] = field(default_factory=dict)
    not_run: str | None = None
    failed: bool = False

    @property
    def others(self) -> list[str]:
        """The contestants beside ours and the named peer: only shown."""
        return [name for name in self.figures if name not in (OURS, self.line.peer)]

    def interval(self, contestant: str) -> Interval:
        """The figure of one contestant."""
        return median_interval(self.figures[contestant])

    def ratio_to(self, contestant: str) -> Interval:
        """Ours to a contestant's, pair by pair."""
        return median_interval(pair_ratios(self.figures[OURS], self.figures[contestant]))

    @property
    def verdict(self) -> Interval | None:
        """What the target is compared with: the ratio to the peer, or our own figure without one; None: not run."""
        if self.not_run is not None:
            return None
        return self.interval(OURS) if self.line.peer is None else self.ratio_to(self.line.peer)

    @property
    def is_reached(self) -> bool | None:
        """Whether the upper end of a 95 % interval is within the target; None for a line without one."""
        return self._is_within(self.line.target)

    @property
    def is_aim_reached(self) -> bool | None:
        """The same for the aim."""
        return self._is_within(self.line.aim)

    def _is_within(self, limit: float | None) -> bool | None:
        if limit is None:
            return None
        verdict = self.verdict
        return verdict is not None and verdict.is_certain and verdict.high <= limit


def measure(line: Line, *, rounds: int | None, progress: Progress) -> Result:
    """Measure one line. `rounds` None: as many as the line says. Whatever a contestant raises goes to the caller."""
    try:
        with line.open() as contest:
            return Result(line, _run_rounds(line, contest, rounds or line.rounds, progress))
    except CannotRunError as lack:
        return Result(line, not_run=str(lack))


def _run_rounds(line: Line, contest: Contest, rounds: int, progress: Progress) -> dict[str, list[float]]:
    contestants = list(contest.contestants)
    _require_order(line, contestants)
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        found = {name: _run_once(contest, name) for name in contestants}
        shown = ", ".join(f"{name} {figure:.3f} {line.unit}" for name, figure in found.items())
        progress(f"{line.name}: {f'round {number} of {rounds}' if number else 'warm-up'}: {shown}")
        if number:
            for name, figure in found.items():
                figures[name].append(figure)
    return figures


def _run_once(contest: Contest, contestant: str) -> float:
    contest.prepare(contestant)
    return contest.run(contestant)


def _require_order(line: Line, contestants: Sequence[str]) -> None:
    expected = [OURS] if line.peer is None else [OURS, line.peer]
    if list(contestants[: len(expected)]) != expected or len(set(contestants)) < len(contestants):
        raise ValueError(f"{line.name}: the contestants are {contestants}, and should begin with {expected}, each once")


def count_reached(results: Sequence[Result]) -> tuple[int, int]:
    """How many lines reach their target, of how many that have one; a line that was not run has not reached it."""
    aimed = [result for result in results if result.line.target is not None]
    return sum(bool(result.is_reached) for result in aimed), len(aimed)
