"""What several Jobs did with the same tasks: added up once, whatever status has of it and however often it is read."""

from dataclasses import replace

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import TaskLine
from taskdeletion.domain.job_manifest import Counts
from taskdeletion.domain.job_results import JobDone, TaskDone
from taskdeletion.domain.job_states import JobSeen
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.results import StepResult
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.tally import Tally

OWNER = "11111111-2222-3333-4444-555555555555"
SIBLING = Sibling("claimed", OWNER, "task_1")
WORK = JobWork("purge", OWNER, "x", siblings=(SIBLING,))
JOB = JobSeen("j", "n", "u", "1", OWNER, 1, WORK, "me", is_suspended=False, is_deleting=False)
SHARE = replace(JOB, work=replace(WORK, of=2, level=1))
BUSY = Fault("retriable", reasons.BUSY, "in use")


def did(files: int, fault: Fault | None = None, *, at_least: bool = False) -> JobDone:
    siblings = (SIBLING,) if fault else ()
    line = TaskLine("task_1", files, 10 * files, siblings=siblings, fault=fault)
    return JobDone({"task_1": TaskDone(line, at_least)}, 0, None)


def after(job: JobSeen, files: int) -> JobSeen:
    return replace(job, counted={"task_1": (files, 10 * files)})


def tally(files: int = 0) -> Tally:
    counted: dict[str, Counts] = {"task_1": (files, 10 * files)}
    return Tally(["task_1"], counted, dry_run=False)


def deleted(files: int, *, at_least: bool = False) -> list[StepResult]:
    return [StepResult("task_1", "Directory", "Deleted", count=files, bytes=10 * files, at_least=at_least)]


@pytest.mark.parametrize(
    ("in_status", "before_the_job", "expected"),
    [
        pytest.param(0, 0, 7, id="the first"),
        pytest.param(3, 3, 7, id="after another attempt"),
        pytest.param(10, 3, 0, id="status has it already"),
        pytest.param(12, 3, 0, id="status has more"),
    ],
)
def test_a_job_is_counted_once(in_status: int, before_the_job: int, expected: int) -> None:
    found = tally(in_status)
    found.add(after(JOB, before_the_job), did(7))

    assert found.results() == deleted(expected)


def test_shares_and_the_purge_behind_them_are_added() -> None:
    found = tally(1)
    found.add(after(SHARE, 1), did(7))
    assert found.open_tasks() == ["task_1"]
    assert found.base_of("task_1") == (8, 80)
    found.add(after(JOB, 8), did(2))

    assert found.results() == deleted(9)


def test_what_a_former_job_could_not_do_is_left_to_the_next() -> None:
    found = tally()
    found.add(JOB, did(7, BUSY), tries_again=True)
    assert found.open_tasks() == ["task_1"]
    found.add(after(JOB, 7), did(2, at_least=True))

    assert found.results() == deleted(9, at_least=True)


def test_a_fault_says_where_the_rest_is_and_what_is_gone() -> None:
    found = tally()
    found.add(JOB, did(7, BUSY))

    [result] = found.results()
    assert (result.outcome, result.reason, result.kind, result.count) == ("Failed", reasons.BUSY, "retriable", 7)
    assert result.message == f"in use; the rest is in .deleting-{OWNER}-task_1"


def test_what_no_job_worked_on_is_absent_unless_it_was_refused_or_failed() -> None:
    assert [result.reason for result in tally().results()] == [reasons.ABSENT]
    refused, failed = tally(), tally()
    refused.refuse("task_1", BUSY)
    failed.fail(BUSY)
    assert refused.results() == failed.results() == [StepResult.failed("task_1", "Directory", BUSY)]


def test_a_failure_of_the_whole_leaves_what_is_done() -> None:
    found = tally()
    found.add(JOB, did(7))
    found.fail(BUSY)

    assert found.results() == deleted(7)


def test_a_dry_run_adds_to_nothing() -> None:
    found = Tally(["task_1"], {"task_1": (5, 50)}, dry_run=True)
    found.add(JOB, did(7))

    [result] = found.results()
    assert (result.outcome, result.count) == ("WouldDelete", 7)
