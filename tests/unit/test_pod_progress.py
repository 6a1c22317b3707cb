"""A pod says how far it is, never more than a kubelet keeps, and nothing behind its last line."""

import io
from dataclasses import dataclass

import pytest

from dev.pipeline import wait_until
from taskdeletion.backends.directory import Purged
from taskdeletion.domain.job_lines import Progress, TaskLine, close_log, parse_line, parse_log
from taskdeletion.executors import pod_progress
from taskdeletion.executors.pod_progress import ProgressWriter


@dataclass
class GrowingWalk:
    """One file more each time somebody looks."""

    files: int = 0

    @property
    def counted(self) -> Purged:
        self.files += 1
        return Purged(self.files, 10 * self.files)


@dataclass
class StandingWalk:
    counted: Purged


def text_of(output: io.BytesIO) -> str:
    return output.getvalue().decode()


def test_walks_of_one_task_are_added_and_said_once() -> None:
    output = io.BytesIO()
    with ProgressWriter(output, 0.01) as writer:
        for files in (1, 2):
            writer.watch("task_1", StandingWalk(Purged(files, 10 * files)))
        growing = GrowingWalk()
        writer.watch("task_2", growing)
        wait_until(lambda: growing.files > 3, seconds=10, what="three more reports")
    lines = [parse_line(line) for line in text_of(output).splitlines()]

    assert lines.count(Progress("task_1", 3, 30)) == 1
    assert Progress("task_2", 3, 30) in lines


def test_progress_stays_below_its_limit_and_results_come_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pod_progress, "PROGRESS_LIMIT_BYTES", 500)
    output, line = io.BytesIO(), TaskLine("task_1", 9, 90)
    with ProgressWriter(output, 0.001) as writer:
        growing = GrowingWalk()
        writer.watch("task_1", growing)
        wait_until(lambda: not writer.is_reporting, seconds=30, what="the limit is reached")
        said = len(output.getvalue())
        writer.finish([line, close_log([line])])

    assert 0 < said <= 500
    assert parse_log(text_of(output)).is_complete


def test_nothing_comes_behind_the_last_line() -> None:
    output, line = io.BytesIO(), TaskLine("task_1", 9, 90)
    with ProgressWriter(output, 0.001) as writer:
        writer.watch("task_1", GrowingWalk())
        wait_until(lambda: bool(output.getvalue()), seconds=10, what="progress")
        writer.finish([line, close_log([line])])
        assert not writer.is_reporting

    assert text_of(output).splitlines()[-1].startswith('{"end":1')
