"""What a Job and its pods are up to: whether anything of it can still run, and why it does not begin.

Read by `kube.jobs` from the API server's objects; decided here. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_work import JobWork

Finish = Literal["Complete", "Failed"]
_ENDED: Final = ("Succeeded", "Failed")
_NO_IMAGE: Final = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
)
_BEGINNING: Final = ("", "ContainerCreating", "PodInitializing")
_MOUNT_EVENTS: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")


@dataclass(frozen=True, slots=True)
class PodSeen:
    """One pod of a Job. `waiting`: why its container does not run; `exit_reason`: why it ended, such as OOMKilled.

    `unschedulable`: what the scheduler says, where it finds no node. `created_at`: as the API server wrote it.
    """

    name: str
    uid: str
    created_at: str
    phase: str = "Pending"
    node: str = ""
    index: int = 0
    unschedulable: str = ""
    waiting: str = ""
    waiting_message: str = ""
    exit_reason: str = ""
    exit_code: int | None = None
    message: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether no process of it runs or can begin. A node that is away keeps its pods Running."""
        return self.phase in _ENDED

    @property
    def has_begun(self) -> bool:
        """Whether its container runs, or ran."""
        return self.phase == "Running" or self.has_ended


@dataclass(frozen=True, slots=True)
class JobSeen:
    """One Job. `work`: None where its arguments are none of ours. `adopted_by`: which process may release it.

    `busy`: active, terminating and uncounted pods. `ended`: how many it counts as failed or succeeded, whether they are
    still there or not. `created_at`: as the API server wrote it. `claim` and what follows: see `JobTarget`.
    """

    name: str
    namespace: str
    uid: str
    resource_version: str
    owner: str
    attempt: int
    work: JobWork | None
    adopted_by: str
    is_suspended: bool
    is_deleting: bool
    finish: Finish | None = None
    finish_reason: str = ""
    finish_message: str = ""
    busy: int = 0
    ended: int = 0
    created_at: str = ""
    claim: str = ""
    store: str = ""
    deletion: str = ""
    counted: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def names(self, task_id: str) -> bool:
        """Whether its work says something about this task."""
        return self.work is not None and task_id in self.work.tasks


@dataclass(frozen=True, slots=True)
class EventSeen:
    """A warning about a Job or one of its pods. `last_at`: as the API server wrote it."""

    about: Literal["Job", "Pod"]
    reason: str
    message: str
    last_at: str = ""


@dataclass(frozen=True, slots=True)
class ClaimSeen:
    """A PersistentVolumeClaim. `waits_for_pod`: it is bound when the first pod that uses it is scheduled.

    `one_node`: it can be mounted on one node at a time only.
    """

    name: str
    phase: str
    waits_for_pod: bool
    one_node: bool = False


def is_settled(job: JobSeen | None, pods: Iterable[PodSeen]) -> bool:
    """Whether none of its pods runs, or will: only then its result counts. `job`: None where it is gone."""
    is_over = job is None or (job.finish is not None and not job.busy)
    return is_over and all(pod.has_ended for pod in pods)


def has_begun(job: JobSeen, pods: Iterable[PodSeen]) -> bool:
    """Whether there is no need any more to look for what keeps it from beginning."""
    return job.finish is not None or any(pod.has_begun for pod in pods)


# --- why it does not begin --------------------------------------------------------------------------------------------
def find_claim_fault(claim: ClaimSeen | None, name: str) -> Fault | None:
    """What is wrong with the claim, before any Job is created for it."""
    if claim is None:
        message = f"there is no PersistentVolumeClaim {name} in this namespace; create it"
        return Fault("waiting", reasons.VOLUME_CLAIM_NOT_FOUND, message)
    if claim.phase == "Bound" or (claim.phase == "Pending" and claim.waits_for_pod):
        return None
    message = f"PersistentVolumeClaim {name} is {claim.phase or 'not bound'}; see: kubectl describe pvc {name}"
    return Fault("waiting", reasons.VOLUME_CLAIM_NOT_BOUND, message)


def find_start_fault(pods: Sequence[PodSeen], events: Sequence[EventSeen], *, is_late: bool) -> Fault:
    """Why a released Job does not begin, as far as its pods and events tell. `is_late`: it should have by now.

    Without a word of anybody it is JobNotStarted. All of them wait: the Job stays, and begins when it can.
    """
    newest = max(pods, key=lambda pod: pod.created_at, default=None)
    latest = sorted(events, key=lambda event: event.last_at, reverse=True)
    if newest is None:
        refused = next((event for event in latest if event.about == "Job" and event.reason == "FailedCreate"), None)
        if refused is not None:
            return _waiting(*_explain_refusal(refused.message))
        return _not_started("no pod was created yet", is_late=is_late)
    return _find_pod_fault(newest, latest, is_late=is_late)


def _find_pod_fault(pod: PodSeen, events: Sequence[EventSeen], *, is_late: bool) -> Fault:
    if pod.unschedulable:
        return _waiting(reasons.POD_UNSCHEDULABLE, f"no node takes the pod: {pod.unschedulable}")
    if pod.waiting in _NO_IMAGE:
        why = f"{pod.waiting}: {pod.waiting_message}" if pod.waiting_message else pod.waiting
        return _waiting(reasons.IMAGE_PULL_FAILED, f"the operator's image cannot be had on node {pod.node}: {why}")
    mount = next((event for event in events if event.about == "Pod" and event.reason in _MOUNT_EVENTS), None)
    if mount is not None and pod.node:
        return _waiting(
            reasons.VOLUME_MOUNT_FAILED, f"the volume cannot be mounted on node {pod.node}: {mount.message}"
        )
    if pod.waiting not in _BEGINNING:
        return _waiting(reasons.JOB_NOT_STARTED, f"pod {pod.name}: {pod.waiting}: {pod.waiting_message}")
    return _not_started(f"pod {pod.name} is {pod.phase}", is_late=is_late)


def _not_started(what: str, *, is_late: bool) -> Fault:
    advice = "; see: kubectl describe job" if is_late else ""
    return _waiting(reasons.JOB_NOT_STARTED, f"the Job has not begun: {what}{advice}")


def explain_creation_refusal(message: str) -> Fault:
    """Why the API server does not let the operator create a Job (403)."""
    if "exceeded quota" in message or "denied the request" in message:
        return _waiting(*_explain_refusal(message))
    return _waiting(reasons.JOBS_FORBIDDEN, f"the operator may not work with Jobs in this namespace: {message}")


def _explain_refusal(message: str) -> tuple[str, str]:
    if "exceeded quota" in message or "must specify" in message:
        return reasons.QUOTA_EXCEEDED, f"a quota of the namespace leaves no room for the pod: {message}"
    if "violates PodSecurity" in message:
        return reasons.POD_SECURITY_DENIED, f"Pod Security of the namespace refuses the pod: {message}"
    return reasons.ADMISSION_DENIED, f"the pod is refused: {message}"


def _waiting(reason: str, message: str) -> Fault:
    return Fault("waiting", reason, message)
