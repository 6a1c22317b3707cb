"""What ends a process that leads no more: a timer of the kernel, also while it stands still; and who can be killed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from taskdeletion.controller.kill_timer import KillTimer, clock
from taskdeletion.handlers.child import is_first_process
from tests.support.kube import ROOT

PATIENCE_SECONDS = 20
LONG = 2 * PATIENCE_SECONDS
Child = subprocess.Popen[str]
Spawn = Callable[[str], Child]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start Python with some code; what is left of it at the end is killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    with ExitStack() as on_exit:

        def start(code: str) -> Child:
            command = [sys.executable, "-c", code]
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
            )
            on_exit.enter_context(process)
            on_exit.callback(process.kill)
            return process

        yield start


def read_line(process: Child) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: Child, *, tell: str | None = None) -> int:
    process.communicate(tell, timeout=PATIENCE_SECONDS)
    return process.returncode


ARM = """
from taskdeletion.controller.kill_timer import KillTimer, clock
timer = KillTimer()
"""


def test_the_timer_kills_a_process_that_stands_still(spawn: Spawn) -> None:
    process = spawn(ARM + "timer.set(clock() + 1)\nprint('armed', flush=True)\ninput()")
    assert read_line(process) == "armed"
    process.send_signal(signal.SIGSTOP)

    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def test_the_timer_kills_at_the_latest_time_that_was_set(spawn: Spawn) -> None:
    code = ARM + "timer.set(clock() + 0.2)\ntimer.set(clock() + 1.5)\nprint(clock(), flush=True)\ninput()"
    process = spawn(code)
    armed_at = float(read_line(process))

    assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL
    assert clock() - armed_at >= 1.4


@pytest.mark.parametrize("tame", ["timer.stop()", "timer.set(clock() + 3600)"])
def test_a_timer_that_was_stopped_or_moved_on_kills_nobody(spawn: Spawn, tame: str) -> None:
    """Told behind the time that was set first, the process is still there."""
    code = ARM + f"timer.set(clock() + 0.3)\n{tame}\nlate = clock() + 0.5\nwhile clock() < late: pass\nprint('alive')"
    process = spawn(code)

    assert read_line(process) == "alive"
    assert finish(process) == 0


def test_a_time_that_has_passed_kills_at_once(spawn: Spawn) -> None:
    process = spawn(ARM + "timer.set(clock() - 1)\ninput()")

    assert finish(process) == -signal.SIGKILL


def test_a_kernel_without_such_a_timer_is_refused_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taskdeletion.controller.kill_timer.CLOCK", 12345)

    with pytest.raises(OSError, match="leader election needs a timer of the kernel"):
        KillTimer()


def test_the_clock_goes_forward() -> None:
    before = clock()

    assert 0 <= clock() - before < PATIENCE_SECONDS


CHILD = """
import os, signal, sys, time
from taskdeletion.handlers.child import run_in_child
def run():
    {body}
sys.exit(run_in_child(run))
"""
SPEAK = "print(os.getpid(), flush=True)"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("return 0", 0, id="well"),
        pytest.param("return 2", 2, id="badly"),
        pytest.param("os._exit(1)", 1, id="at once"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 137, id="killed"),
    ],
)
def test_the_first_process_ends_as_its_child_did(spawn: Spawn, body: str, code: int) -> None:
    assert finish(spawn(CHILD.format(body=body))) == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_child(spawn: Spawn, number: signal.Signals) -> None:
    body = (
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(40)); signal.signal(signal.SIGINT, lambda *_: os._exit(41));"
        f" {SPEAK}; time.sleep({PATIENCE_SECONDS})"
    )
    process = spawn(CHILD.format(body=body))
    assert int(read_line(process)) != process.pid
    process.send_signal(number)

    assert finish(process) == {signal.SIGTERM: 40, signal.SIGINT: 41}[number]


def test_children_of_others_are_buried_while_it_waits(spawn: Spawn) -> None:
    """An orphan of the child ends up at the first process of a container; here it is one from the start."""
    code = (
        "import os, sys\nfrom taskdeletion.handlers.child import run_in_child\n"
        "orphan = os.fork()\nif orphan == 0: os._exit(9)\n"
        "def run():\n    print('up', flush=True)\n    sys.stdin.readline()\n    return 5\n"
        "code = run_in_child(run)\n"
        "try: os.waitpid(orphan, 0)\nexcept ChildProcessError: sys.exit(code)\nsys.exit(99)"
    )
    process = spawn(code)
    assert read_line(process) == "up"

    assert finish(process, tell="\n") == 5


IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")


@pytest.mark.skipif(
    subprocess.run([*IN_A_CONTAINER, "true"], capture_output=True).returncode != 0,
    reason="this machine lets nobody here begin a namespace of processes",
)
def test_the_first_process_of_a_container_is_killed_as_its_own_child() -> None:
    """By itself it would live on: the kernel protects the first process from signals of its own container."""
    code = CHILD.format(body=f"{ARM.strip().replace(chr(10), '; ')}; timer.set(clock() + 1); time.sleep({2 * LONG})")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "operator")}
    done = subprocess.run([*IN_A_CONTAINER, sys.executable, "-c", code], env=environment, timeout=LONG)

    assert done.returncode == 128 + signal.SIGKILL


def test_only_the_process_with_number_one_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process() is False
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert is_first_process() is True
