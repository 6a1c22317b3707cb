"""Creates the TaskDeletions of a run so that all of them begin, or none (ADR 0012).

Called by the workflow of policies, which has decided that the run is due and what it takes. The status of the policy
is the journal: a draft is written down before its first part is created, and decided only when the last one exists.
"""

import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from taskdeletion.api.retention_status import Draft, Run
from taskdeletion.api.task_deletion import MAX_TASK_IDS
from taskdeletion.domain.retention import Selected
from taskdeletion.domain.runs import Child, build_part, run_of, split
from taskdeletion.kube.children import ChildChanged, Children, NameTaken
from taskdeletion.kube.objects import Cluster, ObjectGone, SpecChanged, StatusConflict
from taskdeletion.observe.logging import about
from taskdeletion.workflow.policy_record import PolicyRecord, PolicyView

#: A draft that was not renewed for this long has nobody who creates it any more.
ABANDONED_AFTER: Final = timedelta(seconds=15)
RENEWED_AFTER: Final = timedelta(seconds=4)
log = logging.getLogger(__name__)


class DraftAbandoned(Exception):  # noqa: N818 - it says what is the case
    """The policy changed, is gone, or is worked on by another: the draft is thrown away, now or at the next look."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """Creates runs. Thread-safe."""

    cluster: Cluster
    children: Children
    stopping: threading.Event
    #: Drafts of this process that came to nothing.
    _given_up: set[str] = field(default_factory=set)

    def left(self, record: PolicyRecord) -> float:
        """Seconds for which the draft in the status may still have somebody who creates it; 0: it is nobody's."""
        draft = record.status.draft
        if draft is None or draft.id in self._given_up:
            return 0.0
        return max(0.0, (draft.renew_time + ABANDONED_AFTER - record.now).total_seconds())

    def create(self, record: PolicyRecord, run: Run, selected: Selected, view: PolicyView) -> None:
        """Create and release all TaskDeletions of `run`; `view` is shown meanwhile.

        At the end `record` holds the run, to be written once more. Raises DraftAbandoned where nothing was released.
        """
        draft = self._begin(record, run, view, parts=-(-len(selected.task_ids) // MAX_TASK_IDS))
        self._given_up.add(draft.id)  # until it is decided
        created = self._create_parts(record, run, selected, draft)
        if created is not None:
            self._given_up.discard(draft.id)
            self.release(record, created)

    def _create_parts(self, record: PolicyRecord, run: Run, selected: Selected, draft: Draft) -> list[Child] | None:
        """Create the parts and decide the run; None where it turned out to exist already."""
        parts = list(split(selected.task_ids))
        created: list[Child] = []
        try:
            for number, task_ids in enumerate(parts, start=1):
                self._renew(record, draft, self._require_same(record, draft))
                created.append(self._create_part(record, draft, number, task_ids, selected.cutoff))
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
        except (DraftAbandoned, SpecChanged, StatusConflict, ObjectGone) as error:
            self.discard(record.policy.namespace, created)
            raise DraftAbandoned from error
        return created

    def release(self, record: PolicyRecord, children: Iterable[Child]) -> None:
        """Let every part of the decided run begin that has not."""
        run = record.status.last_run
        assert run is not None
        for child in children:
            if child.draft == run.draft and child.owner_uid == record.policy.uid:
                with suppress(ChildChanged):  # gone: somebody cancelled it, and following the run will tell
                    self.children.release(record.policy.namespace, child)
        record.change(last_run=run.model_copy(update={"phase": "Active", "draft": None}))

    def discard(self, namespace: str, children: Iterable[Child]) -> None:
        """Throw drafts away: only what was suspended since it was created, and did not change since it was read."""
        for child in children:
            if child.is_draft:
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

    def _create_part(
        self, record: PolicyRecord, draft: Draft, number: int, task_ids: Iterable[str], cutoff: datetime
    ) -> Child:
        policy = record.policy
        manifest = build_part(
            policy,
            record.spec,
            scheduled_time=draft.scheduled_time,
            number=number,
            task_ids=list(task_ids),
            cutoff=cutoff,
            draft=draft.id,
        )
        try:
            return self.children.create(manifest)
        except NameTaken as taken:
            found = taken.child
        if found.draft == draft.id and found.owner_uid == policy.uid:  # an earlier try of the same request arrived
            return found
        if found.is_draft:  # of a draft that was abandoned
            self._discard(policy.namespace, found)
            raise DraftAbandoned
        raise _RunExists([c for c in self.children.list(policy.namespace, policy.name) if c.run == found.run])

    def _take_over(self, record: PolicyRecord, run: Run, children: list[Child]) -> None:
        """This run was created before, whatever the status says: follow it instead of creating it again."""
        mine = [child for child in children if not child.is_draft and child.run == run_of(run.scheduled_time)]
        names = [child.name for child in mine]
        taken = run.model_copy(update={"phase": "Active", "created": len(names), "active": names, "at_least": True})
        record.change(draft=None, last_run=taken, last_schedule_time=run.scheduled_time)


class _RunExists(Exception):  # noqa: N818 - it says what is the case
    def __init__(self, children: list[Child]) -> None:
        super().__init__()
        self.children = children
