"""Whether a task may go: every branch of the decision, when it is read, under the lock, and before each effect."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from taskdeletion.api import reasons
from taskdeletion.domain.catalog import CatalogEntry, Version
from taskdeletion.domain.claims import UNKNOWN_TASK, Rules, decide_claim, decide_still_claimed

CREATED = datetime(2025, 7, 2, 17, 39, 32, 500_000, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
READ = Version("2025-07-02T17:39:32.5+00:00", "completed|2025-07-02T18:00:00+00:00")
RESTARTED = replace(READ, rest="completed|2025-07-02T19:00:00+00:00")
REUSED = replace(READ, created="2025-07-09T00:00:00+00:00")
DONE = CatalogEntry("task_1", READ, "completed", CREATED)
RUNNING = replace(DONE, status="in_progress")
STEP_RUNNING = replace(DONE, activity="a step of the task is running")
KEYS_READ = replace(READ, rest="3|" + "a" * 64)
FEWER_KEYS = replace(DONE, version=replace(READ, rest="2|" + "b" * 64))
AGELESS = replace(DONE, created_at=None, version=Version("", "completed|"))
RULES = Rules(
    force=False,
    cleans_unknown=False,
    cutoff=CREATED + timedelta(days=1),
    terminal_statuses=frozenset({"completed", "failed"}),
)
FORCE = replace(RULES, force=True)
ONLY_FAILED = replace(RULES, statuses=frozenset({"failed"}))
BOTH = replace(DONE, statuses=frozenset({"completed", "failed"}))
CLEANS = replace(FORCE, cleans_unknown=True)


@pytest.mark.parametrize(
    ("entry", "announced", "rules"),
    [
        pytest.param(DONE, None, RULES, id="terminal, read for the first time"),
        pytest.param(replace(DONE, status="failed"), None, RULES, id="another terminal status"),
        pytest.param(DONE, READ, RULES, id="terminal, as announced"),
        pytest.param(DONE, None, replace(RULES, cutoff=CREATED + MICROSECOND), id="created just before the cutoff"),
        pytest.param(DONE, None, replace(RULES, cutoff=None), id="no cutoff"),
        pytest.param(RUNNING, None, FORCE, id="running, with force"),
        pytest.param(STEP_RUNNING, None, FORCE, id="a step running, with force"),
        pytest.param(DONE, RESTARTED, FORCE, id="changed but the same creation, with force"),
        pytest.param(AGELESS, None, FORCE, id="creation unknown, with force"),
        pytest.param(AGELESS, AGELESS.version, FORCE, id="creation unknown, announced, with force"),
        pytest.param(None, None, CLEANS, id="unknown, with force and Ignore"),
        pytest.param(None, UNKNOWN_TASK, CLEANS, id="unknown and announced so, with force and Ignore"),
        pytest.param(None, None, replace(CLEANS, statuses={"failed"}), id="unknown, and only some statuses asked for"),
        pytest.param(DONE, READ, replace(RULES, statuses={"completed"}), id="in a status that was asked for"),
        pytest.param(BOTH, None, replace(RULES, statuses={"completed", "failed"}), id="in several that were asked for"),
    ],
)
def test_a_task_may_go(entry: CatalogEntry | None, announced: Version | None, rules: Rules) -> None:
    assert decide_claim(entry, announced, rules) is None


@pytest.mark.parametrize(
    ("entry", "announced", "rules", "state", "reason"),
    [
        pytest.param(RUNNING, None, RULES, "Refused", reasons.TASK_RUNNING, id="running"),
        pytest.param(replace(DONE, status=""), None, RULES, "Refused", reasons.TASK_RUNNING, id="no status"),
        pytest.param(
            replace(DONE, status="Completed"), None, RULES, "Refused", reasons.TASK_RUNNING, id="status in another case"
        ),
        pytest.param(STEP_RUNNING, None, RULES, "Refused", reasons.TASK_RUNNING, id="a step running"),
        pytest.param(DONE, READ, ONLY_FAILED, "Refused", reasons.OTHER_STATUS, id="finished otherwise than asked for"),
        pytest.param(BOTH, READ, ONLY_FAILED, "Refused", reasons.OTHER_STATUS, id="in a status more than asked for"),
        pytest.param(
            DONE,
            READ,
            replace(ONLY_FAILED, force=True),
            "Refused",
            reasons.OTHER_STATUS,
            id="finished otherwise, with force",
        ),
        pytest.param(
            RUNNING, READ, replace(ONLY_FAILED, force=True), "Refused", reasons.OTHER_STATUS, id="running, with force"
        ),
        pytest.param(RUNNING, READ, ONLY_FAILED, "Refused", reasons.TASK_RUNNING, id="running, whatever is asked for"),
        pytest.param(
            DONE,
            None,
            replace(RULES, cutoff=CREATED),
            "Refused",
            reasons.TASK_NEWER_THAN_REQUEST,
            id="created at the cutoff",
        ),
        pytest.param(
            DONE,
            None,
            replace(RULES, cutoff=CREATED - MICROSECOND),
            "Refused",
            reasons.TASK_NEWER_THAN_REQUEST,
            id="created after the cutoff",
        ),
        pytest.param(
            DONE,
            None,
            replace(FORCE, cutoff=CREATED),
            "Refused",
            reasons.TASK_NEWER_THAN_REQUEST,
            id="created at the cutoff, with force",
        ),
        pytest.param(
            replace(RUNNING, created_at=CREATED),
            None,
            replace(RULES, cutoff=CREATED),
            "Refused",
            reasons.TASK_NEWER_THAN_REQUEST,
            id="newer and running: force would not help, so age is named",
        ),
        pytest.param(AGELESS, None, RULES, "Refused", reasons.CREATION_TIME_UNKNOWN, id="creation unknown"),
        pytest.param(
            AGELESS,
            None,
            replace(RULES, cutoff=None),
            "Refused",
            reasons.CREATION_TIME_UNKNOWN,
            id="creation unknown, without a cutoff",
        ),
        pytest.param(DONE, RESTARTED, RULES, "Refused", reasons.TASK_CHANGED, id="changed since it was announced"),
        pytest.param(DONE, REUSED, RULES, "Refused", reasons.TASK_CHANGED, id="id reused since it was announced"),
        pytest.param(DONE, REUSED, FORCE, "Refused", reasons.TASK_CHANGED, id="id reused, with force"),
        pytest.param(DONE, UNKNOWN_TASK, CLEANS, "Refused", reasons.TASK_CHANGED, id="appeared since it was unknown"),
        pytest.param(
            AGELESS,
            UNKNOWN_TASK,
            CLEANS,
            "Refused",
            reasons.TASK_CHANGED,
            id="appeared without a creation time since it was unknown",
        ),
        pytest.param(None, None, RULES, "NotFound", reasons.NOT_IN_CATALOG, id="unknown"),
        pytest.param(None, None, FORCE, "NotFound", reasons.NOT_IN_CATALOG, id="unknown, with force alone"),
        pytest.param(None, READ, RULES, "NotFound", reasons.NOT_IN_CATALOG, id="gone since it was announced"),
        pytest.param(
            None, READ, CLEANS, "NotFound", reasons.NOT_IN_CATALOG, id="gone since it was announced, cleaning unknown"
        ),
        pytest.param(None, UNKNOWN_TASK, RULES, "NotFound", reasons.NOT_IN_CATALOG, id="unknown and announced so"),
    ],
)
def test_a_task_may_not_go(
    entry: CatalogEntry | None, announced: Version | None, rules: Rules, state: str, reason: str
) -> None:
    refusal = decide_claim(entry, announced, rules)

    assert refusal is not None
    assert (refusal.state, refusal.reason) == (state, reason)
    assert 20 < len(refusal.message) <= 256


def test_a_refusal_names_the_status_and_what_to_do() -> None:
    refusal = decide_claim(RUNNING, None, RULES)

    assert refusal is not None
    assert refusal.message == "task is in_progress; wait for it or set force: true"


def test_a_status_of_any_length_fits_into_the_message() -> None:
    refusal = decide_claim(replace(DONE, status="s" * 10_000), None, RULES)

    assert refusal is not None
    assert len(refusal.message) < 256


@pytest.mark.parametrize(
    ("entry", "claimed", "force", "reason"),
    [
        pytest.param(DONE, READ, False, None, id="the claimed run"),
        pytest.param(RUNNING, READ, True, None, id="the claimed run, with force"),
        pytest.param(DONE, RESTARTED, True, None, id="the same creation, with force"),
        pytest.param(DONE, RESTARTED, False, reasons.TASK_RESTARTED, id="restarted"),
        pytest.param(DONE, REUSED, False, reasons.TASK_RESTARTED, id="id reused"),
        pytest.param(DONE, REUSED, True, reasons.TASK_RESTARTED, id="id reused, with force"),
        pytest.param(STEP_RUNNING, READ, False, reasons.TASK_RESTARTED, id="restarted, and its version is as it was"),
        pytest.param(STEP_RUNNING, READ, True, None, id="a step running, with force"),
        pytest.param(FEWER_KEYS, KEYS_READ, False, reasons.CATALOG_ENTRY_GONE, id="some keys gone"),
        pytest.param(FEWER_KEYS, KEYS_READ, True, None, id="some keys gone, with force"),
        pytest.param(
            replace(FEWER_KEYS, activity="its state changed 1 s ago"),
            KEYS_READ,
            False,
            reasons.TASK_RESTARTED,
            id="fewer keys, but of a new run",
        ),
        pytest.param(
            replace(FEWER_KEYS, version=replace(FEWER_KEYS.version, created=REUSED.created)),
            KEYS_READ,
            True,
            reasons.TASK_RESTARTED,
            id="fewer keys, but of another creation",
        ),
        pytest.param(None, READ, False, reasons.CATALOG_ENTRY_GONE, id="entry gone"),
        pytest.param(None, READ, True, reasons.CATALOG_ENTRY_GONE, id="entry gone, with force"),
        pytest.param(None, UNKNOWN_TASK, True, None, id="still unknown"),
        pytest.param(DONE, UNKNOWN_TASK, True, reasons.TASK_RESTARTED, id="unknown task appeared"),
        pytest.param(AGELESS, UNKNOWN_TASK, True, reasons.TASK_RESTARTED, id="unknown task appeared, creation unknown"),
    ],
)
def test_only_the_claimed_run_may_be_touched(
    entry: CatalogEntry | None, claimed: Version, force: bool, reason: str | None
) -> None:
    fault = decide_still_claimed(entry, claimed, force=force)

    assert (fault.reason if fault else None) == reason
    assert fault is None or fault.kind == "permanent"


@pytest.mark.parametrize(
    "version", [READ, UNKNOWN_TASK, Version("", "x|y"), Version("a", ""), Version("a", "b|c|d")], ids=str
)
def test_a_version_survives_being_written_to_status(version: Version) -> None:
    assert Version.parse(str(version)) == version
