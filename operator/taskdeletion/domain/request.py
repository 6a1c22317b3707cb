"""One TaskDeletion as the workflow decides on it: identity, options, and its limits in the catalog's clock. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from taskdeletion.api.task_deletion import TaskDeletionSpec

#: Times of the API server have whole seconds, so a difference of two of them can be off by one. Rounded to the safe
#: side: a task created in the last second before its request counts as newer.
CLOCK_RESOLUTION = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Request:
    """What one TaskDeletion asks for. `created_at`: its creationTimestamp, by the API server's clock."""

    namespace: str
    name: str
    uid: str
    created_at: datetime
    spec: TaskDeletionSpec

    @property
    def cleans_unknown(self) -> bool:
        """Whether residue of a task that the catalog does not know may go: only with force and Ignore together."""
        return self.spec.force and self.spec.not_found_policy == "Ignore"


def resolve_cutoff(request: Request, *, database_now: datetime, server_now: datetime) -> datetime:
    """The time before which a task must have been created, in the catalog's clock.

    `tasksCreatedBefore`, else the request's creation carried over into the catalog's clock: database now - (API
    server's now - creation). The operator's own clock decides nothing.
    """
    if request.spec.tasks_created_before is not None:
        return request.spec.tasks_created_before
    return database_now - (server_now - request.created_at) - CLOCK_RESOLUTION
