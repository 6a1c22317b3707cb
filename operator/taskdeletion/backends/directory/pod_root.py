"""A store's root as the pod of a Job has it before it: purges that can be watched, and shares of a purge.

Called by `executors.in_pod`. Like every root it touches exactly what its caller names.
"""

from collections.abc import Callable, Sequence

from taskdeletion.backends.directory.branches import run_walk
from taskdeletion.backends.directory.faults import fault_from
from taskdeletion.backends.directory.root import DirectoryRoot
from taskdeletion.backends.directory.share import Share, ShareWalk, find_level
from taskdeletion.backends.directory.walk import Purged, Walk
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.results import Halt
from taskdeletion.domain.siblings import Sibling

#: Gets the walk before it begins; its `counted` grows.
Watch = Callable[[Walk], object]


class PodRoot(DirectoryRoot):
    """A root whose walks can be watched."""

    def purge_watched(self, sibling: Sibling, halt: Halt, watch: Watch) -> tuple[Purged, Fault | None]:
        """Like `purge`."""
        return self._run(sibling, lambda name: Walk(self._descriptor, name, halt), watch)

    def purge_share(
        self, sibling: Sibling, halt: Halt, watch: Watch, *, share: Share
    ) -> tuple[Purged, Fault | None, bool]:
        """Remove what is of this share; a `purge` follows all shares. The last value: whether the sibling was there."""
        walks: list[ShareWalk] = []

        def make(name: str) -> ShareWalk:
            walks.append(ShareWalk(self._descriptor, name, halt, share))
            return walks[-1]

        purged, fault = self._run(sibling, make, watch)
        return purged, fault, not any(walk.is_absent for walk in walks)

    def find_level(self, siblings: Sequence[Sibling], enough: int) -> int:
        """At which level below these siblings, all together, there are `enough` entries to share out; 0: nowhere."""
        return find_level(self._descriptor, [sibling.name for sibling in siblings], enough)

    def _run(self, sibling: Sibling, make: Callable[[str], Walk], watch: Watch) -> tuple[Purged, Fault | None]:
        try:
            name = self.begin_purge(sibling).name
            self._sync_renames()
            shift, walk = self._begin_shift(), make(name)
            watch(walk)
            return run_walk(walk, shift)
        except Fault as fault:
            return Purged(0, 0), fault
        except OSError as error:
            return Purged(0, 0), fault_from(error, "the purge cannot begin")
