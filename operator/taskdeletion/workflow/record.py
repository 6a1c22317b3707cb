"""The status of one request while it is worked on, and the only place that writes it.

Every write carries the resourceVersion it was computed from. A changed spec is met by writing again; a request that is
gone is worked on to the end without a status; another writer ends the attempt (StatusConflict goes to the caller).
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from taskdeletion.api.common import Condition
from taskdeletion.api.task_deletion import TaskDeletionSpec, TaskDeletionStatus, TaskStatus
from taskdeletion.domain.budget import fit_status
from taskdeletion.domain.catalog import Version
from taskdeletion.domain.conditions import View, build_conditions
from taskdeletion.domain.outcomes import is_final
from taskdeletion.domain.request import Request
from taskdeletion.domain.summary import build_summary, format_progress
from taskdeletion.kube.objects import Cluster, LiveObject, ObjectGone, SpecChanged
from taskdeletion.workflow.ownership import Ownership, Standing

_EXPECTED_STAGES = ("running", "succeeded", "suspended")


class Record:
    """One request's status: read once, changed in memory, written as a whole."""

    def __init__(
        self,
        cluster: Cluster,
        ownership: Ownership,
        live: LiveObject,
        *,
        clock: Callable[[], float],
        read_at: float | None = None,
    ) -> None:
        """`read_at`: by `clock`, from before `live` was asked for; None where that was just now."""
        self._cluster = cluster
        self._ownership = ownership
        self._clock = clock
        self._read_at = self._asked_at = clock() if read_at is None else read_at
        self.live = live
        self.spec = TaskDeletionSpec.model_validate(live.spec)
        self.status = TaskDeletionStatus.model_validate(live.status or {})
        # A task that the spec does not name is nobody's word, whoever wrote it into the status.
        named = set(self.spec.task_ids)
        known = {task.task_id: task for task in self.status.tasks or [] if task.task_id in named}
        self.tasks: dict[str, TaskStatus] = known and {
            **known,
            **{i: TaskStatus(task_id=i, state="Pending") for i in self.spec.task_ids if i not in known},
        }
        self.gone = live.deleting

    @property
    def request(self) -> Request:
        """The request as the domain knows it."""
        live = self.live
        return Request(live.key.namespace, live.key.name, live.uid, live.created_at, self.spec)

    @property
    def now(self) -> datetime:
        """The API server's clock: its last answer, plus the time that has passed since we asked.

        Rather late than early, so that no cutoff is: it is off by the whole seconds of the answer and its way here.
        """
        return self.live.server_time + timedelta(seconds=self._clock() - self._read_at)

    @property
    def read_at(self) -> float:
        """When `live` was asked for, by the clock of this process."""
        return self._read_at

    @property
    def standing(self) -> Standing:
        """What other requests need to know of this one."""
        return build_standing(self.live, self.tasks.values(), self.spec)

    def put(self, *tasks: TaskStatus) -> None:
        """Change tasks in memory."""
        self.tasks.update((task.task_id, task) for task in tasks)

    def change(self, **fields: Any) -> None:
        """Change fields of the status in memory."""
        self.status = self.status.model_copy(update=fields)

    @property
    def has_begun(self) -> bool:
        """Whether anything was announced, or decided, of any task."""
        return any(task.state != "Pending" for task in self.tasks.values())

    def open_tasks(self) -> list[TaskStatus]:
        """The tasks that are not final, in the order of work."""
        return [task for task in self.tasks.values() if not is_final(task)]

    def version_of(self, task_id: str) -> Version:
        """The announced version of a task."""
        return Version.parse(self.tasks[task_id].version or "|")

    def write(self, view: View) -> None:
        """Write everything; where the request is gone there is nothing to write to, and work goes on without."""
        while not self.gone:
            try:
                self._write_once(view)
            except SpecChanged as changed:
                self._take_spec(changed.live)
            except ObjectGone:
                self.gone = True
            else:
                break
        self._tell()

    def acknowledge(self) -> None:
        """Say of a request that has ended that its present generation was seen; nothing else about it changes."""
        while self.status.observed_generation != self.live.generation and not self.gone:
            seen = {"observed_generation": self.live.generation}
            conditions = [found.model_copy(update=seen) for found in self.status.conditions or []]
            self.change(**seen, conditions=conditions)
            try:
                self._take(self._cluster.write_status(self.live, self.status.to_api()))
            except SpecChanged as changed:
                self._take_spec(changed.live)
            except ObjectGone:
                self.gone = True

    def announce(self, view: View) -> bool:
        """Write what is about to happen. False, with nothing written, where the request was changed or is gone."""
        if self.gone:
            return False
        try:
            self._write_once(view)
        except SpecChanged as changed:
            self._take_spec(changed.live)
            return False
        except ObjectGone:
            self.gone = True
            return False
        self._tell()
        return True

    def _write_once(self, view: View) -> None:
        before = news_of(self.status.conditions)
        self._compute(view)
        self._asked_at = self._clock()
        written = self._cluster.write_status(self.live, fit_status(self.status.to_api()))
        self._take(written)
        if news_of(self.status.conditions) != before:
            kind: Literal["Normal", "Warning"] = "Normal" if view.stage in _EXPECTED_STAGES else "Warning"
            self._cluster.emit(written, type=kind, reason=view.reason, message=view.message)

    def _compute(self, view: View) -> None:
        tasks = list(self.tasks.values())
        conditions = build_conditions(self.status.conditions or [], view, generation=self.live.generation, now=self.now)
        self.change(
            observed_generation=self.live.generation,
            tasks=tasks or None,
            progress=format_progress(tasks) if tasks else None,
            summary=build_summary(tasks, dry_run=self.spec.dry_run) if tasks else None,
            conditions=conditions,
        )

    def _take(self, live: LiveObject) -> None:
        if live is not self.live:  # with nothing to write there was no answer, and no newer time
            self.live, self._read_at = live, self._asked_at

    def _take_spec(self, live: LiveObject) -> None:
        self._take(live)
        self.spec = TaskDeletionSpec.model_validate(live.spec)
        self.gone = live.deleting

    def _tell(self) -> None:
        if self.gone or self.status.completion_time is not None:
            self._ownership.forget(self.live.uid)
        else:
            self._ownership.observe(self.standing)


def news_of(conditions: Sequence[Condition] | None) -> frozenset[tuple[str, str, str]]:
    """What an Event is worth: which conditions hold, and why; not the words."""
    return frozenset((found.type, found.status, found.reason) for found in conditions or ())


def build_standing(live: LiveObject, tasks: Iterable[TaskStatus], spec: TaskDeletionSpec) -> Standing:
    """The standing of a request from its spec and the tasks of its status."""
    deleting = [task for task in tasks if task.state == "Deleting"]
    return Standing(
        key=live.key,
        uid=live.uid,
        store=spec.store_ref.name,
        created_at=live.created_at,
        named=frozenset(spec.task_ids),
        deleting=frozenset(task.task_id for task in deleting),
        claimed=frozenset(task.task_id for task in deleting if task.claimed),
    )
