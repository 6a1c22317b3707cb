"""Sums over the tasks of a request, its progress, and its phase."""

from collections.abc import Sequence

import pytest

from taskdeletion.api.task_deletion import Phase, Resource, ResourceStatus, Summary, TaskState, TaskStatus
from taskdeletion.domain.outcomes import FINAL_STATES
from taskdeletion.domain.summary import build_summary, decide_phase, format_progress


def task(state: TaskState, *resources: tuple[Resource, int, int]) -> TaskStatus:
    outcome = "WouldDelete" if state == "WouldDelete" else "Deleted"
    found = [ResourceStatus(resource=name, outcome=outcome, count=n, bytes=size) for name, n, size in resources]
    return TaskStatus(task_id="t", state=state, resources=found or None)


ALL_RESOURCES: tuple[tuple[Resource, int, int], ...] = (
    ("Directory", 15, 2_000_000),
    ("Redis", 4, 0),
    ("MinIO", 3, 600_000),
    ("DatabaseRecords", 6, 0),
)


def test_sums_go_over_all_tasks_and_bytes_over_directories_and_objects() -> None:
    tasks = [task("Deleted", *ALL_RESOURCES), task("PartiallyFailed", ("Directory", 1, 21_440)), task("Pending")]

    assert build_summary(tasks, dry_run=False) == Summary(
        requested=3,
        deleted=1,
        failed=1,
        files_deleted=16,
        bytes_freed=2_621_440,
        size_freed="2.6 MB",
        redis_keys_deleted=4,
        objects_deleted=3,
        records_deleted=6,
    )


def test_a_dry_run_counts_apart_and_the_real_counters_stay_zero() -> None:
    summary = build_summary([task("WouldDelete", *ALL_RESOURCES), task("Refused")], dry_run=True)

    assert summary == Summary(
        requested=2,
        refused=1,
        would_delete=1,
        would_free_files=15,
        would_free_bytes=2_600_000,
        would_free_redis_keys=4,
        would_free_objects=3,
        would_free_records=6,
    )
    assert (summary.files_deleted, summary.bytes_freed, summary.size_freed) == (0, 0, "0 B")


def test_a_real_run_has_no_dry_run_counters() -> None:
    summary = build_summary([task("Deleted", *ALL_RESOURCES)], dry_run=False)

    assert not [name for name in summary.to_api() if name.startswith("would")]


@pytest.mark.parametrize(
    ("state", "field"),
    [
        ("Deleted", "deleted"),
        ("NotAttempted", "skipped"),
        ("Refused", "refused"),
        ("Failed", "failed"),
        ("PartiallyFailed", "failed"),
        ("NotFound", "not_found"),
    ],
)
def test_each_state_is_counted_in_one_place(state: TaskState, field: str) -> None:
    counts = build_summary([task(state), task("Pending"), task("Deleting")], dry_run=False).model_dump()

    names = ("deleted", "skipped", "refused", "failed", "not_found")
    assert {name: counts[name] for name in names} == {name: int(name == field) for name in names}


def test_an_empty_request_has_an_empty_summary() -> None:
    assert build_summary([], dry_run=False) == Summary()


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param([], "0/0", id="nothing"),
        pytest.param(["Pending", "Deleting"], "0/2", id="none final"),
        pytest.param(
            [*sorted(FINAL_STATES), "Pending"], f"{len(FINAL_STATES)}/{len(FINAL_STATES) + 1}", id="all final"
        ),
    ],
)
def test_progress_counts_final_tasks(states: Sequence[TaskState], expected: str) -> None:
    assert format_progress([task(state) for state in states]) == expected


@pytest.mark.parametrize(
    ("states", "fail", "ignore"),
    [
        pytest.param(["Deleted", "Deleted"], "Succeeded", "Succeeded", id="all deleted"),
        pytest.param(["WouldDelete"], "Succeeded", "Succeeded", id="dry run"),
        pytest.param(["NotFound"], "Failed", "Succeeded", id="not found alone"),
        pytest.param(["Deleted", "NotFound"], "PartiallyFailed", "Succeeded", id="deleted and not found"),
        pytest.param(["Refused", "NotFound"], "Failed", "PartiallyFailed", id="refused and not found"),
        pytest.param(["Deleted", "Refused"], "PartiallyFailed", "PartiallyFailed", id="refused counts as not done"),
        pytest.param(["Refused"], "Failed", "Failed", id="refused alone"),
        pytest.param(["Failed", "NotAttempted"], "Failed", "Failed", id="none done"),
        pytest.param(["PartiallyFailed"], "PartiallyFailed", "PartiallyFailed", id="one task in part"),
        pytest.param(["PartiallyFailed", "Failed"], "PartiallyFailed", "PartiallyFailed", id="in part and not at all"),
        pytest.param(["Deleted", "NotAttempted"], "PartiallyFailed", "PartiallyFailed", id="stopped on error"),
    ],
)
def test_the_phase_of_a_request_follows_from_the_states_of_its_tasks(
    states: Sequence[TaskState], fail: Phase, ignore: Phase
) -> None:
    tasks = [task(state) for state in states]

    assert decide_phase(tasks, ignore_not_found=False) == fail
    assert decide_phase(tasks, ignore_not_found=True) == ignore
