"""`python -m dev`: the development stack from the command line. See `python -m dev --help`.

Only argument parsing, printing and signals; what is done belongs to `dev.stack`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from dev.processes import Processes, StackError
from dev.stack import SERVICES, Stack, provision_services, remove_data, start_detached, start_stack
from dev.supervisor import die_with

DEFAULT_STATE_DIR = Path(__file__).resolve().parents[1] / ".stack"
EXIT_INTERRUPTED = 128 + signal.SIGINT

Command = Callable[[argparse.Namespace], int]


def provision(options: argparse.Namespace) -> int:
    for name, path in provision_services(options.services).items():
        print(f"{name:24} {path}")
    return 0


def run(options: argparse.Namespace) -> int:
    with start_stack(options.state_dir, services=options.services) as stack:
        return run_command(options.command, os.environ | stack.environment())


def up(options: argparse.Namespace) -> int:
    options.state_dir.mkdir(parents=True, exist_ok=True)
    stack = running_stack(options.state_dir) or start_detached(options.state_dir, services=options.services)
    for name, value in stack.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def spawn(options: argparse.Namespace) -> int:
    stack = Stack.attach(options.state_dir)
    stack.stop_process(options.name)
    print(stack.spawn(options.name, options.command, os.environ | stack.environment()))
    return 0


def down(options: argparse.Namespace) -> int:
    was_running = stop_stack(options.state_dir)
    if options.purge:
        remove_data(options.state_dir)
    print(f"{options.state_dir}: {'stopped' if was_running else 'was not running'}", file=sys.stderr)
    return 0


def status(options: argparse.Namespace) -> int:
    stack = Stack.attach(options.state_dir)
    for name, process in stack.processes.status().items():
        state = "running" if process["returncode"] is None else f"ended with {process['returncode']}"
        print(f"{name:24} {process['pid']:>8} {state}")
    for service, endpoint in stack.to_json().items():
        print(f"{service}: {endpoint}")
    return 0


def running_stack(state_dir: Path) -> Stack | None:
    try:
        return Stack.attach(state_dir)
    except StackError:
        return None


def stop_stack(state_dir: Path) -> bool:
    """End the stack in `state_dir`, also one that is still starting; says whether there was one."""
    try:
        processes = Processes.attach(state_dir)
    except StackError:
        return False
    processes.shutdown()
    return True


def run_command(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end, pass on the signals that are meant for it, and return its exit code."""
    process = subprocess.Popen(
        command,
        env=environment,
        preexec_fn=die_with(os.getpid()),  # noqa: PLW1509 - the threads that started the stack have ended
    )
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, forward_to(process))
    returncode = process.wait()
    return returncode if returncode >= 0 else 128 - returncode


def forward_to(process: subprocess.Popen[bytes]) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, _: FrameType | None) -> None:
        # A terminal has already sent Ctrl-C to the command too, and a second one means "do not even clean up" to many.
        if number != signal.SIGINT or not is_in_terminal_foreground():
            process.send_signal(number)

    return forward


def is_in_terminal_foreground() -> bool:
    try:
        with Path("/dev/tty").open("rb") as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except OSError:
        return False


def exit_on_signal(number: int, _: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev", description="The development stack of this repository.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_command(commands, provision, "get every program, without starting any", add_services)
    add_command(commands, run, "start a stack, run a command with it, stop it", add_services, add_run_arguments)
    add_command(commands, up, "start a stack that lives on; prints the exports to use it", add_services, add_state_dir)
    add_command(commands, spawn, "start a process, or start it again, in the stack that runs", add_state_dir, add_name)
    add_command(commands, down, "stop the stack that `up` started", add_state_dir, add_purge)
    add_command(commands, status, "show the processes and endpoints of the stack that `up` started", add_state_dir)
    return parser.parse_args()


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    function: Command,
    summary: str,
    *arguments: Callable[[argparse.ArgumentParser], object],
) -> None:
    command = commands.add_parser(function.__name__, help=summary, description=summary)
    command.set_defaults(function=function)
    for add in arguments:
        add(command)


def add_services(command: argparse.ArgumentParser) -> None:
    summary = f"only these of: {', '.join(SERVICES)}"
    command.add_argument("--services", nargs="+", choices=SERVICES, default=SERVICES, metavar="SERVICE", help=summary)


def add_state_dir(command: argparse.ArgumentParser) -> None:
    summary = "where it lives (default: %(default)s)"
    command.add_argument("--state-dir", type=Path, default=DEFAULT_STATE_DIR, help=summary)


def add_purge(command: argparse.ArgumentParser) -> None:
    command.add_argument("--purge", action="store_true", help="also remove its data")


def add_name(command: argparse.ArgumentParser) -> None:
    command.add_argument("name", metavar="NAME", help="what it is called in `status`; its output is in logs/NAME.log")
    add_command_line(command)


def add_command_line(command: argparse.ArgumentParser) -> None:
    command.add_argument("command", nargs="+", metavar="CMD", help="the command and its arguments, after `--`")


def add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--state-dir", type=Path, help="keep the data and logs there (default: keep nothing)")
    add_command_line(command)


def main() -> int:
    options = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, exit_on_signal)
    function: Command = options.function
    try:
        return function(options)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
