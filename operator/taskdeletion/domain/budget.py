"""Keeps the stored object bounded: what people need least goes first, until the status fits. Pure.

500 ids of 128 characters that all fail with the longest message stay under 512 KiB for the whole stored object: the
ids stand in the spec, in kubectl's last-applied annotation and in the status, and the API server adds managedFields.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from taskdeletion.domain.outcomes import FINAL_STATES, shorten

#: What a status may take, in bytes as stored. Of 512 KiB (524288) the rest of the object takes 203300 at most, with
#: 500 ids of 128 characters: 131 bytes per id in the spec, 133 in the annotation, 140 in the managedFields of a set,
#: and 1300 for everything else. 1500 go to the managedFields of the status, 4000 to labels and annotations of others.
STATUS_LIMIT_BYTES = 524288 - 203300 - 1500 - 4000
_MESSAGE_LIMITS = (192, 128, 96, 64, 48, 32, 16, 0)
#: What the API server writes as an escape of six bytes, and how many more these are than in UTF-8.
_ESCAPED = {"<": 5, ">": 5, "&": 5, "\u2028": 3, "\u2029": 3}
Item = dict[str, Any]


def size_of(value: Any) -> int:
    """Bytes of `value` as the API server stores it: compact JSON in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + sum(text.count(character) * more for character, more in _ESCAPED.items())


def fit_status(status: dict[str, Any], limit_bytes: int = STATUS_LIMIT_BYTES) -> dict[str, Any]:
    """`status` without what does not fit. The states, reasons and counts of tasks and their resources always stay."""
    for key, shrink in _shrinkings():
        if size_of(status) <= limit_bytes:
            break
        if key in status:
            status = {**status, key: [shrink(item) for item in status[key]]}
    return status


def _shrinkings() -> Iterator[tuple[str, Callable[[Item], Item]]]:
    """What is given up, one after the other: the list in the status, and what becomes of each of its items."""
    yield "tasks", _drop_spent
    yield "conditions", partial(_shorten_message, limit=_MESSAGE_LIMITS[0])
    for limit in _MESSAGE_LIMITS:
        yield "tasks", partial(_shorten_messages, limit=limit)
    yield "tasks", _drop_derived


def _drop_spent(task: Item) -> Item:
    """Nothing more happens to a final task: what only the next attempt needs, and flags that are false."""
    if task["state"] not in FINAL_STATES:
        return task
    spent = {"version", "claimed"} | {name for name, value in task.items() if value is False}
    return _change_resources(_without(task, spent), lambda found: _without(found, {"retriable"}))


def _drop_derived(task: Item) -> Item:
    """What the counts of the resource Directory, and the completion of the request, say as well."""
    derived = {"deletedFilesCount", "deletedSize"} if "resources" in task else set()
    return _without(task, derived if task["state"] == "Deleted" else derived | {"deletedAt"})


def _shorten_messages(task: Item, limit: int) -> Item:
    return _change_resources(_shorten_message(task, limit), lambda found: _shorten_message(found, limit))


def _shorten_message(item: Item, limit: int) -> Item:
    if "message" not in item:
        return item
    message = shorten(item["message"], limit)
    return {**item, "message": message} if message else _without(item, {"message"})


def _change_resources(task: Item, change: Callable[[Item], Item]) -> Item:
    if "resources" not in task:
        return task
    return {**task, "resources": [change(found) for found in task["resources"]]}


def _without(item: Mapping[str, Any], names: set[str]) -> Item:
    return {name: value for name, value in item.items() if name not in names}


def seconds_between_progress_writes(status_bytes: int) -> float:
    """Seconds between two progress writes of one object: 2 for a small status, growing by one per 16 KiB."""
    return 2.0 + status_bytes / 16384
