"""Keeps the stored object bounded: messages are shortened, evenly, until the status fits. Pure.

500 ids of 128 characters that all fail with the longest message stay under 512 KiB for the whole stored object: the
ids stand in the spec, in kubectl's last-applied annotation and in the status, and the API server adds managedFields.
"""

import json
from typing import Any

from taskdeletion.domain.outcomes import shorten

#: What a status may take, in bytes of JSON, so that spec, annotation and managedFields fit beside it.
STATUS_LIMIT_BYTES = 330 * 1024
_MESSAGE_LIMITS = (256, 192, 128, 96, 64, 48, 32, 16, 0)


def size_of(value: Any) -> int:
    """Bytes of `value` as compact JSON in UTF-8."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def fit_status(status: dict[str, Any], limit_bytes: int = STATUS_LIMIT_BYTES) -> dict[str, Any]:
    """`status` with the messages of tasks and resources no longer than needed; reasons and counts always stay."""
    if size_of(status) <= limit_bytes:
        return status
    for limit in _MESSAGE_LIMITS[1:]:
        shorter = {**status, "tasks": [_shorten_task(task, limit) for task in status.get("tasks", [])]}
        if size_of(shorter) <= limit_bytes:
            return shorter
    return shorter


def _shorten_task(task: dict[str, Any], limit: int) -> dict[str, Any]:
    short = _shorten_message(task, limit)
    if "resources" in task:
        short["resources"] = [_shorten_message(found, limit) for found in task["resources"]]
    return short


def _shorten_message(item: dict[str, Any], limit: int) -> dict[str, Any]:
    if "message" not in item:
        return dict(item)
    message = shorten(item["message"], limit)
    return {**item, "message": message} if message else {key: item[key] for key in item if key != "message"}


def seconds_between_progress_writes(status_bytes: int) -> float:
    """Seconds between two progress writes of one object: 2 for a small status, growing by one per 16 KiB."""
    return 2.0 + status_bytes / 16384
