"""`python -m bench.throughput`: files per second of our engine by latency and threads; writes `docs/throughput.svg`.

Threads are the most that a purge may use: it takes them only where operations are slow. `rm -rf` is measured beside,
in the same rounds. Exits with 1 where the machine lacks what it takes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.curves import Curve, build_picture
from bench.latencyfs import mounted
from bench.lines.directories import RM, run_peer
from bench.machine import ROOT, Circumstances, look_around
from bench.measuring import CannotRunError
from bench.trees import memory_folder, remove_ours, require_empty, wide
from dev.progress import print_to_stderr
from taskdeletion.backends.directory import Crew, DirectoryRoot

LATENCIES_MS: Final = (0.0, 0.1, 0.5, 2.0)
THREADS: Final = (1, 2, 4, 8, 16, 32, 64)
ROUNDS: Final = 3
TREE: Final = wide(100, 40)
WORK: Final = "100 directories of 40 files"
PICTURE: Final = ROOT / "docs" / "throughput.svg"
TITLE: Final = "Files deleted per second, by latency of a metadata operation"

#: Files per second, by threads, or RM.
Speeds = Mapping[int | str, float]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description="Draws docs/throughput.svg.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, choices=range(1, 100), metavar="N", help="default: 3")
    rounds = parser.parse_args(arguments).rounds
    circumstances = look_around("python -m bench.throughput")
    print("\n".join(f"{word}: {value}" for word, value in circumstances.describe()), flush=True)
    try:
        found = {latency: measure(latency, rounds) for latency in LATENCIES_MS}
    except CannotRunError as lack:
        print(f"bench: {lack}", file=sys.stderr)
        return 1
    print(build_table(found))
    PICTURE.write_text(build_picture(TITLE, describe(circumstances, rounds), build_curves(found)))
    return 0


def measure(latency_ms: float, rounds: int) -> Speeds:
    """Medians of some rounds, in each of which everybody runs once."""
    with memory_folder(TREE) as filled, mounted(filled, latency_ms / 1000) as seen:
        taken: dict[int | str, list[float]] = {contestant: [] for contestant in (*THREADS, RM)}
        for number in range(rounds):
            for contestant, seconds in taken.items():
                seconds.append(run_once(filled, seen, number, contestant))
            print_to_stderr(f"{latency_ms:g} ms: round {number + 1} of {rounds}")
    return {contestant: TREE.file_count / statistics.median(seconds) for contestant, seconds in taken.items()}


def run_once(filled: Path, seen: Path, number: int, contestant: int | str) -> float:
    """Seconds that one contestant takes for a new tree."""
    task_id = f"task_{number}_{str(contestant).replace(' ', '_')}"
    TREE.make(filled / task_id)
    if isinstance(contestant, str):
        seconds = run_peer(["rm", "-rf"], [seen / task_id])
    else:
        with DirectoryRoot.open(seen, "", require_mount=False, crew=Crew(limit=contestant)) as root:
            seconds = remove_ours(root, task_id, TREE)
    require_empty(filled, str(contestant))
    return seconds


def build_table(found: Mapping[float, Speeds]) -> str:
    """Files per second for the terminal: a line for each latency, a column for each number of threads."""
    head = ["", *(f"{threads}" for threads in THREADS), RM]
    rows = [
        [f"{latency:g} ms", *(f"{speeds[column]:.0f}" for column in (*THREADS, RM))]
        for latency, speeds in found.items()
    ]
    return "\n".join("".join(f"{cell:>9}" for cell in row) for row in (head, *rows))


def build_curves(found: Mapping[float, Speeds]) -> list[Curve]:
    """One for each latency."""
    return [
        Curve(
            f"{latency:g} ms",
            [(threads, speeds[threads]) for threads in THREADS],
            f"{RM}, {latency:g} ms",
            speeds[RM],
        )
        for latency, speeds in found.items()
    ]


def describe(circumstances: Circumstances, rounds: int) -> str:
    """What was measured, in one line."""
    medians = "one run" if rounds == 1 else f"medians of {rounds} runs"
    changes = " with changes" if circumstances.is_dirty else ""
    where = f"{circumstances.cores} cores, commit {circumstances.commit}{changes}"
    return f"{WORK} through FUSE, {medians}, {where}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
