"""The directories of a request's tasks, wherever they are worked on: in threads here, and by Jobs in their namespace.

One suite for both. The Jobs are real, made into pods by the Job controller, and run as processes on a real file system.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from dev.pipeline import wait_until
from taskdeletion.api import reasons
from taskdeletion.backends.directory import DirectoryRoot, Found
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_manifest import Counts, JobSettings, JobTarget
from taskdeletion.domain.results import Halt, StepResult, never_halt
from taskdeletion.domain.siblings import Sibling
from taskdeletion.executors.in_jobs import JobPlace
from taskdeletion.executors.job_runner import JobRunner, Patience
from taskdeletion.executors.orphaned_jobs import OrphanedJobs, PutBack, Standing
from taskdeletion.executors.places import HerePlace, Place, PlaceWork
from taskdeletion.kube.client import KubeRejected
from taskdeletion.kube.jobs import Jobs
from taskdeletion.kube.logs import LogApi
from tests.support.kube import Kube
from tests.support.kubelet import Kubelet, running_kubelet
from tests.support.trees import OWNER, STRANGER, TREE, make_tree, snapshot

SUB_PATH = "data/$(HOME)"
CLAIM = "training-data"
PATIENCE = Patience(new=60.0, found=60.0, gone=60.0, poll=0.1, progress=0.3)
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def kubelet(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """What runs the pods of this module."""
    with running_kubelet(kube, f"places-{os.getpid()}", tmp_path_factory.mktemp("kubelet")) as found:
        yield found


@dataclass
class Volume:
    """A claim in a namespace of its own, with two tasks and a neighbour in its folder."""

    kube: Kube
    kubelet: Kubelet
    namespace: str
    root: Path
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))

    def names(self) -> set[str]:
        """What is in the store's root."""
        return set(os.listdir(self.root))

    @property
    def jobs(self) -> Jobs:
        """The room `kube`, as the admin."""
        return Jobs(LogApi(self.kube.api._client))

    def job_place(
        self,
        *,
        attempt: int = 1,
        identity: str = "me",
        parallelism: int = 1,
        halt: Halt = never_halt,
        patience: Patience = PATIENCE,
    ) -> JobPlace:
        """Jobs, as a process of that identity has them before it in that attempt."""
        runner = JobRunner(self.jobs, JobSettings("operator:1"), identity, patience=patience)
        target = JobTarget(self.namespace, "clean", "default", CLAIM, attempt)
        return JobPlace(runner, target, OWNER, SUB_PATH, parallelism, self.pool, halt)

    def here_place(self) -> HerePlace:
        """Threads."""
        return HerePlace(DirectoryRoot.open(self.root.parents[1], SUB_PATH, require_mount=False), OWNER, self.pool)


@pytest.fixture
def volume(kube: Kube, kubelet: Kubelet) -> Iterator[Volume]:
    """A fresh one."""
    namespace = f"places-{os.getpid()}-{next(_NUMBERS)}"
    kube.create_namespace(namespace)
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    kube.create(path, {"metadata": {"name": CLAIM}, "spec": spec})
    body = {"status": {"phase": "Bound"}}
    kube.api.request("PATCH", f"{path}/{CLAIM}/status", body=body, content_type="application/merge-patch+json")

    def has_account() -> bool:
        try:
            kube.api.request("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        except KubeRejected:
            return False
        return True

    wait_until(has_account, seconds=30, what="the default service account")
    root = kubelet.volumes / namespace / CLAIM / SUB_PATH
    root.mkdir(parents=True)
    for name in ("task_1", "-task_2", "task_10"):
        make_tree(root / name)
    found = Volume(kube, kubelet, namespace, root)
    kubelet.namespaces.add(namespace)
    yield found
    kubelet.is_held, kubelet.is_away, kubelet.unlink_ms = False, False, 0
    kubelet.namespaces.discard(namespace)
    found.pool.shutdown()


@pytest.fixture(params=["here", "jobs"])
def place(request: pytest.FixtureRequest, volume: Volume) -> Place:
    """The same directories, worked on in one way and in the other."""
    return volume.here_place() if request.param == "here" else volume.job_place()


def purge(
    place: Place,
    *task_ids: str,
    is_adoptable: Callable[[Sibling], bool] = lambda sibling: sibling.owner == OWNER,
    dry_run: bool = False,
    counted: Mapping[str, Counts] | None = None,
    on_progress: Callable[[Mapping[str, Counts]], object] = lambda progress: None,
) -> dict[str, StepResult]:
    """The results of a purge, by task."""
    work = PlaceWork(task_ids, is_adoptable, never_halt, dry_run, counted or {}, on_progress)
    results = [result for future in place.start_purge(work) for result in future.result(120)]
    assert sorted(result.task_id for result in results) == sorted(task_ids)
    return {result.task_id: result for result in results}


def claimed(task_id: str, owner: str = OWNER) -> str:
    return Sibling("claimed", owner, task_id).name


def done(task_id: str, *, files: int = TREE.files, freed: int = TREE.bytes, at_least: bool = False) -> StepResult:
    return StepResult(task_id, "Directory", "Deleted", count=files, bytes=freed, at_least=at_least)


# --- both -------------------------------------------------------------------------------------------------------------
def test_tasks_are_claimed_purged_and_counted_and_a_neighbour_stays(place: Place, volume: Volume) -> None:
    before = snapshot(volume.root / "task_10")

    assert place.claim(["task_1", "-task_2", "task_3"], dry_run=False) == {}
    assert volume.names() == {claimed("task_1"), claimed("-task_2"), "task_10"}
    results = purge(place, "task_1", "-task_2", "task_3")
    assert results["task_1"] == done("task_1")
    assert results["-task_2"] == done("-task_2")
    assert results["task_3"] == StepResult("task_3", "Directory", "Skipped", reasons.ABSENT)
    found = place.look(["task_1", "-task_2", "task_3"], afresh=False)
    assert not any(one.directory or one.siblings for one in found.values())
    assert volume.names() == {"task_10"}
    assert snapshot(volume.root / "task_10") == before


def test_a_look_moves_nothing_and_sees_what_came_after_the_last_one(place: Place, volume: Volume) -> None:
    before = snapshot(volume.root)
    assert place.look(["task_1"], afresh=True)["task_1"] == Found(True, ())
    assert snapshot(volume.root) == before
    (volume.root / "task_1").rename(volume.root / claimed("task_1", STRANGER))
    found = place.look(["task_1", "task_3"], afresh=True)
    assert found == {"task_1": Found(False, (Sibling("claimed", STRANGER, "task_1"),)), "task_3": Found(False, ())}


def test_an_undo_gives_back_what_was_claimed(place: Place, volume: Volume) -> None:
    place.claim(["task_1", "-task_2"], dry_run=False)
    assert place.may_have_moved("task_1")
    assert place.undo(["task_1"]) == {}
    assert volume.names() == {"task_1", claimed("-task_2"), "task_10"}
    assert not place.may_have_moved("task_1")
    assert place.may_have_moved("-task_2")


def test_an_undo_never_replaces_a_directory(place: Place, volume: Volume) -> None:
    place.claim(["task_1"], dry_run=False)
    make_tree(volume.root / "task_1")
    faults = place.undo(["task_1"])

    assert faults["task_1"].reason == reasons.RENAME_NOT_UNDONE
    assert volume.names() == {"task_1", claimed("task_1"), "-task_2", "task_10"}


def test_an_undo_of_what_was_never_claimed_does_nothing(place: Place, volume: Volume) -> None:
    before = snapshot(volume.root)
    assert place.undo(["task_1"]) == {}
    assert snapshot(volume.root) == before


def test_what_another_request_holds_is_neither_purged_nor_absent(place: Place, volume: Volume) -> None:
    (volume.root / "task_10").rename(volume.root / claimed("task_1", STRANGER))
    place.claim(["task_1", "-task_2"], dry_run=False)
    results = purge(place, "task_1", "-task_2")

    assert results["task_1"].reason == reasons.CLAIMED_BY_OTHER
    assert results["task_1"].kind == "waiting"
    assert results["-task_2"] == done("-task_2")
    assert volume.names() == {claimed("task_1"), claimed("task_1", STRANGER)}


def test_what_may_be_adopted_is_purged_too(place: Place, volume: Volume) -> None:
    (volume.root / "task_10").rename(volume.root / claimed("task_1", STRANGER))
    place.claim(["task_1"], dry_run=False)
    results = purge(place, "task_1", is_adoptable=lambda sibling: True)

    assert results == {"task_1": done("task_1", files=2 * TREE.files, freed=2 * TREE.bytes)}
    assert volume.names() == {"-task_2"}


def test_a_dry_run_touches_nothing_and_measures_everything(place: Place, volume: Volume) -> None:
    before = snapshot(volume.root)
    assert place.claim(["task_1", "task_3"], dry_run=True) == {}
    results = purge(place, "task_1", "task_3", dry_run=True)

    assert snapshot(volume.root) == before
    assert results["task_1"].outcome == "WouldDelete"
    assert (results["task_1"].count, results["task_1"].bytes) == (TREE.files, TREE.bytes)
    assert results["task_3"].reason == reasons.ABSENT


def test_a_second_claim_never_takes_a_directory_that_appeared_meanwhile(place: Place, volume: Volume) -> None:
    place.claim(["task_1"], dry_run=False)
    make_tree(volume.root / "task_1")

    assert place.claim(["task_1"], dry_run=False) == {}
    assert volume.names() == {"task_1", claimed("task_1"), "-task_2", "task_10"}
    purge(place, "task_1")
    assert place.look(["task_1"], afresh=False)["task_1"].directory
    assert volume.names() == {"task_1", "-task_2", "task_10"}


# --- only Jobs: whoever goes on, goes on with what is there -----------------------------------------------------------
def test_another_process_goes_on_with_the_claim_that_it_finds(volume: Volume) -> None:
    volume.job_place(identity="old").claim(["task_1"], dry_run=False)
    new = volume.job_place(identity="new", attempt=2)

    assert new.claim(["task_1"], dry_run=False) == {}
    [job] = volume.jobs.list_of(volume.namespace, OWNER)
    assert (job.attempt, job.adopted_by) == (1, "new")
    assert purge(new, "task_1") == {"task_1": done("task_1")}


def test_a_worker_leaves_a_pod_that_does_not_begin_and_finds_it_again(volume: Volume) -> None:
    volume.kubelet.is_held = True
    impatient = volume.job_place(patience=replace(PATIENCE, new=0.5))
    with pytest.raises(Fault, match=reasons.JOB_NOT_STARTED):
        impatient.claim(["task_1"], dry_run=False)
    assert "task_1" in volume.names()
    volume.kubelet.is_held = False

    assert volume.job_place().claim(["task_1"], dry_run=False) == {}
    assert len(volume.jobs.list_of(volume.namespace, OWNER)) == 1


def test_a_claim_that_waits_is_gone_before_it_is_undone(volume: Volume) -> None:
    """Else its pod could begin after the request has ended."""
    volume.kubelet.is_held = True
    impatient = volume.job_place(patience=replace(PATIENCE, new=0.5))
    with pytest.raises(Fault, match=reasons.JOB_NOT_STARTED):
        impatient.claim(["task_1"], dry_run=False)
    [claim] = volume.jobs.list_of(volume.namespace, OWNER)
    with pytest.raises(Fault, match=reasons.JOB_NOT_STARTED):
        impatient.undo(["task_1"])

    assert claim.uid not in {job.uid for job in volume.jobs.list_of(volume.namespace, OWNER)}
    assert volume.jobs.list_pods(claim) == []
    volume.kubelet.is_held = False
    assert volume.job_place().undo(["task_1"]) == {}
    assert "task_1" in volume.names()


def test_what_does_not_begin_is_gone_before_the_request_ends(volume: Volume) -> None:
    volume.kubelet.is_held = True
    place = volume.job_place(patience=replace(PATIENCE, new=0.5))
    with pytest.raises(Fault, match=reasons.JOB_NOT_STARTED):
        place.claim(["task_1"], dry_run=False)
    place.settle()

    assert volume.jobs.list_of(volume.namespace, OWNER) == []
    assert "task_1" in volume.names()


def test_a_pod_has_ended_before_the_request_does_and_while_its_node_is_away_it_waits(volume: Volume) -> None:
    for number in range(500):
        (volume.root / "task_1" / f"more-{number}").touch()
    stopped: list[Fault] = []
    place = volume.job_place()
    place.claim(["task_1"], dry_run=False)
    volume.kubelet.unlink_ms = 200
    work = PlaceWork(["task_1"], lambda sibling: True, lambda: next(iter(stopped), None), False, {}, lambda done: None)
    [purging] = place.start_purge(work)
    wait_until(lambda: "progress" in volume.kubelet.said("purge"), seconds=60, what="progress")
    stopped.append(Fault("permanent", reasons.DEADLINE_EXCEEDED, "late"))
    assert [result.reason for result in purging.result(30)] == [reasons.DEADLINE_EXCEEDED]
    assert volume.kubelet.is_running("purge")

    volume.kubelet.is_away = True
    runner = place.runner
    place.runner = replace(runner, patience=replace(PATIENCE, gone=0.5))
    with pytest.raises(Fault, match=reasons.JOB_STILL_RUNNING):
        place.settle()
    volume.kubelet.is_away = False
    place.runner = runner
    place.settle()
    assert not volume.kubelet.is_running("purge")
    assert [job.work.verb for job in volume.jobs.list_of(volume.namespace, OWNER) if job.work] == ["claim"]


def test_a_purge_whose_pod_is_killed_is_continued_and_counted_as_a_lower_bound(volume: Volume) -> None:
    for number in range(200):
        (volume.root / "task_1" / f"more-{number}").touch()
    place = volume.job_place()
    place.claim(["task_1"], dry_run=False)
    volume.kubelet.unlink_ms = 10
    progress: list[Mapping[str, Counts]] = []
    with ThreadPoolExecutor(1) as pool:
        purging = pool.submit(lambda: purge(place, "task_1", on_progress=progress.append))
        wait_until(lambda: "progress" in volume.kubelet.said("purge"), seconds=60, what="progress")
        wait_until(lambda: bool(progress), seconds=30, what="it was told")
        assert volume.kubelet.kill("purge")
        result = purging.result(120)["task_1"]

    assert result.outcome == "Deleted"
    assert result.at_least
    assert progress[0]["task_1"][0] <= result.count <= 200 + TREE.files
    assert volume.names() == {"-task_2", "task_10"}


def test_what_a_purge_did_is_counted_once_however_often_it_is_read(volume: Volume) -> None:
    """The operator died before, or after, it wrote the result to status."""
    first = volume.job_place()
    first.claim(["task_1"], dry_run=False)
    counted = {"task_1": (5, 50)}
    assert purge(first, "task_1", counted=counted) == {"task_1": done("task_1")}

    not_written = purge(volume.job_place(attempt=2, identity="new"), "task_1", counted=counted)
    written = {"task_1": (5 + TREE.files, 50 + TREE.bytes)}
    is_written = purge(volume.job_place(attempt=2, identity="new"), "task_1", counted=written)
    assert not_written == {"task_1": done("task_1")}
    assert is_written == {"task_1": done("task_1", files=0, freed=0)}


def test_a_claimed_task_is_purged_though_nothing_is_known_of_its_claim(volume: Volume) -> None:
    """The Job was deleted by somebody, or after the result was recorded."""
    first = volume.job_place()
    first.claim(["task_1"], dry_run=False)
    first.forget(is_over=True)
    wait_until(lambda: not volume.jobs.list_of(volume.namespace, OWNER), seconds=60, what="no Job is left")
    make_tree(volume.root / "task_1")

    assert purge(volume.job_place(attempt=2), "task_1") == {"task_1": done("task_1")}
    assert volume.names() == {"task_1", "-task_2", "task_10"}


def test_pods_share_a_purge_and_their_sum_is_the_result(volume: Volume) -> None:
    for number in range(200):
        (volume.root / "task_1" / f"more-{number}").write_bytes(b"1")
    place = volume.job_place(parallelism=3)
    place.claim(["task_1", "-task_2"], dry_run=False)
    results = purge(place, "task_1", "-task_2", counted={"task_1": (1, 1)})

    assert results == {
        "task_1": done("task_1", files=200 + TREE.files, freed=200 + TREE.bytes),
        "-task_2": done("-task_2"),
    }
    purges = [job for job in volume.jobs.list_of(volume.namespace, OWNER) if job.work and job.work.verb == "purge"]
    assert sorted(job.ended for job in purges) == [1, 3]
    assert volume.names() == {"task_10"}


def test_nothing_is_left_of_a_request_that_has_ended(volume: Volume) -> None:
    place = volume.job_place()
    place.claim(["task_1"], dry_run=False)
    purge(place, "task_1")
    place.forget(is_over=False)
    wait_until(lambda: len(volume.jobs.list_of(volume.namespace, OWNER)) == 1, seconds=60, what="the purge is gone")
    assert place.may_have_moved("task_1"), "the claim says so until the end"
    place.settle()
    place.forget(is_over=True)
    wait_until(lambda: not volume.jobs.list_of(volume.namespace, OWNER), seconds=60, what="no Job is left")


def test_a_halt_leaves_the_job_and_its_pod(volume: Volume) -> None:
    volume.kubelet.is_held = True
    stopped = Fault("waiting", reasons.INTERRUPTED, "stopped")
    until = time.monotonic() + 0.5
    halted = volume.job_place(halt=lambda: stopped if time.monotonic() > until else None)
    with pytest.raises(Fault, match=reasons.INTERRUPTED):
        halted.claim(["task_1"], dry_run=False)

    [job] = volume.jobs.list_of(volume.namespace, OWNER)
    assert not job.is_suspended
    assert not job.is_deleting


# --- the Jobs of requests that are over -------------------------------------------------------------------------------
def tidy(volume: Volume, *, standing: Standing = "gone", named: bool = False) -> list[PutBack]:
    """Sweep until no Job is left, as often as it takes; returns what it says."""
    runner = volume.job_place(identity="sweep").runner
    orphans = OrphanedJobs(runner, volume.namespace, lambda uid: standing, lambda task_id: named)
    found: list[PutBack] = []

    def step() -> bool:
        found.extend(orphans.tidy())
        return not volume.jobs.list_all(volume.namespace)

    wait_until(step, seconds=120, what="no Job is left")
    return found


def test_what_a_request_that_is_gone_had_claimed_goes_back(volume: Volume) -> None:
    before = {path: entry.content for path, entry in snapshot(volume.root).items()}
    volume.job_place(identity="old").claim(["task_1", "task_3"], dry_run=False)

    assert tidy(volume) == [PutBack("task_1", None), PutBack("task_3", None)]
    assert {path: entry.content for path, entry in snapshot(volume.root).items()} == before


def test_a_claim_that_never_began_is_removed_and_moves_nothing(volume: Volume) -> None:
    volume.kubelet.is_held = True
    with pytest.raises(Fault, match=reasons.JOB_NOT_STARTED):
        volume.job_place(identity="old", patience=replace(PATIENCE, new=0.5)).claim(["task_1"], dry_run=False)
    before = len(volume.kubelet.ran)
    assert tidy(volume) == []
    volume.kubelet.is_held = False

    assert volume.names() == {"task_1", "-task_2", "task_10"}
    assert len(volume.kubelet.ran) == before


def test_a_purge_that_was_begun_is_finished(volume: Volume) -> None:
    place = volume.job_place(identity="old")
    place.claim(["task_1"], dry_run=False)
    volume.kubelet.is_held = True
    place.runner = replace(place.runner, patience=replace(PATIENCE, new=0.5))
    assert purge(place, "task_1")["task_1"].reason == reasons.JOB_NOT_STARTED
    volume.kubelet.is_held = False

    assert tidy(volume) == []
    assert volume.names() == {"-task_2", "task_10"}


def test_nothing_is_moved_back_for_a_request_that_only_ended_or_a_task_that_is_named(volume: Volume) -> None:
    volume.job_place(identity="old").claim(["task_1"], dry_run=False)
    tidy(volume, standing="ended")
    volume.job_place(identity="old").claim(["-task_2"], dry_run=False)
    tidy(volume, named=True)

    assert volume.names() == {claimed("task_1"), claimed("-task_2"), "task_10"}


def test_a_live_request_keeps_its_jobs(volume: Volume) -> None:
    place = volume.job_place()
    place.claim(["task_1"], dry_run=False)
    [before] = volume.jobs.list_all(volume.namespace)
    orphans = OrphanedJobs(place.runner, volume.namespace, lambda uid: "live", lambda task_id: True)

    assert orphans.tidy() == []
    assert volume.jobs.list_all(volume.namespace) == [before]
