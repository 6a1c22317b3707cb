"""The console command `taskdeletion`: subcommands only.

`operator` runs the operator; `claim`, `purge` and `undo` are what its Jobs run; `crds` prints or checks the CRDs. What
each does is in the room it calls.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from taskdeletion.domain.job_work import VERBS, Verb, add_options, read_work

_JOB_HELP: Final[Mapping[Verb, str]] = {
    "claim": "in a Job's pod: move tasks aside on the mounted volume, and say what is there of them",
    "purge": "in a Job's pod: empty what was moved aside",
    "undo": "in a Job's pod: move tasks back",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="taskdeletion", description="Deletes what finished data-pipeline tasks leave behind."
    )
    parser.add_argument("--version", action="version", version=version("task-deletion-operator"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("operator", help="run the operator; configured by TASKDELETION_* variables and KUBECONFIG")
    crds = commands.add_parser("crds", help="print the CustomResourceDefinitions, or check files against the models")
    crds.add_argument("--write", metavar="ROOT", type=Path, help="write everything generated below this directory")
    crds.add_argument("--check", metavar="ROOT", type=Path, help="exit 1 when a generated file differs")
    jobs = {verb: commands.add_parser(verb, help=_JOB_HELP[verb]) for verb in VERBS}
    for verb, job in jobs.items():
        add_options(job, verb)
        _add_place(job)
    chosen = parser.parse_args(arguments)
    if chosen.command in jobs:
        return run_job(chosen, jobs[chosen.command])
    return run_operator() if chosen.command == "operator" else run_crds(chosen.write, chosen.check)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--volume", metavar="PATH", type=Path, default=Path("/volume"), help="where it is mounted")
    parser.add_argument("--allow-unmounted", action="store_true", help="take any folder as a volume (development)")
    parser.add_argument(
        "--index",
        metavar="I",
        type=int,
        default=os.environ.get("JOB_COMPLETION_INDEX", "0"),
        help="which share is this pod's own, from 0 (default: JOB_COMPLETION_INDEX)",
    )
    parser.add_argument("--threads", metavar="N", type=int, default=64, help="the most that work at the same time")
    parser.add_argument(
        "--progress-seconds", metavar="S", type=float, default=2.0, help="between two reports, at first"
    )


def run_job(chosen: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """Do what a Job's arguments say. Exit code 2 where they say nothing that can be done."""
    from taskdeletion.executors import in_pod  # noqa: PLC0415 - the other commands have no need of it

    try:
        work = read_work(chosen, chosen.command)
    except ValueError as error:
        parser.error(str(error))
    if not 0 <= chosen.index < work.of:
        parser.error(f"--index {chosen.index} is no share of {work.of}")
    place = in_pod.Place(
        chosen.volume,
        require_mount=not chosen.allow_unmounted,
        index=chosen.index,
        threads=chosen.threads,
        progress_seconds=chosen.progress_seconds,
    )
    return in_pod.run_in_pod(work, place, sys.stdout.buffer)


def run_operator() -> int:
    """Run until SIGTERM or Ctrl-C. Exit code 2 for settings or a log-in that cannot work."""
    from taskdeletion.handlers.running import run  # noqa: PLC0415 - `crds` needs no cluster, and starts quickly

    return run(os.environ)


def run_crds(write: Path | None, check: Path | None) -> int:
    """Print, write or check what is generated from the models. Exit code 1 where a file differs."""
    from taskdeletion.api import crd, generated  # noqa: PLC0415 - the operator does not need the generator

    if write is not None:
        generated.write_generated(write)
        return 0
    if check is not None:
        drifted = generated.check_generated(check)
        sys.stderr.writelines(f"{name} differs from the models; run: taskdeletion crds --write .\n" for name in drifted)
        return 1 if drifted else 0
    sys.stdout.write("---\n".join(crd.render_crds().values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
