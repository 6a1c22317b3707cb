"""`python -m bench`: measures every line of the benchmark table, or those that are named, and prints what it found.

`--write` makes `docs/benchmarks.md`, from a run of all lines only; `--resume` goes on where such a run was interrupted.
Exits with 0 where everything ran, whatever was
reached; 1 where a contestant did not do its work, or with `--strict` where a target was missed; 2 for bad input.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence

from bench.discovery import SelectionError, discover, select
from bench.kept import Kept
from bench.line import Line
from bench.machine import ROOT, Circumstances, look_around
from bench.measuring import Result, count_reached, measure
from bench.report import render_lines, render_page, summarize

PAGE = ROOT / "docs" / "benchmarks.md"
KEPT = ROOT / ".bench"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser()
    chosen = parser.parse_args(arguments)
    if chosen.write and chosen.names:
        parser.error("the page is from one run of all lines: leave out the names, or --write")
    circumstances = look_around(shlex.join(["python", "-m", "bench", *arguments]))
    if chosen.resume and circumstances.is_dirty:
        parser.error("--resume keeps the figures of a commit: commit what changed first")
    try:
        lines = select(discover(), chosen.names)
    except SelectionError as problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 2
    if chosen.list:
        print("\n".join(f"{line.name:32} {line.work}" for line in lines))
        return 0
    return run(lines, chosen, circumstances)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measures the lines of the benchmark table.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="lines, or what their names begin with; default: all")
    parser.add_argument("--list", action="store_true", help="list the lines and measure nothing")
    parser.add_argument("--rounds", type=positive, metavar="N", help="rounds that count, of every line")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}; all lines only")
    parser.add_argument("--resume", action="store_true", help="measure only what this commit has no figures of yet")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    return parser


def positive(text: str) -> int:
    """A number of rounds."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return number


def run(lines: Sequence[Line], chosen: argparse.Namespace, circumstances: Circumstances) -> int:
    """Measure these lines and report; returns the exit code."""
    kept = Kept(KEPT, circumstances.commit) if chosen.resume else None
    print("\n".join(f"{word}: {value}" for word, value in circumstances.describe()), flush=True)
    results = [measure_and_print(line, chosen.rounds, kept) for line in lines]
    print(f"\n{summarize(results)}")
    if chosen.write:
        PAGE.write_text(render_page(results, circumstances))
    reached, aimed = count_reached(results)
    missed = chosen.strict and reached < aimed
    return 1 if missed or any(result.failed for result in results) else 0


def measure_and_print(line: Line, rounds: int | None, kept: Kept | None) -> Result:
    """One line, or what is kept of it."""
    result = kept.find(line) if kept is not None else None
    if result is None:
        result = try_to_measure(line, rounds)
        if kept is not None:
            kept.keep(result)
    print("\n" + "\n".join(render_lines(result)), flush=True)
    return result


def try_to_measure(line: Line, rounds: int | None) -> Result:
    """One line; a contestant that fails ends its line, with a traceback, and not the run."""
    try:
        return measure(line, rounds=rounds, progress=say)
    except Exception as error:  # noqa: BLE001 - the lines of others are measured all the same, and the exit code says it
        traceback.print_exc()
        return Result(line, not_run=type(error).__name__, failed=True)


def say(text: str) -> None:
    """Progress, beside the report."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
