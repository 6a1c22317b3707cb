"""What is given up where a status would grow too large, in which order, and what never is."""

import json
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome, ResourceStatus, TaskDeletionStatus, TaskState, TaskStatus
from taskdeletion.domain.budget import STATUS_LIMIT_BYTES, fit_status, seconds_between_progress_writes, size_of
from taskdeletion.domain.outcomes import RESOURCE_ORDER

WORST_MESSAGE = ('<&>"\\\u2028é日😀' * 32)[:256]
VERSION = "2025-07-02T17:39:32.123456+00:00|partial_completed|2025-07-02T21:45:30.123456+00:00"


def build_task(number: int, state: TaskState = "PartiallyFailed", *, message: str = WORST_MESSAGE) -> TaskStatus:
    final = state != "Deleting"
    return TaskStatus(
        task_id=f"task_{number:03d}_".ljust(128, "x"),
        state=state,
        reason=reasons.BACKOFF_LIMIT_EXCEEDED,
        message=message,
        version=VERSION,
        claimed=True,
        directory_deleted=False if final else None,
        database_records_deleted=False if final else None,
        deleted_files_count=9_999_999,
        deleted_size="999.9 GB",
        deleted_at=datetime(2025, 7, 2, tzinfo=UTC) if final else None,
        resources=[
            ResourceStatus(
                resource=resource,
                outcome="Failed",
                reason=reasons.FOREIGN_KEY_REFERENCES,
                message=message,
                retriable=True,
                count=9_999_999,
                bytes=9_999_999_999_999 if resource in ("Directory", "MinIO") else None,
            )
            for resource in RESOURCE_ORDER
        ],
    )


def build_status(tasks: int, state: TaskState = "PartiallyFailed", message: str = WORST_MESSAGE) -> dict[str, Any]:
    return TaskDeletionStatus(tasks=[build_task(number, state, message=message) for number in range(tasks)]).to_api()


def essence(status: dict[str, Any]) -> list[Any]:
    """What always stays."""
    kept = ("resource", "outcome", "reason", "count", "bytes", "atLeast")
    return [
        (
            task["taskId"],
            task["state"],
            task["reason"],
            [[found.get(name) for name in kept] for found in task["resources"]],
        )
        for task in status["tasks"]
    ]


def lengths(status: dict[str, Any]) -> set[int]:
    tasks: list[Any] = status["tasks"]
    items = [*tasks, *(found for task in tasks for found in task["resources"])]
    return {len(item.get("message", "")) for item in items}


def test_a_status_that_fits_stays_as_it_is() -> None:
    status = build_status(1)

    assert fit_status(status) is status
    assert fit_status(status, limit_bytes=size_of(status)) is status
    assert fit_status({"phase": "Pending"}) == {"phase": "Pending"}


def test_the_worst_case_fits_and_keeps_states_reasons_and_counts() -> None:
    status = build_status(500)
    fitted = fit_status(status)

    assert size_of(status) > 4 * STATUS_LIMIT_BYTES
    assert size_of(fitted) <= STATUS_LIMIT_BYTES
    assert essence(fitted) == essence(status)


def test_every_status_that_was_made_to_fit_is_still_valid() -> None:
    for limit in range(0, 40_000, 4000):
        TaskDeletionStatus.model_validate(fit_status(build_status(10), limit_bytes=limit))


def test_less_room_never_keeps_more_and_the_essence_always_stays() -> None:
    status = build_status(10)
    fitted = [fit_status(status, limit_bytes=limit) for limit in range(size_of(status), 0, -3000)]

    assert all(size_of(more) >= size_of(less) for more, less in pairwise(fitted))
    assert all(essence(found) == essence(status) for found in fitted)


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.3])
def test_messages_are_shortened_evenly_and_no_more_than_needed(share: float) -> None:
    status = build_status(20)
    limit = int(size_of(status) * share)
    fitted = fit_status(status, limit_bytes=limit)

    assert size_of(fitted) <= limit
    assert len(lengths(fitted)) == 1
    assert 16 <= lengths(fitted).pop() < 256
    assert "deletedFilesCount" in fitted["tasks"][0]


def test_what_only_the_next_attempt_needs_goes_first_and_only_from_final_tasks() -> None:
    open_task, final = build_task(1, "Deleting").to_api(), build_task(2).to_api()
    status = {"tasks": [open_task, final]}
    fitted = fit_status(status, limit_bytes=size_of(status) - 1)

    assert fitted["tasks"][0] == open_task
    assert {"version", "claimed", "directoryDeleted", "databaseRecordsDeleted"}.isdisjoint(fitted["tasks"][1])
    assert lengths(fitted) == {256}


def test_an_open_task_keeps_what_its_next_attempt_needs_whatever_the_room() -> None:
    task = fit_status(build_status(1, "Deleting"), limit_bytes=0)["tasks"][0]

    assert (task["version"], task["claimed"]) == (VERSION, True)
    assert all(found["retriable"] for found in task["resources"])


@pytest.mark.parametrize(("state", "stays"), [("Deleted", True), ("PartiallyFailed", False)])
def test_the_time_stays_with_tasks_that_were_deleted(state: TaskState, stays: bool) -> None:
    task = fit_status(build_status(1, state), limit_bytes=0)["tasks"][0]

    assert ("deletedAt" in task) is stays


def test_a_flag_that_is_true_stays() -> None:
    task = build_task(1).model_copy(update={"directory_deleted": True}).to_api()

    assert fit_status({"tasks": [task]}, limit_bytes=0)["tasks"][0]["directoryDeleted"] is True


def test_counts_of_files_stay_where_no_resource_has_them() -> None:
    task = TaskStatus(task_id="t", state="Deleted", deleted_files_count=3, deleted_size="1 B").to_api()

    assert fit_status({"tasks": [task]}, limit_bytes=0) == {"tasks": [task]}


def test_what_was_given_is_never_changed() -> None:
    status = build_status(3)
    before = json.dumps(status)
    fit_status(status, limit_bytes=0)

    assert json.dumps(status) == before


@pytest.mark.parametrize(
    ("value", "size"),
    [
        pytest.param({"a": [1, "b"]}, 13, id="compact"),
        pytest.param("é", 4, id="two bytes of UTF-8"),
        pytest.param("日", 5, id="three bytes"),
        pytest.param("😀", 6, id="four bytes"),
        pytest.param('"\\', 6, id="quote and backslash"),
        pytest.param("\n\x01", 10, id="control characters"),
        pytest.param("<", 8, id="less than, as the API server writes it"),
        pytest.param("&>", 14, id="ampersand and greater than"),
        pytest.param("\u2028", 8, id="line separator"),
    ],
)
def test_sizes_are_those_of_the_stored_json(value: Any, size: int) -> None:
    assert size_of(value) == size


@pytest.mark.parametrize(("size", "seconds"), [(0, 2.0), (16384, 3.0), (330 * 1024, 22.625)])
def test_large_statuses_are_written_less_often(size: int, seconds: float) -> None:
    assert seconds_between_progress_writes(size) == seconds


def test_no_outcome_of_a_failure_is_ever_lost() -> None:
    outcomes: list[Outcome] = ["Retained", "NotAttempted", "Skipped"]
    found = [ResourceStatus(resource="MinIO", outcome=one, reason=reasons.ABSENT) for one in outcomes]
    status = TaskDeletionStatus(tasks=[TaskStatus(task_id="t", state="Failed", resources=found)]).to_api()

    assert fit_status(status, limit_bytes=0)["tasks"] == status["tasks"]


def test_messages_of_conditions_are_shortened_before_those_of_tasks_and_stay() -> None:
    condition = {"type": "Ready", "status": "False", "reason": "Why", "message": "m" * 1024}
    status = {**build_status(2), "conditions": [condition]}
    size = size_of({**status, "tasks": fit_status(build_status(2), limit_bytes=size_of(build_status(2)) - 1)["tasks"]})

    assert fit_status(status, limit_bytes=size)["conditions"] == [condition]
    fitted = fit_status(status, limit_bytes=size - 1)
    assert lengths(fitted) == {256}
    assert [len(found["message"]) for found in fitted["conditions"]] == [192]
    assert len(fit_status(status, limit_bytes=0)["conditions"][0]["message"]) == 192
