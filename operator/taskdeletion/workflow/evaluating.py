"""What a policy would take now: opens the store, lets every finished task of the catalog pass by, and selects.

Called by the workflow of policies, for previews and for runs. It reads, and has no effect.
"""

import threading
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

from taskdeletion.api import reasons
from taskdeletion.api.retention_policy import TaskRetentionPolicySpec
from taskdeletion.domain.catalog import Catalog
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.retention import Retention, Selected, Selection
from taskdeletion.workflow.stores import Stores

NO_TIME = timedelta(0)
_NEVER_GONE = (
    "the TaskStore names no directory, so no row ever says that its files are gone, and every run would take the same"
    " tasks; set template.deleteDatabaseRecords: true, or name a store with a directory"
)


class PolicyUnusable(Exception):  # noqa: N818 - it says what is the case
    """The policy cannot be carried out as it stands; somebody has to change it, or its store."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Evaluates policies. Thread-safe."""

    stores: Stores
    stopping: threading.Event

    def evaluate(
        self,
        namespace: str,
        spec: TaskRetentionPolicySpec,
        *,
        ahead: timedelta = NO_TIME,
        busy: Collection[str] = frozenset(),
        probed: bool = True,
    ) -> Selected:
        """What the policy takes. `ahead`: tasks are that much older; `busy`: ids that stay; `probed`: store is whole.

        Raises Fault, PolicyUnusable.
        """
        retention = _read(spec)
        opening = self.stores.open if probed else self.stores.open_unprobed
        with ExitStack() as stack:
            store = stack.enter_context(opening(namespace, spec.store_ref.name))
            if store.catalog is None or store.spec.catalog is None:
                message = (
                    f"TaskStore {store.name} has no catalog, so nothing is known of its tasks; name a store with one"
                )
                raise PolicyUnusable(reasons.CATALOG_REQUIRED, message)
            terminal = store.spec.catalog.terminal_statuses
            _require_terminal(spec, terminal, store.name)
            if store.catalog.keeps_entries and store.spec.directory is None and not retention.with_gone:
                raise PolicyUnusable(reasons.INVALID_SPEC, _NEVER_GONE)
            return replace(self._select(store.catalog, terminal, retention, ahead, busy), store_uid=store.uid)

    def _select(
        self,
        catalog: Catalog,
        terminal_statuses: Collection[str],
        retention: Retention,
        ahead: timedelta,
        busy: Collection[str],
    ) -> Selected:
        with catalog.survey(terminal_statuses, with_gone=retention.with_gone) as survey:
            selection = Selection(retention, survey.now + ahead, busy)
            for page in survey.pages():
                if self.stopping.is_set():
                    raise Fault("waiting", reasons.INTERRUPTED, "the operator stops; the policy is evaluated again")
                for task in page:
                    selection.offer(task)
            return selection.result(with_files=survey.with_files)


def _read(spec: TaskRetentionPolicySpec) -> Retention:
    try:
        return Retention.of(spec)
    except ValueError as error:
        raise PolicyUnusable(reasons.INVALID_SPEC, str(error)) from None


def _require_terminal(spec: TaskRetentionPolicySpec, terminal: Collection[str], store: str) -> None:
    wrong = [
        f"spec.rules[{number}].statuses: {status!r}"
        for number, rule in enumerate(spec.rules)
        for status in rule.statuses or ()
        if status not in terminal
    ]
    if wrong:
        are, known = "is no terminal status" if len(wrong) == 1 else "are no terminal statuses", sorted(terminal)
        message = (
            f"{', '.join(wrong)} {are} of TaskStore {store}, which has {', '.join(known)}; a policy takes finished"
            " tasks only"
        )
        raise PolicyUnusable(reasons.INVALID_SPEC, message)
