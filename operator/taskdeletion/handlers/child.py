"""Lets the operator be a child where it would be the first process of a container: that one cannot kill itself.

Called by `running` before anything is started. The first process then only passes signals on and waits; the container
ends with it.
"""

import os
import signal
from collections.abc import Callable
from typing import Final

PASSED_ON: Final = (signal.SIGTERM, signal.SIGINT)
_WAITED_FOR: Final = (*PASSED_ON, signal.SIGCHLD)
_FIRST: Final = 1
_KILLED: Final = 128


def run_in_child(run: Callable[[], int]) -> int:
    """Call `run` in a child, with every signal as it was here; its exit code, or 128 and the number of its signal.

    Call it before there are threads. Children of others that end up here are buried, too.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()
    while (ended := _bury(child)) is None:
        received = signal.sigwait(_WAITED_FOR)
        if received in PASSED_ON:
            os.kill(child, received)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return ended


def is_first_process() -> bool:
    """Whether this process is the first one of its container."""
    return os.getpid() == _FIRST


def _bury(child: int) -> int | None:
    """The exit code of the child if it has ended; what else has ended is taken note of, too."""
    while True:
        try:
            found, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return _KILLED  # somebody else has waited for it: how it ended is not known
        if found == 0:
            return None
        if found == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _KILLED - code
