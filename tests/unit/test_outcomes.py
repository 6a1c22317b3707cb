"""From the results of attempts to the status of a task: what is added up, what decides, what is said."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from taskdeletion.api import reasons
from taskdeletion.api.task_deletion import Outcome, Resource, ResourceStatus, TaskStatus
from taskdeletion.domain.claims import Refusal
from taskdeletion.domain.faults import Fault, FaultKind
from taskdeletion.domain.outcomes import (
    conclude,
    decisive_reason,
    fail,
    fold_results,
    has_retriable,
    is_final,
    postpone,
    refuse,
    shorten,
)
from taskdeletion.domain.results import StepResult

NOW = datetime(2025, 7, 2, 21, 45, 30, tzinfo=UTC)
OPEN = TaskStatus(task_id="task_1", state="Deleting", version="v", claimed=True)


def failed(
    resource: Resource,
    kind: FaultKind = "retriable",
    reason: str = reasons.TIMEOUT,
    *,
    count: int = 0,
    freed: int = 0,
    message: str = "why",
) -> StepResult:
    return StepResult.failed("task_1", resource, Fault(kind, reason, message), count=count, bytes=freed)


def result(
    resource: Resource,
    outcome: Outcome,
    reason: str = "",
    *,
    count: int = 0,
    freed: int = 0,
    at_least: bool = False,
    message: str = "",
) -> StepResult:
    return StepResult("task_1", resource, outcome, reason, message, None, count, freed, at_least)


def fold(
    *attempts: Sequence[StepResult], task: TaskStatus = OPEN, uncertain: bool = False, dry_run: bool = False
) -> TaskStatus:
    for results in attempts:
        task = fold_results(task, results, uncertain=uncertain, dry_run=dry_run)
    return task


def only(task: TaskStatus) -> ResourceStatus:
    assert task.resources is not None
    assert len(task.resources) == 1
    return task.resources[0]


def resource(name: Resource, outcome: Outcome, **fields: object) -> ResourceStatus:
    return ResourceStatus.model_validate({"resource": name, "outcome": outcome, **fields})


ABSENT = result("Directory", "Skipped", reasons.ABSENT)


@pytest.mark.parametrize(
    ("attempts", "expected"),
    [
        pytest.param(
            [[result("Directory", "Deleted", count=15, freed=99)]],
            resource("Directory", "Deleted", count=15, bytes=99),
            id="deleted",
        ),
        pytest.param(
            [[result("Directory", "Deleted")]],
            resource("Directory", "Deleted", count=0, bytes=0),
            id="an empty directory",
        ),
        pytest.param(
            [[result("Redis", "Deleted", count=2)]], resource("Redis", "Deleted", count=2), id="keys have no bytes"
        ),
        pytest.param([[ABSENT]], resource("Directory", "Skipped", reason=reasons.ABSENT), id="absent"),
        pytest.param(
            [[failed("MinIO", count=3, freed=30)]],
            resource("MinIO", "Failed", reason=reasons.TIMEOUT, message="why", retriable=True, count=3, bytes=30),
            id="a failure keeps what was deleted before it",
        ),
        pytest.param(
            [[failed("MinIO", "permanent")]],
            resource("MinIO", "Failed", reason=reasons.TIMEOUT, message="why"),
            id="a permanent failure is not retriable",
        ),
        pytest.param(
            [[failed("Redis", "waiting")]],
            resource("Redis", "Failed", reason=reasons.TIMEOUT, message="why", retriable=True),
            id="what passes by itself is retriable",
        ),
        pytest.param(
            [[failed("Directory", count=3, freed=30)], [result("Directory", "Deleted", count=2, freed=20)]],
            resource("Directory", "Deleted", count=5, bytes=50),
            id="the counts of two attempts are added",
        ),
        pytest.param(
            [[failed("Directory", count=3, freed=30)], [ABSENT]],
            resource("Directory", "Deleted", count=3, bytes=30),
            id="absent after earlier counts is deleted",
        ),
        pytest.param(
            [[failed("Redis")], [result("Redis", "Skipped", reasons.ABSENT)]],
            resource("Redis", "Skipped", reason=reasons.ABSENT),
            id="absent after a failure that had deleted nothing",
        ),
        pytest.param(
            [[failed("MinIO", count=1, freed=1)], [failed("MinIO", count=1, freed=1)], [failed("MinIO")]],
            resource("MinIO", "Failed", reason=reasons.TIMEOUT, message="why", retriable=True, count=2, bytes=2),
            id="three failures",
        ),
        pytest.param(
            [[result("MinIO", "Retained", reasons.OBJECT_LOCKED, count=4, freed=40, message="1 version is locked")]],
            resource(
                "MinIO",
                "Retained",
                reason=reasons.OBJECT_LOCKED,
                message="1 version is locked",
                count=4,
                bytes=40,
            ),
            id="retained",
        ),
        pytest.param(
            [[result("Redis", "Deleted", count=2, at_least=True)], [result("Redis", "Deleted", count=1)]],
            resource("Redis", "Deleted", count=3, atLeast=True),
            id="uncertain once, uncertain for good",
        ),
        pytest.param(
            [
                [
                    result("Directory", "Deleted", count=15, freed=99),
                    failed("Directory", "permanent", reasons.DIRECTORY_REAPPEARED),
                ]
            ],
            resource("Directory", "Failed", reason=reasons.DIRECTORY_REAPPEARED, message="why", count=15, bytes=99),
            id="read back after the purge",
        ),
        pytest.param(
            [[result("DatabaseRecords", "NotAttempted", reasons.NOT_EMPTY)]],
            resource("DatabaseRecords", "NotAttempted", reason=reasons.NOT_EMPTY),
            id="not attempted",
        ),
    ],
)
def test_results_are_folded_over_attempts(attempts: list[list[StepResult]], expected: ResourceStatus) -> None:
    assert only(fold(*attempts)) == expected


@pytest.mark.parametrize(
    ("found", "at_least"),
    [
        pytest.param(result("Directory", "Deleted", count=2), True, id="deleted"),
        pytest.param(ABSENT, True, id="absent: it may have gone before the crash"),
        pytest.param(failed("Directory", count=1), True, id="failed"),
        pytest.param(result("DatabaseRecords", "Skipped", reasons.KEPT_BY_REQUEST), None, id="rows that stay"),
        pytest.param(result("DatabaseRecords", "NotAttempted", reasons.NOT_EMPTY), None, id="not attempted"),
    ],
)
def test_after_a_crash_counts_are_lower_bounds(found: StepResult, at_least: bool | None) -> None:
    assert only(fold([found], uncertain=True)).at_least is at_least


def test_resources_stand_in_the_order_of_work_and_others_stay() -> None:
    task = fold(
        [result("DatabaseRecords", "Skipped", reasons.KEPT_BY_REQUEST), failed("MinIO")],
        [result("MinIO", "Deleted", count=1), ABSENT],
        [result("Redis", "Deleted", count=1)],
    )

    assert [found.resource for found in task.resources or []] == ["Directory", "Redis", "MinIO", "DatabaseRecords"]


def test_the_directory_is_described_for_people() -> None:
    task = fold([result("Directory", "Deleted", count=15, freed=2_621_440)])

    assert (task.deleted_files_count, task.deleted_size) == (15, "2.6 MB")


def test_a_dry_run_counts_anew_with_every_attempt() -> None:
    first = [result("Directory", "WouldDelete", count=15, freed=99), failed("MinIO", count=1)]
    second = [result("Directory", "WouldDelete", count=15, freed=99), result("MinIO", "WouldDelete", count=3)]

    task = fold(first, second, dry_run=True)

    assert [(found.count, found.outcome) for found in task.resources or []] == [(15, "WouldDelete"), (3, "WouldDelete")]


def test_a_dry_run_says_nothing_of_deleted_files() -> None:
    task = conclude(fold([failed("Directory", count=7)], dry_run=True), NOW, dry_run=True)

    assert (task.deleted_files_count, task.deleted_size, task.directory_deleted) == (None, None, None)


GONE = [result("Directory", "Deleted", count=1), result("Redis", "Skipped", reasons.ABSENT)]
KEPT = result("DatabaseRecords", "Skipped", reasons.KEPT_BY_REQUEST)


@pytest.mark.parametrize(
    ("results", "state", "reason"),
    [
        pytest.param([], "Deleted", None, id="nothing to look at"),
        pytest.param([*GONE, KEPT], "Deleted", None, id="everything gone, rows kept"),
        pytest.param([ABSENT], "Deleted", None, id="nothing was there"),
        pytest.param([failed("Redis", "permanent")], "Failed", reasons.TIMEOUT, id="one failure and nothing deleted"),
        pytest.param([*GONE, failed("MinIO")], "PartiallyFailed", reasons.TIMEOUT, id="one gone, one failed"),
        pytest.param(
            [result("Directory", "Deleted"), failed("MinIO")],
            "PartiallyFailed",
            reasons.TIMEOUT,
            id="an empty directory gone, one failed",
        ),
        pytest.param([failed("MinIO", count=1)], "PartiallyFailed", reasons.TIMEOUT, id="a failure half way"),
        pytest.param([ABSENT, failed("MinIO")], "Failed", reasons.TIMEOUT, id="absent is not deleted"),
        pytest.param(
            [*GONE, result("MinIO", "Retained", reasons.OBJECT_LOCKED)],
            "PartiallyFailed",
            reasons.OBJECT_LOCKED,
            id="retained counts as not done",
        ),
        pytest.param(
            [*GONE, result("DatabaseRecords", "NotAttempted", reasons.NOT_EMPTY)],
            "PartiallyFailed",
            reasons.NOT_EMPTY,
            id="rows not attempted",
        ),
        pytest.param(
            [failed("Redis", "permanent", reasons.READ_ONLY), failed("MinIO", "permanent", reasons.PERMISSION_DENIED)],
            "Failed",
            reasons.READ_ONLY,
            id="the first failure gives the reason",
        ),
        *(
            pytest.param(
                [*GONE, failed("MinIO"), failed("Redis", "permanent", reason)],
                state,
                reason,
                id=f"{reason} decides, whatever else was deleted",
            )
            for reason, state in [
                (reasons.TASK_RESTARTED, "Failed"),
                (reasons.CATALOG_ENTRY_GONE, "Failed"),
                (reasons.RENAME_NOT_UNDONE, "Failed"),
                (reasons.DIRECTORY_REAPPEARED, "PartiallyFailed"),
            ]
        ),
    ],
)
def test_a_task_is_concluded(results: list[StepResult], state: str, reason: str | None) -> None:
    task = conclude(fold(results), NOW, dry_run=False)

    assert (task.state, task.reason) == (state, reason)
    assert is_final(task)
    assert (task.message is None) == (reason is None)


def test_a_dry_run_ends_as_would_delete() -> None:
    task = conclude(fold([result("Directory", "WouldDelete", count=3)], dry_run=True), NOW, dry_run=True)

    assert (task.state, task.directory_deleted, task.deleted_at) == ("WouldDelete", None, None)


def test_the_message_names_every_failure() -> None:
    task = conclude(fold([failed("Redis", message="a"), failed("MinIO", message="")]), NOW, dry_run=False)

    assert task.message == f"Redis: a; MinIO: {reasons.TIMEOUT}"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(result("Directory", "Deleted"), (True, None), id="directory deleted"),
        pytest.param(ABSENT, (True, None), id="directory absent"),
        pytest.param(failed("Directory", count=5), (False, None), id="directory half deleted"),
        pytest.param(result("Redis", "Deleted", count=1), (None, None), id="no directory in this store"),
        pytest.param(result("DatabaseRecords", "Deleted", count=2), (None, True), id="rows deleted"),
        pytest.param(result("DatabaseRecords", "Skipped", reasons.ABSENT), (None, True), id="rows absent"),
        pytest.param(KEPT, (None, False), id="rows kept"),
        pytest.param(result("DatabaseRecords", "NotAttempted", reasons.NOT_EMPTY), (None, False), id="rows not tried"),
    ],
)
@pytest.mark.parametrize("ending", ["concluded", "failed by a limit"])
def test_flags_say_what_is_gone(found: StepResult, expected: tuple[bool | None, bool | None], ending: str) -> None:
    task = fold([found])
    if ending == "concluded":
        task = conclude(task, NOW, dry_run=False)
    else:
        task = fail(task, reason=reasons.BACKOFF_LIMIT_EXCEEDED, message="enough", at=NOW, dry_run=False)

    assert (task.directory_deleted, task.database_records_deleted) == expected


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        pytest.param([failed("Redis", "retriable")], True, id="retriable"),
        pytest.param([failed("Redis", "waiting")], True, id="waiting"),
        pytest.param([failed("Redis", "permanent")], False, id="permanent"),
        pytest.param([failed("Redis", "permanent"), failed("MinIO")], True, id="one of two is retriable"),
        pytest.param(
            [failed("Redis", "permanent", reasons.TASK_RESTARTED), failed("MinIO")], False, id="a decisive one ends it"
        ),
        pytest.param(GONE, False, id="no failure"),
    ],
)
def test_a_retriable_failure_leaves_the_task_open(results: list[StepResult], expected: bool) -> None:
    assert has_retriable(fold(results)) is expected


def test_a_later_success_closes_what_was_retriable() -> None:
    task = fold([failed("Redis"), failed("MinIO")], [result("Redis", "Deleted", count=1)])
    assert has_retriable(task)

    task = fold([result("MinIO", "Skipped", reasons.ABSENT)], task=task)

    assert not has_retriable(task)
    assert conclude(task, NOW, dry_run=False).state == "Deleted"


def test_no_resource_means_no_decisive_reason() -> None:
    assert decisive_reason(OPEN) is None


@pytest.mark.parametrize(
    ("results", "state", "deleted_at"),
    [
        pytest.param([], "Failed", None, id="nothing touched"),
        pytest.param([ABSENT, failed("Redis")], "Failed", None, id="nothing deleted"),
        pytest.param([failed("Redis", count=1)], "PartiallyFailed", NOW, id="some deleted"),
        pytest.param([result("Directory", "Deleted")], "PartiallyFailed", NOW, id="an empty directory deleted"),
    ],
)
def test_a_limit_of_the_request_ends_a_task(results: list[StepResult], state: str, deleted_at: datetime | None) -> None:
    task = fail(
        fold(results) if results else OPEN, reason=reasons.DEADLINE_EXCEEDED, message="too late", at=NOW, dry_run=False
    )

    assert (task.state, task.reason, task.message) == (state, reasons.DEADLINE_EXCEEDED, "too late")
    assert task.deleted_at == deleted_at
    assert len(task.resources or []) == len(results)


def test_a_refusal_is_final_and_says_why() -> None:
    task = refuse(OPEN, Refusal("Refused", reasons.TASK_RUNNING, "it\nruns"))

    assert (task.state, task.reason, task.message) == ("Refused", reasons.TASK_RUNNING, "it runs")
    assert is_final(task)


def test_a_postponed_task_stays_as_it_is_with_a_reason() -> None:
    task = postpone(OPEN, Fault("retriable", reasons.ROW_LOCKED, "held"), at=NOW, dry_run=False)

    assert task == OPEN.model_copy(update={"reason": reasons.ROW_LOCKED, "message": "held"})
    assert not is_final(task)


def test_a_task_ends_where_trying_again_cannot_help() -> None:
    task = postpone(OPEN, Fault("permanent", reasons.PERMISSION_DENIED, "no right"), at=NOW, dry_run=False)

    assert (task.state, task.reason, task.message) == ("Failed", reasons.PERMISSION_DENIED, "no right")


@pytest.mark.parametrize(
    ("message", "limit", "expected"),
    [
        pytest.param("", 5, "", id="empty"),
        pytest.param("abcde", 5, "abcde", id="fits exactly"),
        pytest.param("abcdef", 5, "abcd…", id="one too long"),
        pytest.param(" a\n\tb \r\n c ", 9, "a b c", id="one line"),
        pytest.param("日本語のタスク", 4, "日本語…", id="characters, not bytes"),
        pytest.param("abc", 1, "…", id="only the ellipsis"),
        pytest.param("abc", 0, "", id="nothing"),
    ],
)
def test_messages_are_shortened_to_one_line(message: str, limit: int, expected: str) -> None:
    assert shorten(message, limit) == expected


def test_a_dry_run_never_says_that_something_was_deleted() -> None:
    measured = fold_results(
        OPEN, [result("Directory", "WouldDelete", count=3), failed("Redis")], uncertain=False, dry_run=True
    )

    for task in (
        conclude(measured, NOW, dry_run=True),
        fail(measured, reason=reasons.DEADLINE_EXCEEDED, message="too late", at=NOW, dry_run=True),
    ):
        assert task.deleted_at is None
        assert task.directory_deleted is None
