"""Runs one Job from its creation until it is settled, follows one that is found, and removes one with all its pods.

Called by `executors.in_jobs`. Knows Jobs and their results, and nothing of what they are for.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import PodLog
from taskdeletion.domain.job_manifest import Counts, JobSettings, JobTarget, build_job
from taskdeletion.domain.job_results import JobDone, read_results
from taskdeletion.domain.job_states import JobSeen, PodSeen, find_claim_fault, find_start_fault, has_begun, is_settled
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.results import Halt
from taskdeletion.kube.jobs import JobChanged, Jobs

Tell = Callable[[Mapping[str, Counts]], object]
_GONE: Final = Fault(
    "retriable", reasons.JOB_RESULT_INCOMPLETE, "somebody deleted the Job; what it did is found out by another one"
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a worker waits, in seconds: for a new Job to begin, for one that was found, for pods to be gone."""

    new: float = 20.0
    found: float = 3.0
    gone: float = 60.0
    poll: float = 1.0
    progress: float = 5.0


@dataclass(frozen=True, slots=True)
class JobRunner:
    """Jobs of this process. `identity`: of it; a Job of another identity is adopted before anything relies on it.

    All methods raise KubeUnavailable and KubeForbidden, and Fault.
    """

    jobs: Jobs
    settings: JobSettings
    identity: str
    patience: Patience = Patience()
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def run(self, work: JobWork, target: JobTarget, halt: Halt, tell: Tell | None = None) -> tuple[JobSeen, JobDone]:
        """Create the Job, or find it, and follow it to its end. Fault (waiting): it does not begin, and stays."""
        job = self.jobs.create(build_job(work, self._place(target), self.settings))
        return job, self.follow(job, halt, tell, patience_seconds=self.patience.new)

    def run_anew(self, work: JobWork, target: JobTarget, halt: Halt) -> tuple[JobSeen, JobDone]:
        """The same, but never with the result of a Job that has ended before."""
        job = self.jobs.create(build_job(work, self._place(target), self.settings))
        if not job.is_suspended:
            self.remove(job)
        return self.run(work, target, halt)

    def adopt_all(self, namespace: str, owner: str) -> list[JobSeen]:
        """The Jobs of a request, oldest first; from here on only this process can release one of them."""
        found = sorted(self.jobs.list_of(namespace, owner), key=lambda job: (job.created_at, job.name))
        return [adopted for job in found if (adopted := self._adopt(job)) is not None]

    def follow(
        self, job: JobSeen, halt: Halt, tell: Tell | None = None, *, patience_seconds: float | None = None
    ) -> JobDone:
        """Let it run, and read what it did once it is settled."""
        assert job.work is not None, "only Jobs of ours are followed"
        adopted = self._adopt(job)
        if adopted is not None and adopted.is_suspended:
            self._release(adopted)
        patience = self.patience.found if patience_seconds is None else patience_seconds
        late_at, told_at = self.clock() + patience, self.clock()
        while True:
            seen, pods = self.jobs.read(job), self.jobs.list_pods(job)
            if is_settled(seen, pods):
                return self._read(seen, pods)
            if fault := halt():
                raise fault
            if seen is not None and self.clock() >= late_at and not has_begun(seen, pods):
                raise find_start_fault(pods, self.jobs.list_events(job, pods), is_late=True)
            if tell is not None and self.clock() - told_at >= self.patience.progress:
                if progress := self._sum_up(job, pods):
                    tell(progress)
                told_at = self.clock()
            self.sleep(self.patience.poll)

    def remove(self, job: JobSeen) -> None:
        """Delete it and wait until none of its pods is left. Fault (waiting): one does not end."""
        self.jobs.delete(job)
        give_up_at = self.clock() + self.patience.gone
        while True:
            pods = self.jobs.list_pods(job)
            if self.jobs.read(job) is None and is_settled(None, pods):
                return
            if self.clock() >= give_up_at:
                where = ", ".join(sorted({pod.node for pod in pods if not pod.has_ended} - {""})) or "no node"
                message = f"Job {job.name} was deleted, and its pod on {where} has not ended; see the node"
                raise Fault("waiting", reasons.JOB_STILL_RUNNING, message)
            self.sleep(self.patience.poll)

    def is_settled(self, job: JobSeen) -> bool:
        """Whether none of its pods can run any more, now."""
        return is_settled(self.jobs.read(job), self.jobs.list_pods(job))

    def _place(self, target: JobTarget) -> JobTarget:
        """Where a pod can be, now: a claim has to be there for it."""
        claim = self.jobs.read_claim(target.namespace, target.claim)
        if fault := find_claim_fault(claim, target.claim):
            raise fault
        assert claim is not None
        node = self.jobs.find_node(target.namespace, target.claim) if claim.one_node else ""
        return replace(target, node=node, identity=self.identity)

    def _adopt(self, job: JobSeen) -> JobSeen | None:
        """The Job as our own; None where it is on its way out, and only ends."""
        if job.is_deleting:
            return None
        if job.adopted_by == self.identity:
            return job
        try:
            return self.jobs.adopt(job, self.identity)
        except JobChanged:
            return None

    def _release(self, job: JobSeen) -> None:
        try:
            self.jobs.release(job)
        except JobChanged as error:
            found = self.jobs.read(job)
            if found is None or found.is_deleting:
                raise _GONE from error
            raise Fault("waiting", reasons.INTERRUPTED, "another process works on this request") from error

    def _read(self, job: JobSeen | None, pods: list[PodSeen]) -> JobDone:
        if job is None or job.work is None:
            raise _GONE
        return read_results(job.work, job, [(pod, self.jobs.read_log(job, pod)) for pod in pods])

    def _sum_up(self, job: JobSeen, pods: list[PodSeen]) -> dict[str, Counts]:
        """What its pods have removed so far, beside what was counted before the Job."""
        assert job.work is not None
        logs = [log for pod in pods if pod.has_begun and (log := self.jobs.read_log(job, pod)) is not None]
        sums = {task_id: _sum_of(task_id, logs, job.counted.get(task_id, (0, 0))) for task_id in job.work.tasks}
        return {task_id: counts for task_id, counts in sums.items() if any(counts)}


def _sum_of(task_id: str, logs: list[PodLog], before: Counts) -> Counts:
    files, freed = before
    for log in logs:
        said = log.tasks.get(task_id) or log.progress.get(task_id)
        if said is not None:
            files, freed = files + said.files, freed + said.bytes
    return files, freed
