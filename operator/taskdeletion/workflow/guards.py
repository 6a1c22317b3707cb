"""Compares versions: directly before an effect (Purge), after a rename that nothing confirmed, and at read-back.

Called through the executor before every batch of keys or objects, and by the attempt. Reads the catalog, nothing else.
"""

from collections.abc import Collection, Mapping

from taskdeletion.domain.catalog import Catalog, Version
from taskdeletion.domain.claims import decide_still_claimed
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership


class VersionGuard:
    """A `Guard` over the claimed versions of some tasks. Without a catalog there is nothing to compare."""

    def __init__(
        self,
        catalog: Catalog | None,
        versions: Mapping[str, Version],
        *,
        force: bool,
        leadership: Leadership = ALONE,
    ) -> None:
        self._catalog = catalog
        self._versions = versions
        self._force = force
        self._leadership = leadership

    def __call__(self, task_ids: Collection[str]) -> Mapping[str, Fault]:
        """Which of these tasks must not be touched any more, and why. Raises Fault where the catalog cannot say."""
        while True:
            denied = self._compare(task_ids)
            if not self._leadership.require():  # else it took a while, in which a task may have been restarted
                return denied

    def _compare(self, task_ids: Collection[str]) -> Mapping[str, Fault]:
        if self._catalog is None:
            return {}
        entries = self._catalog.read(task_ids)
        denied = {
            task_id: decide_still_claimed(entries.get(task_id), self._versions[task_id], force=self._force)
            for task_id in task_ids
        }
        return {task_id: fault for task_id, fault in denied.items() if fault is not None}
