"""The audit line: what became of one task of one request, once, for whoever must answer "who deleted this?" later.

Written by `workflow` when a task reaches its end. It holds ids, reasons and counts; never file names, paths, messages
or secrets, so that it may be kept longer and shown to more people than the data itself.
"""

import logging
from dataclasses import asdict, dataclass
from datetime import datetime

from taskdeletion.api.common import format_time
from taskdeletion.api.task_deletion import TaskState
from taskdeletion.observe.logging import AUDIT_LOGGER, about

log = logging.getLogger(AUDIT_LOGGER)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One task of one TaskDeletion. `namespace`, `name` and `uid` are the request's; counts are what was deleted.

    `bytes`: freed in the directory and the object store. `at_least`: a crash made the counts uncertain. `attempts`: of
    the request. Times are aware, by the API server's clock.
    """

    namespace: str
    name: str
    uid: str
    requester: str = "unknown"
    store: str
    task_id: str
    force: bool
    delete_database_records: bool
    dry_run: bool
    outcome: TaskState
    reason: str = ""
    files: int = 0
    bytes: int = 0
    redis_keys: int = 0
    objects: int = 0
    records: int = 0
    at_least: bool = False
    attempts: int = 0
    started_at: datetime | None = None
    completed_at: datetime | None = None


def write_audit(record: AuditRecord) -> None:
    """Write exactly one line: the record's fields on logger `taskdeletion.audit`, with the message "audit"."""
    fields = asdict(record)
    for key in ("started_at", "completed_at"):
        fields[key] = format_time(fields[key]) if fields[key] is not None else None
    log.info("audit", extra=about(**fields))
