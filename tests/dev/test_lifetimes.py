"""Whatever ends the parent, and however, nothing that it started is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dev.processes import Processes, StackError, StopRule
from dev.stack import Stack, start_stack

Eventually = Callable[..., None]
IsAlive = Callable[[int], bool]
ROOT = Path(__file__).parents[2]
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
signal.pause()
"""
LAST_WORDS = """
import pathlib, signal, sys
def say(*_):
    with pathlib.Path(sys.argv[1]).open("a") as file:
        print(sys.argv[2], file=file)
    sys.exit()
signal.signal(signal.SIGTERM, say)
print("up", flush=True)
signal.pause()
"""
PARENT = """
import json, pathlib, signal, sys
from dev.stack import start_stack
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs ignore it
with start_stack(*map(pathlib.Path, sys.argv[1:]), services=["redis", "postgres", "minio"]) as stack:
    pids = [process["pid"] for process in stack.processes.status().values() if process["returncode"] is None]
    found = {"pids": [*pids, stack.processes.supervisor_pid], "state_dir": str(stack.state_dir)}
    print(json.dumps(found), flush=True)
    signal.pause()
"""


@contextmanager
def parent_with_a_stack(*state_dir: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A Python process that has started a stack, and what it has started."""
    command = [sys.executable, "-c", PARENT, *map(str, state_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        try:
            yield parent, json.loads(parent.stdout.readline())
        finally:
            parent.kill()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda ending: ending.name)
def test_a_parent_that_is_ended_leaves_no_process(
    ending: signal.Signals, eventually: Eventually, is_alive: IsAlive
) -> None:
    with parent_with_a_stack() as (parent, started):
        assert all(is_alive(pid) for pid in started["pids"])
        parent.send_signal(ending)
        eventually(lambda: not any(is_alive(pid) for pid in started["pids"]))
        eventually(lambda: not Path(started["state_dir"]).exists())


def test_a_supervisor_that_is_killed_takes_its_children_along(
    tmp_path: Path, eventually: Eventually, is_alive: IsAlive
) -> None:
    with parent_with_a_stack(tmp_path) as (_, started):
        os.kill(started["pids"][-1], signal.SIGKILL)
        eventually(lambda: not any(is_alive(pid) for pid in started["pids"]))


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes.start(tmp_path)
    yield started
    started.shutdown()


def test_a_process_that_ignores_the_polite_signal_is_killed_with_its_children(
    processes: Processes, eventually: Eventually, is_alive: IsAlive
) -> None:
    stubborn = processes.spawn("stubborn", [sys.executable, "-c", STUBBORN], stop=StopRule(grace_seconds=0.2))
    eventually(lambda: processes.read_log("stubborn").endswith("\n"))
    grandchild = int(processes.read_log("stubborn"))
    processes.stop("stubborn")
    eventually(lambda: not is_alive(stubborn) and not is_alive(grandchild))


def test_what_a_process_leaves_running_when_it_ends_is_ended(
    processes: Processes, eventually: Eventually, is_alive: IsAlive
) -> None:
    processes.run("leaver", ["sh", "-c", "sleep 1000 & echo $!"])
    orphan = int(processes.read_log("leaver"))
    eventually(lambda: not is_alive(orphan))


def test_applications_end_before_the_services_they_use(processes: Processes, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for tier, name in enumerate(("storage", "service", "application")):
        processes.spawn(name, [sys.executable, "-c", LAST_WORDS, order, name], tier=tier)
        processes.wait_ready(name, partial(is_up, processes, name))
    processes.shutdown()
    assert order.read_text().split() == ["application", "service", "storage"]


def is_up(processes: Processes, name: str) -> bool:
    return processes.read_log(name) == "up\n"


def test_a_name_is_given_to_one_running_process_only(processes: Processes) -> None:
    processes.spawn("one", [sys.executable, "-c", "import signal; signal.pause()"])
    with pytest.raises(StackError, match="already running"):
        processes.spawn("one", ["true"])


def test_a_request_without_the_token_is_refused(processes: Processes) -> None:
    processes.token, token = "guessed", processes.token
    with pytest.raises(StackError, match="wrong token"):
        processes.status()
    processes.token = token


def dev_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "dev", *map(str, arguments)]


def test_run_gives_the_command_its_stack_and_returns_its_exit_code() -> None:
    script = "import os, json; json.load(open(os.environ['TASKDELETION_DEV_STATE'] + '/stack.json')); exit(7)"
    command = dev_command("run", "--services", "redis", "--", sys.executable, "-c", script)
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == 7


def test_run_that_is_terminated_ends_its_command_and_its_stack(
    tmp_path: Path, eventually: Eventually, is_alive: IsAlive
) -> None:
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    command = dev_command("run", "--state-dir", tmp_path, "--services", "redis", "--", sys.executable, "-c", script)
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        redis = Stack.attach(tmp_path).processes.status()["redis"]["pid"]
        run.terminate()
        assert run.wait(20) == 128 + signal.SIGTERM
    eventually(lambda: not is_alive(pid) and not is_alive(redis))


def test_up_starts_once_and_down_stops_exactly_that_stack(tmp_path: Path, is_alive: IsAlive) -> None:
    state_dir = tmp_path / "state"
    up = dev_command("up", "--services", "redis", "--state-dir", state_dir)
    first = subprocess.run(up, cwd=ROOT, capture_output=True, text=True)
    assert first.stdout == f"export TASKDELETION_DEV_STATE={state_dir}\n"
    pid = Stack.attach(state_dir).processes.status()["redis"]["pid"]
    assert subprocess.run(up, cwd=ROOT, capture_output=True, text=True).stdout == first.stdout
    assert Stack.attach(state_dir).processes.status()["redis"]["pid"] == pid
    subprocess.run(dev_command("down", "--state-dir", state_dir, "--purge"), cwd=ROOT, check=True, capture_output=True)
    assert not is_alive(pid)
    assert not state_dir.exists()


def test_spawn_starts_a_process_in_the_running_stack_or_starts_it_again(
    tmp_path: Path, eventually: Eventually, is_alive: IsAlive
) -> None:
    script = "import os, signal; print(os.environ['TASKDELETION_DEV_STATE'], flush=True); signal.pause()"
    spawn = dev_command("spawn", "--state-dir", tmp_path, "worker", "--", sys.executable, "-c", script)
    with start_stack(tmp_path, services=["redis"]) as stack:
        pids = [int(subprocess.check_output(spawn, cwd=ROOT)) for _ in range(2)]
        eventually(lambda: stack.processes.read_log("worker") == f"{tmp_path}\n")
        assert [is_alive(pid) for pid in pids] == [False, True]
    assert not is_alive(pids[1])


def test_down_also_stops_a_stack_that_is_still_starting(tmp_path: Path) -> None:
    starting = Processes.start(tmp_path)
    subprocess.run(dev_command("down", "--state-dir", tmp_path), cwd=ROOT, check=True, capture_output=True)
    assert not starting.answers()
    starting.shutdown()


def test_purge_removes_nothing_from_a_directory_that_no_stack_made(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    subprocess.run(dev_command("down", "--state-dir", tmp_path, "--purge"), cwd=ROOT, check=True, capture_output=True)
    assert (tmp_path / "logs").exists()
