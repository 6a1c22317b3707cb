"""The command of a Job's pod as a real process: as a chosen user, on a chosen folder, slow where a test needs time.

`python -m tests.support.pod UID MILLISECONDS ARGUMENT...` runs `taskdeletion ARGUMENT...` as that user; every unlink
takes so long. What runs is the product's own.
"""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from taskdeletion.domain.job_lines import Line, PodLog, parse_line, parse_log
from taskdeletion.domain.job_work import JobWork, build_arguments

ROOT = Path(__file__).parents[2]


class PodProcess:
    """One run of a command, with what it said so far."""

    def __init__(
        self,
        work: JobWork,
        volume: Path,
        *,
        uid: int | None = None,
        unlink_ms: int = 0,
        index: int | None = None,
        progress_seconds: float = 60.0,
        options: tuple[str, ...] = ("--allow-unmounted",),
    ) -> None:
        verb, *rest = build_arguments(work)
        place = [f"--volume={volume}", f"--progress-seconds={progress_seconds}", *options]
        launcher = [sys.executable, "-m", "tests.support.pod", str(os.geteuid() if uid is None else uid)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "operator")))}
        if index is not None:
            environment["JOB_COMPLETION_INDEX"] = str(index)
        command = [*launcher, str(unlink_ms), verb, *place, *rest]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
        self.text = ""

    def read_line(self, seconds: float = 30.0) -> Line | None:
        """The next line that it says; None for one that is not ours. AssertionError where it says nothing more."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        assert ready, "the pod says nothing"
        line = self.process.stdout.readline().decode()
        assert line, "the pod has ended"
        self.text += line
        return parse_line(line)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit code, once it has ended and everything that it said is read."""
        rest, _ = self.process.communicate(timeout=seconds)
        self.text += rest.decode()
        return self.process.returncode

    @property
    def log(self) -> PodLog:
        """What it said so far."""
        return parse_log(self.text)


def run_pod(work: JobWork, volume: Path, **options: object) -> PodLog:
    """Run the command to its end, which has to be a good one; returns its complete log."""
    pod = PodProcess(work, volume, **options)  # type: ignore[arg-type]  # passed on as they are
    assert pod.wait() == 0, pod.text
    assert pod.log.is_complete, pod.text
    return pod.log


def _become(uid: int) -> None:
    if uid != os.geteuid():
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


if __name__ == "__main__":
    from importlib.metadata import version

    from taskdeletion.__main__ import main
    from taskdeletion.executors import in_pod  # noqa: F401 - an ordinary user may not read where Python is installed
    from tests.support.slowing import slow_down

    if int(sys.argv[2]):
        slow_down(int(sys.argv[2]) / 1000)
    version("task-deletion-operator")  # what this imports is needed, too
    _become(int(sys.argv[1]))
    sys.exit(main(sys.argv[3:]))
