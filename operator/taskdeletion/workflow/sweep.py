"""Looks at the siblings in the root of a store: counts what nobody owns, puts back what is whole and owned by nobody.

Called by `workflow.store_status` after a good probe. The put-back is the only thing that is ever done because of a
name, and it deletes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import TaskDeletion
from taskdeletion.api.task_store import Leftovers
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.siblings import Sibling
from taskdeletion.kube.objects import Cluster, LiveObject
from taskdeletion.workflow.ownership import Ownership, Standing
from taskdeletion.workflow.stores import Stores

EXAMPLES = 10


@dataclass(slots=True)
class Sweep:
    """The sweep over stores. Thread-safe."""

    cluster: Cluster
    stores: Stores
    ownership: Ownership

    def perform(self, store: LiveObject) -> Leftovers:
        """Count what nobody owns in the root of `store`, and put back what is whole. Raises Fault."""
        root = self.stores.open_root(store.key.namespace, store.key.name)
        if root is None:
            return Leftovers()
        with root:
            ownerless = [one for one in root.list_siblings() if not self.ownership.is_live(one.owner)]
            left = [one for one in ownerless if not self._put_back(store, root, one)] if ownerless else []
        return _count(left)

    def _put_back(self, store: LiveObject, root: DirectoryRoot, sibling: Sibling) -> bool:
        """A `.claimed-` sibling is whole: where its request is gone and nobody names the task, it goes back."""
        if sibling.kind != "claimed" or self.ownership.is_named(store.key.namespace, sibling.task_id):
            return False
        if self._exists(store.key.namespace, sibling.owner):
            return False
        keeper = _as_standing(store, sibling.task_id)
        if self.ownership.acquire(keeper, [sibling.task_id]):
            return False
        try:
            return self._undo(store, root, sibling)
        finally:
            self.ownership.release(keeper, [sibling.task_id])

    def _undo(self, store: LiveObject, root: DirectoryRoot, sibling: Sibling) -> bool:
        if self.ownership.is_named(store.key.namespace, sibling.task_id):
            return False
        try:
            if not root.undo(sibling.task_id, sibling.owner):
                return False
            root.sync()
        except Fault as fault:
            self.cluster.emit(store, type="Warning", reason=fault.reason, message=fault.message)
            return False
        message = f"the directory of {sibling.task_id} was put back: the request that had moved it aside is gone"
        self.cluster.emit(store, type="Normal", reason=reasons.DIRECTORY_PUT_BACK, message=message)
        return True

    def _exists(self, namespace: str, uid: str) -> bool:
        """Whether a request with this uid is still there, ended or not."""
        return any(live.uid == uid for live in self.cluster.list_objects(TaskDeletion.KIND, namespace))


def _as_standing(store: LiveObject, task_id: str) -> Standing:
    """The sweep as one that works on a task, so that no request claims it at the same moment."""
    none: frozenset[str] = frozenset()
    return Standing(
        key=store.key,
        uid=store.uid,
        store=store.key.name,
        created_at=store.created_at,
        named=frozenset([task_id]),
        deleting=none,
        claimed=none,
    )


def _count(left: Sequence[Sibling]) -> Leftovers:
    return Leftovers(
        claimed=sum(one.kind == "claimed" for one in left),
        deleting=sum(one.kind == "deleting" for one in left),
        examples=[one.name for one in left[:EXAMPLES]],
    )
