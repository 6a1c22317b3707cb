"""The median of some figures and the interval that holds the true one, from order statistics. Pure.

Used by `bench.measuring`. The interval is that of the sign test: each figure lies below the true median with
probability one half, whatever the distribution, so how many do is binomial, and the k-th smallest and k-th largest
figure enclose the median with a probability that is known exactly. A bootstrap would give the same ends for so few
figures, and claim more for them than they can hold; a t interval would need noise that is normal, and that of a
machine has a long tail.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """`median` of the figures; the true median is in `low` to `high` with probability `coverage`."""

    median: float
    low: float
    high: float
    coverage: float

    @property
    def is_certain(self) -> bool:
        """Whether there were figures enough for 95 %: that takes six."""
        return self.coverage >= CONFIDENCE


def median_interval(figures: Sequence[float]) -> Interval:
    """The narrowest interval of order statistics that covers 95 %; smallest to largest where none does.

    ValueError without figures.
    """
    if not figures:
        raise ValueError("there is no median of nothing")
    ordered, dropped = sorted(figures), 0
    while 2 * (dropped + 1) < len(ordered) and coverage_without(len(ordered), dropped + 1) >= CONFIDENCE:
        dropped += 1
    coverage = coverage_without(len(ordered), dropped)
    return Interval(statistics.median(ordered), ordered[dropped], ordered[-1 - dropped], coverage)


def coverage_without(count: int, dropped: int) -> float:
    """The probability that the median is between the ends of `count` figures, `dropped` of them left off each end."""
    outside = sum(math.comb(count, below) for below in range(dropped + 1))
    return 1.0 - outside / (1 << (count - 1))


def pair_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours to theirs, round by round: what slows a whole round falls out. ValueError for unequal numbers of rounds."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]
