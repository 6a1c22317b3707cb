"""When a Job is settled, and what keeps one from beginning: from what the API server shows."""

from dataclasses import replace

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.job_states import (
    ClaimSeen,
    EventSeen,
    JobSeen,
    PodSeen,
    explain_creation_refusal,
    find_claim_fault,
    find_start_fault,
    has_begun,
    is_settled,
)

POD = PodSeen("pod-1", "uid-1", "2026-01-01T00:00:00Z")
JOB = JobSeen("job", "pipelines", "uid", "1", "owner", 1, None, "me", is_suspended=False, is_deleting=False)
DONE = replace(JOB, finish="Complete")
ENDED = replace(POD, phase="Succeeded", node="node-1")


@pytest.mark.parametrize(
    ("job", "pods", "expected"),
    [
        pytest.param(JOB, [], False, id="no pod yet"),
        pytest.param(replace(JOB, is_suspended=True), [], False, id="suspended: it may be released"),
        pytest.param(JOB, [ENDED], False, id="not counted by the controller"),
        pytest.param(DONE, [ENDED], True, id="complete"),
        pytest.param(replace(JOB, finish="Failed"), [replace(ENDED, phase="Failed")], True, id="failed"),
        pytest.param(DONE, [], True, id="complete, its pods removed"),
        pytest.param(replace(DONE, busy=1), [ENDED], False, id="a pod is terminating"),
        pytest.param(DONE, [ENDED, replace(POD, phase="Running")], False, id="a late pod runs"),
        pytest.param(DONE, [ENDED, replace(POD, phase="Unknown")], False, id="its node is away"),
        pytest.param(DONE, [ENDED, POD], False, id="a late pod waits"),
        pytest.param(None, [], True, id="gone"),
        pytest.param(None, [replace(POD, phase="Running")], False, id="gone, a pod is left"),
    ],
)
def test_a_result_counts_once_no_pod_can_run(job: JobSeen | None, pods: list[PodSeen], expected: bool) -> None:
    assert is_settled(job, pods) is expected


@pytest.mark.parametrize(
    ("job", "pods", "expected"),
    [
        (JOB, [], False),
        (JOB, [replace(POD, node="node-1", waiting="ContainerCreating")], False),
        (JOB, [replace(POD, phase="Running")], True),
        (JOB, [replace(POD, phase="Failed"), POD], True),
        (replace(JOB, finish="Failed"), [], True),
    ],
)
def test_a_job_has_begun_once_a_container_ran(job: JobSeen, pods: list[PodSeen], expected: bool) -> None:
    assert has_begun(job, pods) is expected


def refused(message: str) -> EventSeen:
    return EventSeen("Job", "FailedCreate", message)


PLACED = replace(POD, node="node-1", waiting="ContainerCreating")


@pytest.mark.parametrize(
    ("pods", "events", "reason"),
    [
        pytest.param([], [], reasons.JOB_NOT_STARTED, id="nothing is said"),
        pytest.param(
            [],
            [refused('pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0')],
            reasons.QUOTA_EXCEEDED,
            id="quota",
        ),
        pytest.param(
            [],
            [refused('pods "x" is forbidden: failed quota: q: must specify limits.cpu for: taskdeletion')],
            reasons.QUOTA_EXCEEDED,
            id="quota that asks for limits",
        ),
        pytest.param(
            [],
            [refused('pods "x" is forbidden: violates PodSecurity "restricted:latest": seccompProfile')],
            reasons.POD_SECURITY_DENIED,
            id="pod security",
        ),
        pytest.param(
            [],
            [refused('admission webhook "policy.example" denied the request: no')],
            reasons.ADMISSION_DENIED,
            id="webhook",
        ),
        pytest.param(
            [replace(POD, unschedulable="0/3 nodes are available: 3 node(s) had untolerated taint")],
            [],
            reasons.POD_UNSCHEDULABLE,
            id="no node",
        ),
        pytest.param([replace(PLACED, waiting="ErrImagePull")], [], reasons.IMAGE_PULL_FAILED, id="image"),
        pytest.param([replace(PLACED, waiting="InvalidImageName")], [], reasons.IMAGE_PULL_FAILED, id="image's name"),
        pytest.param(
            [PLACED], [EventSeen("Pod", "FailedMount", "timed out")], reasons.VOLUME_MOUNT_FAILED, id="no mount"
        ),
        pytest.param(
            [PLACED],
            [EventSeen("Pod", "FailedAttachVolume", "Multi-Attach error")],
            reasons.VOLUME_MOUNT_FAILED,
            id="no attachment",
        ),
        pytest.param([PLACED], [], reasons.JOB_NOT_STARTED, id="on its way"),
        pytest.param(
            [replace(PLACED, waiting="CreateContainerConfigError")],
            [],
            reasons.JOB_NOT_STARTED,
            id="broken",
        ),
        pytest.param(
            [replace(POD, phase="Failed", unschedulable="x"), replace(PLACED, created_at="2026-01-02T00:00:00Z")],
            [],
            reasons.JOB_NOT_STARTED,
            id="the newest pod counts",
        ),
    ],
)
def test_what_keeps_a_job_from_beginning_has_a_name_and_passes(
    pods: list[PodSeen], events: list[EventSeen], reason: str
) -> None:
    fault = find_start_fault(pods, events, is_late=True)

    assert (fault.kind, fault.reason) == ("waiting", reason)


def test_the_latest_refusal_counts() -> None:
    events = [
        replace(refused("exceeded quota"), last_at="2026-01-01T00:00:00Z"),
        replace(refused("violates PodSecurity"), last_at="2026-01-01T00:01:00Z"),
    ]

    assert find_start_fault([], events, is_late=True).reason == reasons.POD_SECURITY_DENIED


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('jobs.batch is forbidden: User "x" cannot create resource "jobs"', reasons.JOBS_FORBIDDEN),
        ('jobs.batch "x" is forbidden: exceeded quota: q', reasons.QUOTA_EXCEEDED),
        (
            "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' denied the request: no",
            reasons.ADMISSION_DENIED,
        ),
    ],
)
def test_why_a_job_may_not_be_created_is_told_apart(message: str, reason: str) -> None:
    assert explain_creation_refusal(message).reason == reason


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        pytest.param(None, reasons.VOLUME_CLAIM_NOT_FOUND, id="absent"),
        pytest.param(ClaimSeen("data", "Bound", False), None, id="bound"),
        pytest.param(ClaimSeen("data", "Pending", True), None, id="bound with the first pod"),
        pytest.param(ClaimSeen("data", "Pending", False), reasons.VOLUME_CLAIM_NOT_BOUND, id="pending"),
        pytest.param(ClaimSeen("data", "Lost", False), reasons.VOLUME_CLAIM_NOT_BOUND, id="lost"),
    ],
)
def test_a_claim_that_no_pod_can_mount_is_named(claim: ClaimSeen | None, reason: str | None) -> None:
    fault = find_claim_fault(claim, "data")

    assert (fault.reason if fault else None) == reason
