"""The console command `taskdeletion`: subcommands only.

`operator` runs the operator; `crds` prints or checks the CRDs; what each does is in the room it calls.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


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
    chosen = parser.parse_args(arguments)
    return run_operator() if chosen.command == "operator" else run_crds(chosen.write, chosen.check)


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
