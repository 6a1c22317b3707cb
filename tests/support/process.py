"""The operator as a real process: started, told to stop, killed."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

OPERATOR = ("taskdeletion", "operator")


class OperatorProcess:
    """One `taskdeletion operator`. Its log goes to a file that failing tests can show; nothing asserts on it.

    `module`: what `python -m` runs, where a launcher of the tests stands between.
    """

    def __init__(self, environment: Mapping[str, str], log: Path, module: Sequence[str] = OPERATOR) -> None:
        self.log = log
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *module], env=dict(environment), stdout=stream, stderr=stream
            )

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM, and wait; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def running_operator(
    environment: Mapping[str, str], log: Path, module: Sequence[str] = OPERATOR
) -> Iterator[OperatorProcess]:
    """An operator for the length of a `with` block."""
    operator = OperatorProcess(environment, log, module)
    try:
        yield operator
    finally:
        if operator.process.poll() is None:
            try:
                operator.stop()
            except subprocess.TimeoutExpired:
                operator.kill()
                raise
