"""Whether a request, or a policy, was asked at apply for what it may do (ADR 0016), and who its author is.

Called by the workflows of both before work begins. Where the chart asked for an admission policy, what it guards is
done only while that policy is in force, and only for what was created since: taking it away opens nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.domain.admission import SETTLING, STAMP, UNKNOWN, Enforcement, Installed, describe_unadmitted, judge
from taskdeletion.domain.faults import Fault
from taskdeletion.kube.client import KubeForbidden
from taskdeletion.kube.objects import LiveObject

#: How long a look may serve for the names of those who asked, of requests that were there by then.
FRESH_SECONDS: Final = 2.0


@dataclass(slots=True)
class Admission:
    """The admission policy that the chart asked for. Safe for many threads. Both methods raise KubeUnavailable.

    `name`: of the policy and its binding. `digest`: what they have to be. `read`: reads both (`kube.admission`).
    """

    name: str
    digest: str
    read: Callable[[], Installed | None]
    settling: timedelta = SETTLING
    clock: Callable[[], float] = time.monotonic
    _latest: tuple[float, Enforcement] = field(default=(float("-inf"), Enforcement("")), init=False)

    def find_refusal(self, live: LiveObject, options: tuple[str, ...]) -> str | None:
        """Why this object, read before this call, may not have these options; None where it may.

        Raises Fault (waiting) where the policy is not in force.
        """
        if not options:
            return None
        enforcement = self._look()
        if enforcement.since is None:
            raise Fault("waiting", reasons.ADMISSION_NOT_ENFORCED, f"{' and '.join(options)}: {enforcement.problem}")
        if enforcement.covers(live.created_at):
            return None
        return describe_unadmitted(live.key.kind, options, enforcement.since)

    def find_requester(self, live: LiveObject) -> str:
        """Who created this request, or last wrote this policy; `unknown` where nobody saw to it that it is true."""
        stamp = live.annotations.get(STAMP, "")
        if not stamp:
            return UNKNOWN
        looked_at, latest = self._latest
        is_fresh = self.clock() - looked_at < FRESH_SECONDS and latest.is_behind(live.created_at)
        if live.key.kind != TaskDeletion.KIND or not is_fresh:  # the author of a policy may be another one since
            latest = self._look()
        return stamp if latest.covers(live.created_at) else UNKNOWN

    def _look(self) -> Enforcement:
        now = self.clock()
        try:
            found = judge(self.read(), name=self.name, digest=self.digest, settling=self.settling)
        except KubeForbidden as error:
            found = Enforcement(f"the operator cannot see whether the admission policy is in force: {error}")
        self._latest = (now, found)  # of two threads that look at once either is right
        return found
