"""Tidies up the Jobs of requests that are over: what they moved aside whole goes back, then the Jobs themselves go.

Called by the sweep, again and again; each call does what can be done now and waits for nothing. A purge that was begun
is left to finish. Decides by Jobs and their arguments only, never by a name on a volume.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_manifest import JobTarget, build_job
from taskdeletion.domain.job_results import JobDone
from taskdeletion.domain.job_states import JobSeen
from taskdeletion.domain.job_work import JobWork
from taskdeletion.executors.job_runner import JobRunner

Standing = Literal["live", "ended", "gone"]


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of the directory of one task, whose request is gone. `fault`: why it is where it was."""

    task_id: str
    fault: Fault | None


@dataclass(frozen=True, slots=True)
class OrphanedJobs:
    """The Jobs of a namespace. `standing_of`: a request, by uid. `is_named`: whether a live request names the task.

    Raises KubeUnavailable and KubeForbidden.
    """

    runner: JobRunner
    namespace: str
    standing_of: Callable[[str], Standing]
    is_named: Callable[[str], bool]

    def tidy(self) -> list[PutBack]:
        """Go one step further with every request that is over. Returns what was put back, or could not be."""
        jobs = [job for job in self.runner.jobs.list_all(self.namespace) if job.work is not None]
        found: list[PutBack] = []
        for owner in sorted({job.owner for job in jobs}):
            standing = self.standing_of(owner)
            if standing != "live":
                found += self._tidy(self.runner.adopt_all(self.namespace, owner), standing)
        return found

    def _tidy(self, jobs: Sequence[JobSeen], standing: Standing) -> list[PutBack]:
        unsettled = [job for job in jobs if not self.runner.is_settled(job)]
        for job in unsettled:
            if job.is_suspended or (job.work and job.work.verb == "claim"):
                self.runner.jobs.delete(job)  # what never ran, and what may still move something
        if unsettled:
            return []
        aside = self._find_aside(jobs) if standing == "gone" else ()
        undone = [job for job in jobs if job.work and job.work.verb == "undo" and set(aside) <= set(job.work.tasks)]
        if aside and not undone:
            self._put_back(jobs, aside)
            return []
        results = _describe(self.runner.follow(undone[-1], _wait_for_nothing)) if aside else []
        for job in jobs:
            self.runner.jobs.delete(job)
        return results

    def _find_aside(self, jobs: Iterable[JobSeen]) -> tuple[str, ...]:
        """Tasks that a claim may have moved and no purge has begun."""
        works = [job.work for job in jobs if job.work is not None and not job.work.dry_run]
        moved = {task_id for work in works if work.verb == "claim" for task_id in work.task_ids}
        begun = {task_id for work in works if work.verb == "purge" for task_id in work.tasks}
        return tuple(sorted(task_id for task_id in moved - begun if not self.is_named(task_id)))

    def _put_back(self, jobs: Sequence[JobSeen], task_ids: tuple[str, ...]) -> None:
        known = next(job for job in jobs if job.work and job.work.verb == "claim")
        assert known.work is not None
        target = JobTarget(self.namespace, known.deletion, known.store, known.claim, 0, identity=self.runner.identity)
        work = JobWork("undo", known.owner, known.work.sub_path, task_ids=task_ids)
        self.runner.jobs.release(self.runner.jobs.create(build_job(work, target, self.runner.settings)))


def _describe(done: JobDone) -> list[PutBack]:
    return [PutBack(task_id, found.line.fault) for task_id, found in done.tasks.items()]


def _wait_for_nothing() -> Fault:
    return Fault("waiting", reasons.INTERRUPTED, "the sweep waits for no Job")
