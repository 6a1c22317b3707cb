"""Sums and one-word verdicts over the tasks of a request. Pure."""

from collections.abc import Callable, Sequence

from taskdeletion.api.task_deletion import Phase, Resource, ResourceStatus, Summary, TaskState, TaskStatus
from taskdeletion.domain.outcomes import is_final
from taskdeletion.domain.sizes import format_size


def build_summary(tasks: Sequence[TaskStatus], *, dry_run: bool) -> Summary:
    """The sums; those of a dry run go to the wouldFree fields, and the others stay 0."""
    states = [task.state for task in tasks]
    files = _total(tasks, "Directory", _count)
    freed = _total(tasks, "Directory", _bytes) + _total(tasks, "MinIO", _bytes)
    keys, objects = _total(tasks, "Redis", _count), _total(tasks, "MinIO", _count)
    records = _total(tasks, "DatabaseRecords", _count)
    states_only = Summary(
        requested=len(tasks),
        deleted=states.count("Deleted"),
        skipped=states.count("NotAttempted"),
        refused=states.count("Refused"),
        failed=states.count("Failed") + states.count("PartiallyFailed"),
        not_found=states.count("NotFound"),
    )
    if dry_run:
        return states_only.model_copy(
            update={
                "would_delete": states.count("WouldDelete"),
                "would_free_files": files,
                "would_free_bytes": freed,
                "would_free_redis_keys": keys,
                "would_free_objects": objects,
                "would_free_records": records,
            }
        )
    return states_only.model_copy(
        update={
            "files_deleted": files,
            "bytes_freed": freed,
            "size_freed": format_size(freed),
            "redis_keys_deleted": keys,
            "objects_deleted": objects,
            "records_deleted": records,
        }
    )


def _count(found: ResourceStatus) -> int:
    return found.count or 0


def _bytes(found: ResourceStatus) -> int:
    return found.bytes or 0


def _total(tasks: Sequence[TaskStatus], resource: Resource, value: Callable[[ResourceStatus], int]) -> int:
    return sum(value(found) for task in tasks for found in task.resources or [] if found.resource == resource)


def format_progress(tasks: Sequence[TaskStatus]) -> str:
    """`3/5`: tasks in a final state, of all."""
    return f"{sum(map(is_final, tasks))}/{len(tasks)}"


def decide_phase(tasks: Sequence[TaskStatus], *, ignore_not_found: bool) -> Phase:
    """The phase of a request whose tasks are all final."""
    good: set[TaskState] = {"Deleted", "WouldDelete"}
    if ignore_not_found:
        good.add("NotFound")
    done = sum(task.state in good for task in tasks)
    if done == len(tasks):
        return "Succeeded"
    partly = done or any(task.state == "PartiallyFailed" for task in tasks)
    return "PartiallyFailed" if partly else "Failed"
