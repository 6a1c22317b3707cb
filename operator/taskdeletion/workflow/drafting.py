"""Creates the TaskDeletions of a run so that all of them begin, or none (ADR 0012).

Called by the workflow of policies, which has decided that the run is due and what it takes. The status of the policy
is the journal: a draft is written down before its first part is created, and decided only when the last one exists.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from taskdeletion.api.retention_status import Draft, Run
from taskdeletion.domain.retention import Group, Selected
from taskdeletion.domain.runs import Child, build_part, run_of, split
from taskdeletion.kube.children import ChildChanged, Children, NameTaken
from taskdeletion.kube.client import KubeForbidden, KubeRejected
from taskdeletion.kube.objects import Cluster, ObjectGone, SpecChanged, StatusConflict
from taskdeletion.observe.logging import about
from taskdeletion.workflow.policy_record import PolicyRecord, PolicyView

#: A draft that was not renewed for this long has nobody who creates it any more.
ABANDONED_AFTER: Final = timedelta(seconds=15)
RENEWED_AFTER: Final = timedelta(seconds=4)
log = logging.getLogger(__name__)


class CreationRefused(Exception):  # noqa: N818 - it says what is the case
    """A TaskDeletion of the run may not be created, or not begin; somebody has to see to it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class DraftAbandoned(Exception):  # noqa: N818 - it says what is the case
    """The policy changed, is gone, or is worked on by another: the draft is thrown away, now or at the next look."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """Creates runs. Thread-safe."""

    cluster: Cluster
    children: Children
    stopping: threading.Event
    clock: Callable[[], float] = time.monotonic
    #: Drafts of this process that came to nothing.
    _given_up: set[str] = field(default_factory=set)
    #: By the uid of its policy, the last draft of others, and when it was first seen so.
    _seen: dict[str, tuple[Draft, float]] = field(default_factory=dict)

    def left(self, record: PolicyRecord) -> float:
        """Seconds for which the draft in the status may still have somebody who creates it; 0: it is nobody's."""
        draft = record.status.draft
        if draft is None or draft.id in self._given_up:
            return 0.0
        by_server = (draft.renew_time + ABANDONED_AFTER - record.now).total_seconds()
        return max(0.0, min(by_server, ABANDONED_AFTER.total_seconds() - self._seen_for(record, draft)))

    def _seen_for(self, record: PolicyRecord, draft: Draft) -> float:
        """Seconds since this process first saw the draft as it is: the server's clock may have been put back."""
        uid, now = record.policy.uid, self.clock()
        known = self._seen.get(uid)
        if known is None or known[0] != draft:
            known = self._seen[uid] = (draft, now)
        return now - known[1]

    def require_nobodys(self, record: PolicyRecord) -> None:
        """From here on nobody can decide a draft that was listed before. Raises DraftAbandoned: look anew.

        The id of a draft is in the status before its first part is there. So one that is not in a status which was read
        behind the list is over; one that is there and was abandoned is taken out first, so that its writer's decision
        fails.
        """
        if record.status.draft is not None and self.left(record) <= 0:
            record.change(draft=None)
            record.write()
            return
        now = self.cluster.read(record.live.key)
        if now is None or now.uid != record.live.uid or now.resource_version != record.live.resource_version:
            raise DraftAbandoned

    def create(self, record: PolicyRecord, run: Run, selected: Selected, view: PolicyView) -> None:
        """Create and release all TaskDeletions of `run`; `view` is shown meanwhile.

        At the end `record` holds the run, to be written once more. Raises DraftAbandoned where nothing was released.
        """
        parts = list(split(selected.groups))
        draft = self._begin(record, run, view, parts=len(parts))
        self._given_up.add(draft.id)  # until it is decided
        created = self._create_parts(record, run, selected, parts, draft)
        if created is not None:
            self._given_up.discard(draft.id)
            self.release(record, created)

    def _create_parts(
        self, record: PolicyRecord, run: Run, selected: Selected, parts: Sequence[Group], draft: Draft
    ) -> list[Child] | None:
        """Create the parts and decide the run; None where it turned out to exist already."""
        created: list[Child] = []
        try:
            for number, part in enumerate(parts, start=1):
                self._renew(record, draft, self._require_same(record, draft))
                created.append(self._create_part(record, draft, number, part, selected.cutoff))
                created[-1] = self.children.bind(record.policy.namespace, created[-1], selected.store_uid)
            names = [child.name for child in created]
            decided = run.model_copy(
                update={"phase": "Releasing", "draft": draft.id, "created": len(names), "active": names}
            )
            active = (record.status.active or 0) + len(names)
            record.change(draft=None, last_run=decided, last_schedule_time=run.scheduled_time, active=active)
            record.write()
        except _RunExists as found:
            self.discard(record.policy.namespace, created)
            self._take_over(record, run, found.children)
            return None
        except (CreationRefused, KubeForbidden, KubeRejected) as error:
            self.discard(record.policy.namespace, created)
            record.change(draft=None)
            raise _refused(error) from error
        except (ChildChanged, DraftAbandoned, SpecChanged, StatusConflict, ObjectGone) as error:
            self.discard(record.policy.namespace, created)
            raise DraftAbandoned from error
        return created

    def release(self, record: PolicyRecord, children: Iterable[Child]) -> None:
        """Let every part of the decided run begin that has not. Raises CreationRefused where one may not."""
        run = record.status.last_run
        assert run is not None
        refused: KubeForbidden | KubeRejected | None = None
        for child in children:
            if child.draft == run.draft and child.owner_uid == record.policy.uid:
                try:
                    self.children.release(record.policy.namespace, child)
                except ChildChanged:
                    continue  # gone: somebody cancelled it, and following the run will tell
                except (KubeForbidden, KubeRejected) as error:
                    refused = error  # the other parts begin all the same: the run is decided
        if refused is not None:
            raise _refused(refused) from refused
        record.change(last_run=run.model_copy(update={"phase": "Active", "draft": None}))

    def discard(self, namespace: str, children: Iterable[Child]) -> None:
        """Throw drafts of policies away: only what was suspended since it was created, and is as it was read."""
        for child in children:
            if child.is_draft and child.owner_uid:
                self._discard(namespace, child)

    def _discard(self, namespace: str, child: Child) -> None:
        for current in self._as_read_and_as_now(namespace, child):
            try:
                self.children.delete(namespace, current)
            except ChildChanged:
                continue  # its status, most likely: look once more
            return
        log.info(
            "a draft is still being changed; it is thrown away later", extra=about(namespace=namespace, name=child.name)
        )

    def _as_read_and_as_now(self, namespace: str, child: Child) -> Iterator[Child]:
        yield child
        now = self.children.read(namespace, child.name)
        if now is not None and now.uid == child.uid and now.is_draft:
            yield now

    def _begin(self, record: PolicyRecord, run: Run, view: PolicyView, *, parts: int) -> Draft:
        draft = Draft(id=secrets.token_hex(8), scheduled_time=run.scheduled_time, parts=parts, renew_time=record.now)
        record.change(draft=draft)
        record.write(view)
        return draft

    def _renew(self, record: PolicyRecord, draft: Draft, now: datetime) -> None:
        known = record.status.draft or draft
        if now - known.renew_time >= RENEWED_AFTER:
            record.change(draft=known.model_copy(update={"renew_time": now}))
            record.write()

    def _require_same(self, record: PolicyRecord, draft: Draft) -> datetime:
        """The API server's clock, where policy and draft are as they were when the draft was begun."""
        now = None if self.stopping.is_set() else self.cluster.read(record.live.key)
        if now is None or now.deleting or now.uid != record.live.uid or now.generation != record.live.generation:
            raise DraftAbandoned
        if (now.status.get("draft") or {}).get("id") != draft.id:
            raise DraftAbandoned
        return now.server_time

    def _create_part(self, record: PolicyRecord, draft: Draft, number: int, group: Group, cutoff: datetime) -> Child:
        policy = record.policy
        manifest = build_part(
            policy,
            record.spec,
            scheduled_time=draft.scheduled_time,
            number=number,
            group=group,
            cutoff=cutoff,
            draft=draft.id,
        )
        try:
            return self.children.create(manifest)
        except NameTaken as taken:
            found = taken.child
        if found.draft == draft.id and found.owner_uid == policy.uid:  # an earlier try of the same request arrived
            return found
        if found.is_draft:  # of a draft that was abandoned, or of one that goes on where this one was
            self._require_same(record, draft)
            self._discard(policy.namespace, found)
            raise DraftAbandoned
        if found.owner_uid != policy.uid or found.run != run_of(draft.scheduled_time):
            raise CreationRefused(
                f"there is a TaskDeletion {found.name} already, which is not of this policy; delete it, and see who may"
                " create such"
            )
        raise _RunExists([c for c in self.children.list(policy.namespace, policy.name) if c.run == found.run])

    def _take_over(self, record: PolicyRecord, run: Run, children: list[Child]) -> None:
        """This run was created before, whatever the status says: follow it instead of creating it again."""
        label, uid = run_of(run.scheduled_time), record.policy.uid
        mine = [child for child in children if not child.is_draft and child.run == label and child.owner_uid == uid]
        names = [child.name for child in mine]
        taken = run.model_copy(update={"phase": "Active", "created": len(names), "active": names, "at_least": True})
        record.change(draft=None, last_run=taken, last_schedule_time=run.scheduled_time)


def _refused(error: CreationRefused | KubeForbidden | KubeRejected) -> CreationRefused:
    if isinstance(error, CreationRefused):
        return error
    return CreationRefused(f"the API server refuses a TaskDeletion of the run: {error}")


class _RunExists(Exception):  # noqa: N818 - it says what is the case
    def __init__(self, children: list[Child]) -> None:
        super().__init__()
        self.children = children
