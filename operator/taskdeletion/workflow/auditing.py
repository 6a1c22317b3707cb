"""What an auditor reads a year later: one record per task, from the final status of a request.

Called by `workflow.deletion` at the end of a request, however it ended. Pure; `observe.audit` writes the lines.
"""

from taskdeletion.api.task_deletion import Resource, TaskStatus
from taskdeletion.domain.admission import UNKNOWN
from taskdeletion.observe.audit import AuditRecord
from taskdeletion.workflow.record import Record


def build_audit_records(record: Record) -> list[AuditRecord]:
    """One record per task, in the order of work."""
    return [_build(record, task) for task in record.tasks.values()]


def _build(record: Record, task: TaskStatus) -> AuditRecord:
    spec, status = record.spec, record.status
    resources = task.resources or []
    counts: dict[Resource, int] = {found.resource: found.count or 0 for found in resources}
    return AuditRecord(
        namespace=record.live.key.namespace,
        name=record.live.key.name,
        uid=record.live.uid,
        requester=status.requested_by or UNKNOWN,
        store=spec.store_ref.name,
        task_id=task.task_id,
        force=spec.force,
        delete_database_records=spec.delete_database_records,
        dry_run=spec.dry_run,
        outcome=task.state,
        reason=task.reason or "",
        files=counts.get("Directory", 0),
        bytes=sum(found.bytes or 0 for found in resources),
        redis_keys=counts.get("Redis", 0),
        objects=counts.get("MinIO", 0),
        records=counts.get("DatabaseRecords", 0),
        at_least=any(found.at_least for found in resources),
        attempts=status.attempts or 0,
        started_at=status.start_time,
        completed_at=status.completion_time,
    )
