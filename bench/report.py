"""The table of results: as lines for the terminal and as the page `docs/benchmarks.md`. Pure; nothing else writes it.

Called by `bench.__main__`.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.intervals import Interval
from bench.line import OURS
from bench.machine import Circumstances
from bench.measuring import Result, count_reached

COLUMNS = ("line", "work", "peer", "target", "aim", "ours", "peer's", "ratio", "reached", "note")
_INTRODUCTION = """\
# Benchmarks

Written by `make bench`, as a whole and from one run; do not edit. What a line does is in `bench/lines/`.

In each round every contestant does the same work once, in turn; the first round is not counted. Figures are medians.
A ratio is ours to the peer's, round by round; brackets hold its 95 % interval (order statistics, see
`bench/intervals.py`). A target is reached where the upper end of the interval is within it. A line that could not run
has not reached its target. Figures without a peer are compared with the target as they are.
"""


def render_page(results: Sequence[Result], circumstances: Circumstances) -> str:
    """The whole page, in Markdown."""
    facts = "\n".join(f"- {word}: {value}" for word, value in circumstances.describe())
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_cells(result) for result in results)]
    table = "\n".join(f"| {' | '.join(map(_escape, row))} |" for row in rows)
    parts = [_INTRODUCTION, facts, f"**{summarize(results)}.**", table]
    if beside := [line for result in results for line in _beside(result)]:
        parts.append("Shown beside, without a target:\n\n" + "\n".join(f"- {line}" for line in beside))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def render_lines(result: Result) -> list[str]:
    """One result for the terminal."""
    line = result.line
    found = [f"{line.name}: {line.work}"]
    if result.not_run is None:
        found.append(f"  ours {_figure(result, OURS)}")
        if line.peer is not None:
            found.append(f"  {line.peer} {_figure(result, line.peer)}, ratio {_interval(result.ratio_to(line.peer))}")
    goals = [f"{word} {text}" for word, text in (("target", _target(result)), ("aim", _aim(result))) if text]
    found.append(f"  {': '.join([', '.join(goals), _outcome(result)]) if goals else _outcome(result)}")
    found += [f"  beside: {one}" for one in _beside(result)]
    return [*found, f"  {line.note}"] if line.note else found


def summarize(results: Sequence[Result]) -> str:
    """`N of M lines reach their ratio`."""
    reached, aimed = count_reached(results)
    return f"{reached} of {aimed} lines reach their ratio"


def _cells(result: Result) -> tuple[str, ...]:
    line = result.line
    ours = theirs = ratio = ""
    if result.not_run is None:
        ours = _figure(result, OURS)
        theirs = _figure(result, line.peer) if line.peer else ""
        ratio = _interval(result.ratio_to(line.peer)) if line.peer else ""
    return (
        line.name,
        line.work,
        line.peer or "none",
        _target(result),
        _aim(result),
        ours,
        theirs,
        ratio,
        _outcome(result),
        line.note,
    )


def _target(result: Result) -> str:
    return _goal(result.line.target, result)


def _aim(result: Result) -> str:
    return _goal(result.line.aim, result)


def _goal(limit: float | None, result: Result) -> str:
    if limit is None:
        return ""
    return f"{limit:g}" if result.line.peer else f"{limit:g} {result.line.unit}"


def _outcome(result: Result) -> str:
    if result.not_run is not None:
        return f"{'failed' if result.failed else 'not run'}: {result.not_run}"
    if result.is_reached is None:
        return "no target"
    if result.is_reached:
        return "yes, the aim too" if result.is_aim_reached else "yes"
    verdict = result.verdict
    assert verdict is not None, "it was run"
    if not verdict.is_certain:
        return f"no: too few rounds for 95 % (these give {verdict.coverage:.1%})"
    return "no"


def _beside(result: Result) -> list[str]:
    return [
        f"{result.line.name}: {name} {_figure(result, name)}, ratio {_interval(result.ratio_to(name))}"
        for name in result.others
    ]


def _figure(result: Result, contestant: str) -> str:
    interval, unit = result.interval(contestant), result.line.unit
    if result.line.peer is None and contestant == OURS:
        return f"{_interval(interval)} {unit}"
    return f"{_number(interval.median)} {unit}"


def _interval(interval: Interval) -> str:
    return f"{_number(interval.median)} [{_number(interval.low)}, {_number(interval.high)}]"


def _number(value: float) -> str:
    """Three significant digits, or whole where there are more before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
