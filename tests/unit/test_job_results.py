"""What the pods of a Job did, all together, and that nothing which a log does not hold is taken for done."""

from dataclasses import replace

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import Closing, Line, PodLog, Progress, TaskLine, close_log, format_line, parse_log
from taskdeletion.domain.job_results import JobDone, TaskDone, read_results
from taskdeletion.domain.job_states import JobSeen, PodSeen
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.siblings import Sibling

OWNER = "11111111-2222-3333-4444-555555555555"
WORK = JobWork("purge", OWNER, "x", siblings=tuple(Sibling("claimed", OWNER, name) for name in ("task_1", "task_2")))
JOB = JobSeen(
    "j", "n", "u", "1", OWNER, 1, WORK, "me", is_suspended=False, is_deleting=False, finish="Complete", ended=1
)
FAILED = replace(JOB, finish="Failed", finish_reason="BackoffLimitExceeded")
POD = PodSeen("pod-1", "uid-1", "2026-01-01T00:01:00Z", "Succeeded", exit_code=0)
KILLED = PodSeen("pod-0", "uid-0", "2026-01-01T00:00:00Z", "Failed", exit_code=137)
DONE = [TaskLine("task_1", 3, 30), TaskLine("task_2", 1, 5)]
BUSY = Fault("retriable", reasons.BUSY, "in use")


def log(*lines: TaskLine, closing: bool = True, said: tuple[Line, ...] = (), fault: Fault | None = None) -> PodLog:
    end = [close_log(lines, fault=fault)] if closing else []
    return parse_log("".join(map(format_line, [*said, *lines, *end])))


def read(*logs: tuple[PodSeen, PodLog | None], job: JobSeen = JOB, work: JobWork = WORK) -> JobDone:
    return read_results(work, job, logs)


def reason_of(done: JobDone | TaskDone) -> str | None:
    fault = done.fault if isinstance(done, JobDone) else done.line.fault
    return fault.reason if fault else None


def test_a_whole_log_is_the_result() -> None:
    done = read((POD, log(*DONE)))

    assert done == JobDone({line.task_id: TaskDone(line, at_least=False) for line in DONE}, 0, None)


def test_a_fault_of_a_task_is_its_own() -> None:
    done = read((POD, log(replace(DONE[0], fault=BUSY), DONE[1])))

    assert done.fault is None
    assert [reason_of(found) for found in done.tasks.values()] == [reasons.BUSY, None]


def test_counts_of_a_pod_that_was_killed_are_added_as_a_lower_bound() -> None:
    killed = log(closing=False, said=(Progress("task_1", 2, 20), Progress("task_1", 7, 70)))
    done = read((POD, log(*DONE)), (KILLED, killed), job=replace(JOB, ended=2))

    assert done.fault is None
    assert done.tasks["task_1"] == TaskDone(TaskLine("task_1", 10, 100), at_least=True)


def test_a_pod_that_was_told_to_stop_counted_exactly() -> None:
    stopped = Fault("waiting", reasons.INTERRUPTED, "stopped")
    first = log(TaskLine("task_1", 7, 70, fault=stopped), TaskLine("task_2", fault=stopped), fault=stopped)
    done = read((replace(KILLED, exit_code=75), first), (POD, log(*DONE)), job=replace(JOB, ended=2))

    assert done.tasks["task_1"] == TaskDone(TaskLine("task_1", 10, 100), at_least=False)
    assert done.fault is None


def test_a_pod_that_is_gone_with_its_log_makes_counts_lower_bounds() -> None:
    done = read((POD, log(*DONE)), job=replace(JOB, ended=2))

    assert done.tasks["task_1"] == TaskDone(DONE[0], at_least=True)


@pytest.mark.parametrize(
    "logs",
    [
        pytest.param([], id="no pod"),
        pytest.param([(POD, None)], id="no log"),
        pytest.param([(POD, log(*DONE, closing=False))], id="no closing line"),
        pytest.param([(POD, parse_log(format_line(DONE[0]) + format_line(Closing(2, 4, 35))))], id="a line is missing"),
        pytest.param([(replace(POD, phase="Failed"), log(*DONE))], id="the pod failed"),
    ],
)
def test_what_is_not_known_is_no_success(logs: list[tuple[PodSeen, PodLog | None]]) -> None:
    done = read(*logs)

    assert reason_of(done) == reasons.JOB_RESULT_INCOMPLETE
    for found in done.tasks.values():
        assert reason_of(found) == reasons.JOB_RESULT_INCOMPLETE
        assert found.line.fault is not None
        assert found.line.fault.kind == "retriable"
        assert found.at_least


def test_a_task_without_a_line_is_no_success() -> None:
    done = read((POD, log(DONE[0])))

    assert done.fault is None
    assert reason_of(done.tasks["task_1"]) is None
    assert reason_of(done.tasks["task_2"]) == reasons.JOB_RESULT_INCOMPLETE


def test_what_kept_a_pod_from_its_work_is_the_fault_of_every_task() -> None:
    missing = Fault("waiting", reasons.STORE_ROOT_MISSING, "create it")
    done = read((POD, log(fault=missing)))

    assert done.fault == missing
    assert [found.line.fault for found in done.tasks.values()] == [missing, missing]


@pytest.mark.parametrize(
    ("job", "pod", "reason", "word"),
    [
        pytest.param(FAILED, KILLED, reasons.JOB_FAILED, "137", id="killed"),
        pytest.param(FAILED, replace(KILLED, exit_reason="OOMKilled"), reasons.JOB_FAILED, "memory", id="memory"),
        pytest.param(
            FAILED, replace(KILLED, exit_reason="Evicted", exit_code=None), reasons.JOB_FAILED, "Evicted", id="evicted"
        ),
        pytest.param(
            replace(FAILED, finish_reason="DeadlineExceeded"), KILLED, reasons.TIMEOUT, "time", id="out of time"
        ),
    ],
)
def test_a_failed_job_says_how_its_last_pod_ended(job: JobSeen, pod: PodSeen, reason: str, word: str) -> None:
    done = read((pod, log(closing=False, said=(Progress("task_1", 7, 70),))), job=job)

    assert done.fault is not None
    assert (done.fault.kind, done.fault.reason) == ("retriable", reason)
    assert word in done.fault.message
    assert done.tasks["task_1"].line == TaskLine("task_1", 7, 70, fault=done.fault)
    assert done.tasks["task_1"].at_least


def test_shares_are_summed_and_all_of_them_are_needed() -> None:
    work = replace(WORK, of=2, level=1)
    pods = [replace(POD, name=f"pod-{index}", index=index) for index in range(2)]
    whole = read(*((pod, log(*DONE)) for pod in pods), work=work, job=replace(JOB, ended=2))
    twice = read((pods[0], log(*DONE)), (replace(pods[0], name="x"), log(*DONE)), work=work, job=replace(JOB, ended=2))

    assert whole.tasks["task_1"] == TaskDone(TaskLine("task_1", 6, 60), at_least=False)
    assert whole.fault is None
    assert reason_of(twice) == reasons.JOB_RESULT_INCOMPLETE
    assert reason_of(twice.tasks["task_1"]) == reasons.JOB_RESULT_INCOMPLETE


def test_the_level_of_a_claim_is_handed_on() -> None:
    said = [*map(format_line, DONE), format_line(close_log(DONE, level=3))]

    assert read((POD, parse_log("".join(said)))).level == 3
