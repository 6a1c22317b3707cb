"""Jobs on a real API server with the real Job controller: found again, fenced, read with their pods and logs, gone."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from dev.pipeline import wait_until
from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import Closing, Line, TaskLine, format_line
from taskdeletion.domain.job_manifest import ADOPTED_ANNOTATION, JobSettings, JobTarget, build_job
from taskdeletion.domain.job_results import read_results
from taskdeletion.domain.job_states import JobSeen, find_claim_fault, find_start_fault, is_settled
from taskdeletion.domain.job_work import JobWork
from taskdeletion.domain.siblings import Sibling
from taskdeletion.kube.client import KubeRejected
from taskdeletion.kube.jobs import JobChanged, Jobs
from taskdeletion.kube.logs import LogApi
from tests.support.jobs import FakeNode, fake_node
from tests.support.kube import Kube

OWNER = "11111111-2222-3333-4444-555555555555"
SETTINGS = JobSettings("registry.example/task-deletion-operator:1")
CLAIM = JobWork("claim", OWNER, "data/$(x)", task_ids=("task_1", "-task_2"))
_NUMBERS = count(1)


@pytest.fixture(scope="module")
def node(kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeNode]:
    """Where the pods of this module run."""
    with fake_node(kube, f"node-{os.getpid()}", tmp_path_factory.mktemp("kubelet")) as found:
        yield found


@pytest.fixture
def namespace(kube: Kube) -> str:
    """A fresh one, in which pods can be made."""
    name = f"jobs-{os.getpid()}-{next(_NUMBERS)}"
    kube.create_namespace(name)

    def has_account() -> bool:
        try:
            kube.api.request("GET", f"/api/v1/namespaces/{name}/serviceaccounts/default")
        except KubeRejected:
            return False
        return True

    wait_until(has_account, seconds=30, what="the default service account")
    return name


@pytest.fixture
def jobs(kube: Kube) -> Jobs:
    """The room under test, as the admin."""
    return Jobs(LogApi(kube.api._client))


def build(namespace: str, work: JobWork = CLAIM, settings: JobSettings = SETTINGS) -> dict[str, Any]:
    return build_job(work, JobTarget(namespace, "clean", "default", "training-data", 1, identity="old"), settings)


def read(kube: Kube, namespace: str, name: str) -> dict[str, Any]:
    return kube.api.request("GET", f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}").body


def test_a_job_is_created_suspended_and_read_back_as_it_was_meant(kube: Kube, jobs: Jobs, namespace: str) -> None:
    job = jobs.create(build(namespace))

    assert job.is_suspended
    assert job.work == CLAIM
    assert (job.owner, job.attempt, job.finish, job.busy) == (OWNER, 1, None, 0)
    assert [found.uid for found in jobs.list_of(namespace, OWNER)] == [job.uid]
    assert jobs.list_of(namespace, OWNER.replace("1", "2")) == []
    assert [found.work for found in jobs.list_all(namespace)] == [CLAIM]
    spec = read(kube, namespace, job.name)["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert "ttlSecondsAfterFinished" not in spec


def test_the_pod_passes_restricted_pod_security(kube: Kube, jobs: Jobs, node: FakeNode, namespace: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    kube.kubectl("label", "namespace", namespace, *(f"{name}={value}" for name, value in labels.items()))
    job = jobs.release(jobs.create(build(namespace)))

    assert node.wait_for_pod(jobs, job).phase == "Pending"


def test_the_same_work_is_the_same_job(jobs: Jobs, namespace: str) -> None:
    first = jobs.create(build(namespace))

    assert jobs.create(build(namespace)).uid == first.uid
    assert jobs.create(build(namespace, replace(CLAIM, task_ids=("task_1",)))).uid != first.uid
    assert len(jobs.list_of(namespace, OWNER)) == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"image": "evil"}, id="image"),
        pytest.param({"command": ["sh"]}, id="command"),
        pytest.param({"args": ["claim"]}, id="arguments"),
    ],
)
def test_a_job_of_somebody_else_under_the_name_is_not_used(
    kube: Kube, jobs: Jobs, namespace: str, change: dict[str, Any]
) -> None:
    forged = build(namespace)
    forged["spec"]["template"]["spec"]["containers"][0].update(change)
    kube.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", forged)

    with pytest.raises(Fault, match=reasons.JOB_NOT_OURS):
        jobs.create(build(namespace))


def test_a_late_release_of_a_former_leader_changes_nothing(kube: Kube, jobs: Jobs, namespace: str) -> None:
    known_to_the_old = jobs.create(build(namespace))
    adopted = jobs.adopt(known_to_the_old, "new")

    with pytest.raises(JobChanged):
        jobs.release(known_to_the_old)
    found = read(kube, namespace, adopted.name)
    assert found["spec"]["suspend"] is True
    assert found["metadata"]["annotations"][ADOPTED_ANNOTATION] == "new"
    assert jobs.release(adopted).is_suspended is False


def test_a_release_never_reaches_a_namesake(jobs: Jobs, namespace: str) -> None:
    first = jobs.create(build(namespace))
    jobs.delete(first)
    wait_until(lambda: jobs.read(first) is None, seconds=30, what="the Job is gone")
    second = jobs.create(build(namespace))

    with pytest.raises(JobChanged):
        jobs.release(first)
    jobs.delete(first)
    found = jobs.read(second)
    assert found is not None
    assert not found.is_deleting
    assert found.is_suspended


def test_a_deleted_job_is_there_until_its_last_pod_is_gone(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    job = jobs.release(jobs.create(build(namespace)))
    pod = node.start(jobs, job, "").name
    jobs.delete(job)

    wait_until(lambda: (jobs.read(job) or job).is_deleting, seconds=30, what="the Job is on its way")
    asked = ("-n", namespace, "get", "pod", pod, "-o", "jsonpath={.metadata.deletionTimestamp}")
    wait_until(lambda: bool(node.kube.kubectl(*asked)), seconds=30, what="the pod is told to end")
    assert jobs.read(job) is not None
    assert not is_settled(jobs.read(job), jobs.list_pods(job))
    assert not is_settled(None, jobs.list_pods(job))
    node.kube.kubectl("-n", namespace, "delete", "pod", pod, "--force", "--grace-period=0")
    wait_until(lambda: jobs.read(job) is None, seconds=60, what="the Job is gone")
    assert is_settled(None, jobs.list_pods(job))


def test_a_result_counts_once_no_pod_can_run(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    job = jobs.create(build(namespace))

    def settled() -> bool:
        return is_settled(jobs.read(job), jobs.list_pods(job))

    assert not settled()
    jobs.release(job)
    pod = node.start(jobs, job, "")
    assert not settled()
    node.end(namespace, pod.name)
    wait_until(settled, seconds=30, what="the Job is settled")
    found = jobs.read(job)
    assert found is not None
    assert (found.finish, found.ended) == ("Complete", 1)


def test_logs_of_all_pods_become_the_result(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    siblings = tuple(Sibling("claimed", OWNER, task_id) for task_id in CLAIM.task_ids)
    work = JobWork("purge", OWNER, CLAIM.sub_path, siblings=siblings)
    job = jobs.release(jobs.create(build(namespace, work)))
    lines: list[Line] = [TaskLine("task_1", 3, 30), TaskLine("-task_2", 1, 5), Closing(2, 4, 35)]
    first = node.start(jobs, job, '{"progress":"task_1","files":7,"bytes":70}\n{"progress":"ta')
    node.end(namespace, first.name, exit_code=137)
    second = node.start(jobs, job, "".join(map(format_line, lines)))
    node.end(namespace, second.name)
    wait_until(lambda: is_settled(jobs.read(job), jobs.list_pods(job)), seconds=30, what="the Job is settled")

    pods, found = jobs.list_pods(job), jobs.read(job)
    assert found is not None
    done = read_results(work, found, [(pod, jobs.read_log(job, pod)) for pod in pods])
    assert done.fault is None
    assert done.tasks["task_1"].line == TaskLine("task_1", 10, 100)
    assert done.tasks["-task_2"].line == TaskLine("-task_2", 1, 5)
    assert done.tasks["task_1"].at_least


def test_a_pod_that_nobody_can_help_ends_the_job_at_once(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    job = jobs.release(jobs.create(build(namespace)))
    pod = node.start(jobs, job, "")
    node.end(namespace, pod.name, exit_code=2)
    wait_until(lambda: is_settled(jobs.read(job), jobs.list_pods(job)), seconds=30, what="the Job is settled")

    pods, found = jobs.list_pods(job), jobs.read(job)
    assert found is not None
    assert (found.finish, found.finish_reason, len(pods)) == ("Failed", "PodFailurePolicy", 1)


def test_a_log_that_is_gone_is_no_success(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    job = jobs.release(jobs.create(build(namespace)))
    pod = node.start(jobs, job, "")
    del node.logs[pod.name]
    node.end(namespace, pod.name)
    wait_until(lambda: is_settled(jobs.read(job), jobs.list_pods(job)), seconds=30, what="the Job is settled")

    [seen], found = jobs.list_pods(job), jobs.read(job)
    assert found is not None
    log = jobs.read_log(job, seen)
    assert log is None
    done = read_results(CLAIM, found, [(seen, log)])
    assert done.fault is not None
    assert done.fault.reason == reasons.JOB_RESULT_INCOMPLETE


def find_fault(jobs: Jobs, job: JobSeen) -> Fault:
    """Why the Job does not begin."""
    pods = jobs.list_pods(job)
    return find_start_fault(pods, jobs.list_events(job, pods), is_late=True)


def test_an_image_that_cannot_be_had_is_named(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    job = jobs.create(build(namespace))
    assert find_fault(jobs, job).reason == reasons.JOB_NOT_STARTED
    pod = node.wait_for_pod(jobs, jobs.release(job))
    node.bind(namespace, pod.name)
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    node.write_pod_status(namespace, pod.name, "Pending", {"waiting": waiting})

    assert find_fault(jobs, job).reason == reasons.IMAGE_PULL_FAILED


@pytest.mark.parametrize(
    ("quota", "label", "reason"),
    [
        pytest.param({"pods": "0"}, None, reasons.QUOTA_EXCEEDED, id="no room for pods"),
        pytest.param({"limits.cpu": "1"}, None, reasons.QUOTA_EXCEEDED, id="a limit is missing"),
        pytest.param(None, "pod-security.kubernetes.io/enforce=restricted", reasons.POD_SECURITY_DENIED, id="security"),
    ],
)
def test_why_the_job_controller_may_make_no_pod_is_named(
    kube: Kube, jobs: Jobs, namespace: str, quota: dict[str, str] | None, label: str | None, reason: str
) -> None:
    if quota is not None:
        body = {"metadata": {"name": "quota"}, "spec": {"hard": quota}}
        kube.create(f"/api/v1/namespaces/{namespace}/resourcequotas", body)
    if label is not None:
        kube.kubectl("label", "namespace", namespace, label)
    manifest = build(namespace)
    if label is not None:  # as an operator of another version might build it
        del manifest["spec"]["template"]["spec"]["securityContext"]
    job = jobs.release(jobs.create(manifest))

    wait_until(lambda: find_fault(jobs, job).reason == reason, seconds=30, what="the reason is known")


def test_a_quota_of_jobs_is_named_when_the_job_is_created(kube: Kube, jobs: Jobs, namespace: str) -> None:
    body = {"metadata": {"name": "none"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    kube.create(f"/api/v1/namespaces/{namespace}/resourcequotas", body)

    def find() -> str:
        try:
            jobs.delete(jobs.create(build(namespace)))
        except Fault as fault:
            return fault.reason
        return ""

    wait_until(lambda: find() == reasons.QUOTA_EXCEEDED, seconds=30, what="the quota is known to the API server")


def test_a_claim_is_there_and_bound_or_has_a_reason(kube: Kube, jobs: Jobs, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    absent = find_claim_fault(jobs.read_claim(namespace, "data"), "data")
    assert absent is not None
    assert absent.reason == reasons.VOLUME_CLAIM_NOT_FOUND
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    kube.create(path, {"metadata": {"name": "data"}, "spec": spec})
    pending = find_claim_fault(jobs.read_claim(namespace, "data"), "data")
    assert pending is not None
    assert pending.reason == reasons.VOLUME_CLAIM_NOT_BOUND
    body = {"status": {"phase": "Bound"}}
    kube.api.request("PATCH", f"{path}/data/status", body=body, content_type="application/merge-patch+json")
    assert find_claim_fault(jobs.read_claim(namespace, "data"), "data") is None


@pytest.mark.parametrize(
    ("modes", "one_node"), [(["ReadWriteOnce"], True), (["ReadWriteMany", "ReadWriteOnce"], False)]
)
def test_a_claim_for_one_node_says_so(kube: Kube, jobs: Jobs, namespace: str, modes: list[str], one_node: bool) -> None:
    spec = {"accessModes": modes, "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    path = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    kube.create(path, {"metadata": {"name": "data"}, "spec": spec})

    claim = jobs.read_claim(namespace, "data")
    assert claim is not None
    assert claim.one_node is one_node


def test_the_node_that_has_a_claim_mounted_is_found(jobs: Jobs, node: FakeNode, namespace: str) -> None:
    assert jobs.find_node(namespace, "training-data") == ""
    job = jobs.release(jobs.create(build(namespace)))
    pod = node.start(jobs, job, "")

    assert jobs.find_node(namespace, "training-data") == node.name
    assert jobs.find_node(namespace, "other") == ""
    node.end(namespace, pod.name)
    assert jobs.find_node(namespace, "training-data") == ""
