"""A store's directories worked on by Jobs in its namespace: claims, purges, undoes; see docs/adr/0015-jobs.md.

Made for one request; fills the port `executors.places`. What a request's Jobs are is asked of the API server each time:
whatever this process has forgotten, they have not. Decides nothing about requests.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.backends.directory import Found
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_manifest import JobTarget
from taskdeletion.domain.job_results import JobDone
from taskdeletion.domain.job_states import JobSeen
from taskdeletion.domain.job_work import NAMES_LIMIT_BYTES, JobWork, Verb, size_of_names
from taskdeletion.domain.results import Halt, StepResult, never_halt
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.job_runner import JobRunner
from taskdeletion.executors.places import PlaceWork
from taskdeletion.executors.tally import Tally

_OTHERS: Final = Fault("waiting", reasons.CLAIMED_BY_OTHER, "another request still holds a sibling of the directory")


@dataclass(slots=True)
class JobPlace:
    """A claim that is not mounted here. `owner`: uid of the request. `parallelism`: pods that may share a purge.

    `target`: for whom Jobs work. `halt`: of the attempt; what waits for a Job leaves it then, and it goes on.
    """

    runner: JobRunner
    target: JobTarget
    owner: str
    sub_path: str
    parallelism: int
    pool: Executor
    halt: Halt = never_halt
    round_size: int = 500
    is_here: bool = False
    _seen: dict[str, Found] = field(default_factory=dict)
    _level: int = 0

    # --- claim and undo ---------------------------------------------------------------------------------------------
    def check(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """See Place. The pod of the claim checks."""
        del task_ids
        return {}

    def claim(self, task_ids: Sequence[str], *, dry_run: bool) -> Mapping[str, Fault]:
        """See Place."""
        jobs = self._adopt_all()
        for job in jobs:
            if _does(job, "undo"):
                self.runner.follow(job, self.halt)  # nobody claims beside one that moves back
        known = self._find_claimed(jobs)
        rest = tuple(task_id for task_id in task_ids if task_id not in known)
        if not rest:
            return {}
        work = replace(self._work("claim"), task_ids=rest, dry_run=dry_run, split=self.parallelism)
        return _faults_of(self._note(self.runner.run(work, self.target, self.halt)[1]), rest)

    def _find_claimed(self, jobs: Sequence[JobSeen]) -> frozenset[str]:
        """Tasks that Jobs of earlier attempts have claimed. Where a Job claimed nothing, another one may do it."""
        known: set[str] = set()
        for job in jobs:
            if not _does(job, "claim") or not job.work or not job.work.task_ids or job.work.dry_run:
                continue
            done = self.runner.follow(job, self.halt)
            claimed = {task_id for task_id in job.work.task_ids if done.tasks[task_id].line.fault is None}
            claimed -= {task_id for task_id in claimed if _is_undone(task_id, job, jobs)}
            if not claimed:
                self.runner.remove(job)
            self._note(done, claimed)
            known |= claimed
        return frozenset(known)

    def undo(self, task_ids: Sequence[str]) -> Mapping[str, Fault]:
        """See Place. A claim that is not settled is removed first, and everything that it may have moved goes back."""
        jobs, wanted = self._adopt_all(), set(task_ids)
        claims = [job for job in jobs if _does(job, "claim") and any(job.names(task_id) for task_id in wanted)]
        moved = {task_id for job in claims if job.work for task_id in job.work.task_ids}
        for job in claims:
            if not self.runner.is_settled(job):
                self.runner.remove(job)
                wanted |= set(job.work.task_ids if job.work else ())
        names = tuple(sorted(wanted & moved))
        if not names:  # a claim is kept as long as something may lie aside: without one nothing does
            return {}
        done = self._note(self.runner.run(replace(self._work("undo"), task_ids=names), self.target, self.halt)[1])
        return _faults_of(done, task_ids)

    def may_have_moved(self, task_id: str) -> bool:
        """See Place."""
        jobs = self.runner.jobs.list_of(self.target.namespace, self.owner)
        claims = [job for job in jobs if _does(job, "claim") and job.work and task_id in job.work.task_ids]
        return any(not _is_undone(task_id, job, jobs) for job in claims)

    # --- looking ----------------------------------------------------------------------------------------------------
    def look(self, task_ids: Sequence[str], *, afresh: bool) -> Mapping[str, Found]:
        """See Place."""
        unknown = tuple(task_id for task_id in task_ids if afresh or task_id not in self._seen)
        if unknown:
            work = replace(self._work("claim"), claimed=unknown, split=self.parallelism)
            job, done = self.runner.run_anew(work, self.target, self.halt)
            self._note(done)
            self.runner.remove(job)
            _raise_first(_faults_of(done, unknown))
        return {task_id: self._seen[task_id] for task_id in task_ids}

    def _note(self, done: JobDone, task_ids: Iterable[str] | None = None) -> JobDone:
        """Remember what the pods saw at last."""
        for task_id in done.tasks if task_ids is None else task_ids:
            line = done.tasks[task_id].line
            self._seen[task_id] = Found(line.directory, line.siblings)
        self._level = done.level or self._level
        return done

    # --- purge ------------------------------------------------------------------------------------------------------
    def start_purge(self, work: PlaceWork) -> list[Future[Sequence[StepResult]]]:
        """See Place. One future: the results of a Job come together."""
        return [self.pool.submit(self._purge_all, work)]

    def _purge_all(self, work: PlaceWork) -> list[StepResult]:
        tally = Tally(work.task_ids, work.counted, dry_run=work.dry_run)
        try:
            if not work.dry_run:
                self._follow_former(work, tally)
            self._purge_rest(work, tally)
        except Fault as fault:
            tally.fail(fault)
        return tally.results()

    def _follow_former(self, work: PlaceWork, tally: Tally) -> None:
        """What purges of earlier attempts did, whether status has it already or not."""
        jobs = [job for job in self._adopt_all() if _does(job, "purge") and any(map(job.names, work.task_ids))]
        for job in jobs:
            done = self._note(self.runner.follow(job, work.halt, work.on_progress))
            assert job.work is not None
            tally.add(job, done, tries_again=job.attempt < self.target.attempt)

    def _purge_rest(self, work: PlaceWork, tally: Tally) -> None:
        open_ids = tally.open_tasks()
        if not open_ids:
            return
        found = self.look(open_ids, afresh=False)
        names: list[Sibling] = []
        for task_id in open_ids:
            if all(map(work.is_adoptable, found[task_id].siblings)):
                names += found[task_id].siblings
            else:
                tally.refuse(task_id, _OTHERS)
        own = tuple(task_id for task_id in tally.open_tasks() if work.dry_run and found[task_id].directory)
        base = replace(self._work("purge"), dry_run=work.dry_run)
        for part in _split_by_size(replace(base, task_ids=own, siblings=tuple(names))):
            self._purge_part(part, work, tally)

    def _purge_part(self, part: JobWork, work: PlaceWork, tally: Tally) -> None:
        target = replace(self.target, counted={task_id: tally.base_of(task_id) for task_id in part.tasks})
        if self.parallelism > 1 and self._level and not part.dry_run:
            share = replace(part, of=self.parallelism, level=self._level)
            job, done = self.runner.run(share, target, work.halt, work.on_progress)
            tally.add(job, done)
            target = replace(target, counted={task_id: tally.base_of(task_id) for task_id in part.tasks})
        job, done = self.runner.run(part, target, work.halt, work.on_progress)
        tally.add(job, self._note(done))

    # --- the end ----------------------------------------------------------------------------------------------------
    def settle(self) -> None:
        """See Place."""
        for job in self._adopt_all_or_deleting():
            if not self.runner.is_settled(job):
                self.runner.remove(job)

    def forget(self, *, is_over: bool) -> None:
        """See Place. Before the end claims stay: as long as a directory may lie aside, a Job says so."""
        for job in self.runner.jobs.list_of(self.target.namespace, self.owner):
            if is_over or (_does(job, "purge") and self.runner.is_settled(job)):
                self.runner.jobs.delete(job)

    def _adopt_all(self) -> list[JobSeen]:
        return [job for job in self.runner.adopt_all(self.target.namespace, self.owner) if job.work is not None]

    def _adopt_all_or_deleting(self) -> list[JobSeen]:
        self._adopt_all()
        return self.runner.jobs.list_of(self.target.namespace, self.owner)

    def _work(self, verb: Verb) -> JobWork:
        return JobWork(verb, self.owner, self.sub_path)


def _does(job: JobSeen, verb: Verb) -> bool:
    return job.work is not None and job.work.verb == verb


def _is_undone(task_id: str, claim: JobSeen, jobs: Iterable[JobSeen]) -> bool:
    """Whether a later Job moved it back, or tried to. Each takes longer than the second that times are exact to."""
    return any(_does(job, "undo") and job.names(task_id) and job.created_at >= claim.created_at for job in jobs)


def _faults_of(done: JobDone, task_ids: Iterable[str]) -> dict[str, Fault]:
    lines = {task_id: done.tasks[task_id].line for task_id in task_ids if task_id in done.tasks}
    return {task_id: line.fault for task_id, line in lines.items() if line.fault is not None}


def _raise_first(faults: Mapping[str, Fault]) -> None:
    for fault in faults.values():
        raise fault


def _split_by_size(work: JobWork) -> Iterator[JobWork]:
    """The same in parts whose names fit into one Job; a task is in one part only."""
    named: dict[str, list[Sibling]] = {task_id: [] for task_id in work.tasks}
    for sibling in work.siblings:
        named[sibling.task_id].append(sibling)
    part = replace(work, task_ids=(), siblings=())
    for task_id, siblings in named.items():
        own = (task_id,) if task_id in work.task_ids else ()
        longer = replace(part, task_ids=(*part.task_ids, *own), siblings=(*part.siblings, *siblings))
        if part.tasks and size_of_names(longer) > NAMES_LIMIT_BYTES:
            yield part
            longer = replace(work, task_ids=own, siblings=tuple(siblings))
        part = longer
    if part.tasks:
        yield part
