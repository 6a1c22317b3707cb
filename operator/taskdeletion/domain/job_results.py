"""What the pods of a settled Job did, all together: counts of every pod, and per task what the last one saw.

Called by the executor for Jobs with the logs of all pods. What a log does not hold is a fault, never a success. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import Closing, PodLog, TaskLine
from taskdeletion.domain.job_states import JobSeen, PodSeen
from taskdeletion.domain.job_work import JobWork

_NO_LOG: Final = PodLog({}, {}, None, is_complete=False)


@dataclass(frozen=True, slots=True)
class TaskDone:
    """What a Job did with one task. `at_least`: a pod was cut short, or its log is not whole, so it may be more."""

    line: TaskLine
    at_least: bool


@dataclass(frozen=True, slots=True)
class JobDone:
    """What a Job did. `fault`: of the Job as a whole, which every task without a line of its own has, too."""

    tasks: Mapping[str, TaskDone]
    level: int
    fault: Fault | None


def read_results(work: JobWork, job: JobSeen, logs: Sequence[tuple[PodSeen, PodLog | None]]) -> JobDone:
    """Fold the logs of a settled Job; None: the log of that pod cannot be read any more."""
    ordered = sorted(logs, key=lambda one: one[0].created_at)
    found = [(pod, log or _NO_LOG) for pod, log in ordered]
    succeeded = {pod.index: log for pod, log in found if log.is_complete and pod.phase == "Succeeded"}
    finals = list(succeeded.values())
    closings = [log.closing for log in finals if log.closing is not None]
    problem = _find_problem(work, job, [pod for pod, _ in found], closings)
    is_cut_short = any(not log.is_complete for _, log in found) or len(found) < max(job.ended, 1)
    tasks = {
        task_id: _fold(task_id, [log for _, log in found], finals, is_cut_short=is_cut_short, problem=problem)
        for task_id in work.tasks
    }
    return JobDone(tasks, max((closing.level for closing in closings), default=0), problem)


def _find_problem(work: JobWork, job: JobSeen, pods: Sequence[PodSeen], closings: Sequence[Closing]) -> Fault | None:
    """Why the Job as a whole did not do its work."""
    if job.finish == "Failed":
        return _explain_failure(job, pods)
    told = next((closing.fault for closing in closings if closing.fault is not None), None)
    if told is not None:
        return told
    if len(closings) < work.of:
        message = "the log of the Job's pod is gone, or not whole; what it did is found out by another one"
        return Fault("retriable", reasons.JOB_RESULT_INCOMPLETE, message)
    return None


def _explain_failure(job: JobSeen, pods: Sequence[PodSeen]) -> Fault:
    if job.finish_reason == "DeadlineExceeded":
        return Fault("retriable", reasons.TIMEOUT, "the Job's pods did not end within the time that a Job has")
    last = max(pods, key=lambda pod: pod.created_at, default=None)
    why = _describe_end(last) if last is not None else job.finish_message or job.finish_reason
    return Fault("retriable", reasons.JOB_FAILED, f"the Job's pods ended without a result; the last one: {why}")


def _describe_end(pod: PodSeen) -> str:
    if pod.exit_reason == "OOMKilled":
        return "it used more memory than it may; raise the limit of Jobs in the operator's chart"
    code = f"exit code {pod.exit_code}" if pod.exit_code is not None else ""
    return ", ".join(part for part in (pod.exit_reason, code, pod.message) if part) or pod.phase


def _fold(
    task_id: str, logs: Sequence[PodLog], finals: Sequence[PodLog], *, is_cut_short: bool, problem: Fault | None
) -> TaskDone:
    files = sum(_counts(log, task_id)[0] for log in logs)
    freed = sum(_counts(log, task_id)[1] for log in logs)
    lines = [log.tasks[task_id] for log in finals if task_id in log.tasks]
    at_least = is_cut_short or problem is not None
    if not lines:
        line = TaskLine(task_id, fault=problem or _missing())
        return TaskDone(replace(line, files=files, bytes=freed), at_least)
    fault = next((line.fault for line in lines if line.fault is not None), None) or problem
    return TaskDone(replace(lines[-1], files=files, bytes=freed, fault=fault), at_least)


def _counts(log: PodLog, task_id: str) -> tuple[int, int]:
    said = log.tasks.get(task_id) or log.progress.get(task_id)
    return (said.files, said.bytes) if said is not None else (0, 0)


def _missing() -> Fault:
    return Fault("retriable", reasons.JOB_RESULT_INCOMPLETE, "the Job's pod said nothing about this task")
