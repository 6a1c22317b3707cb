"""After the purge of one round: read back, then records or mark, each only where everything else is gone.

Called by the attempt. Looks at the stores and the catalog again; never purges what reappeared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Resource
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.catalog import Catalog, Marks, Version
from taskdeletion.domain.claims import UNKNOWN_TASK
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.results import Guard, StepResult
from taskdeletion.executors.store import OpenStore

Look = Callable[[Sequence[str]], Iterable[str]]
_REAPPEARED = Fault(
    "permanent", reasons.DIRECTORY_REAPPEARED, "a directory appeared again after the purge; it was not touched"
)
_ROW_LOCKED = Fault("retriable", reasons.ROW_LOCKED, "another transaction holds the row; it is marked later")
_SIBLING_LEFT = Fault("retriable", reasons.NOT_EMPTY, "a sibling of the directory is there after the purge")
_GONE = ("Deleted", "Skipped", "WouldDelete")


@dataclass(slots=True)
class Finish:
    """What follows the purge of some claimed tasks. `results`: of the purge, per task; grows by what is found here."""

    store: OpenStore
    guard: Guard
    versions: Mapping[str, Version]
    results: dict[str, list[StepResult]]
    force: bool
    delete_records: bool
    dry_run: bool
    uncertain: frozenset[str]
    leadership: Leadership = ALONE

    def perform(self) -> None:
        """Read back, then change the rows. Raises nothing of the outside world: faults become results."""
        if not self.dry_run:
            self._read_back_directories()
        catalog = self.store.catalog
        if catalog is None:
            return
        if catalog.keeps_entries and not self.delete_records:
            self._keep_records(catalog)
        elif self.dry_run:
            self._count_records(catalog)
        else:
            self._delete_records(catalog)

    def _add(self, result: StepResult) -> None:
        self.results[result.task_id].append(result)

    def _clean_tasks(self) -> list[str]:
        return [task_id for task_id, found in self.results.items() if all(one.outcome in _GONE for one in found)]

    # --- directories ------------------------------------------------------------------------------------------------
    def _read_back_directories(self) -> None:
        if self.store.directory is None or not self.results:
            return
        try:
            found = self.store.directory.look(list(self.results))
            there = [task_id for task_id, one in found.items() if one.directory]
            aside = [task_id for task_id in self._clean_tasks() if found[task_id].siblings]
            restarted = self.guard(there) if there else {}
        except Fault as unknown:
            for task_id in self.results:
                self._add(StepResult.failed(task_id, "Directory", unknown))
            return
        for task_id in there:
            self._add(StepResult.failed(task_id, "Directory", restarted.get(task_id) or _REAPPEARED))
        for task_id in aside:
            self._add(StepResult.failed(task_id, "Directory", _SIBLING_LEFT))

    # --- rows that stay ---------------------------------------------------------------------------------------------
    def _keep_records(self, catalog: Catalog) -> None:
        clean = [task_id for task_id in self._clean_tasks() if self.versions[task_id] != UNKNOWN_TASK]
        try:
            if clean and not self.dry_run and self.store.directory is not None:
                marks = catalog.mark({task_id: self.versions[task_id] for task_id in clean}, force=self.force)
            else:
                marks = Marks(frozenset(clean), frozenset())
        except Fault as fault:
            for task_id in clean:
                self._add(StepResult.failed(task_id, "DatabaseRecords", fault))
            return
        for task_id in self.results:
            if task_id in marks.row_locked:
                self._add(StepResult.failed(task_id, "DatabaseRecords", _ROW_LOCKED))
                continue
            changed = task_id in clean and task_id not in marks.marked
            self._add(_kept(task_id, "the row changed meanwhile and was left as it is" if changed else ""))

    # --- records that go --------------------------------------------------------------------------------------------
    def _count_records(self, catalog: Catalog) -> None:
        try:
            counts = catalog.count_records(list(self.results))
        except Fault as fault:
            counts = {}
            for task_id in self.results:
                self._add(StepResult.failed(task_id, "DatabaseRecords", fault))
        for task_id, count in counts.items():
            self._add(StepResult(task_id, "DatabaseRecords", "WouldDelete", count=count))

    def _delete_records(self, catalog: Catalog) -> None:
        clean = self._clean_tasks()
        for task_id in self.results.keys() - set(clean):
            self._add(_not_attempted(task_id))
        clean = self._look_again(clean)
        known = {task_id: self.versions[task_id] for task_id in clean if self.versions[task_id] != UNKNOWN_TASK}
        for task_id in set(clean) - known.keys():
            self._add(StepResult(task_id, "DatabaseRecords", "Skipped", reasons.ABSENT))
        self.leadership.require()
        try:
            deleted = catalog.delete_records(known, force=self.force) if known else {}
        except Fault as fault:
            deleted = {task_id: StepResult.failed(task_id, "DatabaseRecords", fault) for task_id in known}
        for result in deleted.values():
            self._add(self._settle_absent(result))

    def _settle_absent(self, result: StepResult) -> StepResult:
        """Records that are gone when a request is resumed after a crash went with it; how many is not known."""
        if result.task_id in self.uncertain and result.reason == reasons.ABSENT:
            return replace(result, outcome="Deleted", reason="", at_least=True)
        return result

    def _look_again(self, task_ids: Sequence[str]) -> list[str]:
        """The tasks of which nothing else is left: no directory, nobody's sibling, no key, no object."""
        rest: dict[str, tuple[Resource, Fault]] = {}
        for resource, look in self._looks():
            rest.update(_look_for(resource, look, task_ids))
        for task_id, (resource, fault) in rest.items():
            self._add(StepResult.failed(task_id, resource, fault))
            self._add(_not_attempted(task_id))
        return [task_id for task_id in task_ids if task_id not in rest]

    def _looks(self) -> Iterator[tuple[Resource, Look]]:
        directory, connections = self.store.directory, self.store.connections
        if directory is not None:
            yield "Directory", lambda ids: _with_directory(directory, ids)
        if (redis := connections.redis) is not None:
            yield "Redis", redis.find_rest
        if (objects := connections.objects) is not None:
            yield "MinIO", lambda ids: [task_id for task_id in ids if objects.has_rest(task_id)]


def _with_directory(root: DirectoryRoot, task_ids: Sequence[str]) -> list[str]:
    return [task_id for task_id, one in root.look(task_ids).items() if one.directory or one.siblings]


def _look_for(resource: Resource, look: Look, task_ids: Sequence[str]) -> dict[str, tuple[Resource, Fault]]:
    try:
        found = look(task_ids) if task_ids else ()
    except Fault as fault:
        return dict.fromkeys(task_ids, (resource, fault))
    appeared = Fault("retriable", reasons.NOT_EMPTY, "something of the task is there again; its records stay")
    return dict.fromkeys(found, (resource, appeared))


def _kept(task_id: str, message: str) -> StepResult:
    return StepResult(task_id, "DatabaseRecords", "Skipped", reasons.KEPT_BY_REQUEST, message)


def _not_attempted(task_id: str) -> StepResult:
    return StepResult(
        task_id, "DatabaseRecords", "NotAttempted", reasons.NOT_EMPTY, "records go last, and something else is left"
    )
