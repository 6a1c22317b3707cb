"""What the API server itself refuses and accepts of a TaskRetentionPolicy, through kubectl on a real one.

A refusal has to name the field and say what to do. What is accepted has to come back as it was sent, so that a tool
that compares git with the cluster finds nothing to do.
"""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from dev.stack import Stack
from taskdeletion.api.crd import Schema, build_schema
from taskdeletion.api.retention_policy import MAX_NAME_LENGTH, TaskRetentionPolicy, TaskRetentionPolicySpec
from taskdeletion.api.task_deletion import TaskDeletionSpec
from taskdeletion.domain.durations import parse_duration
from taskdeletion.domain.schedule import parse_schedule
from tests.support.admission import Kubectl, Manifest, admitting, assert_accepted, assert_refused, manifest

KIND = TaskRetentionPolicy.KIND
OLD = {"olderThan": "30d"}


@pytest.fixture(scope="module")
def kubectl(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with admitting(stack, tmp_path_factory.mktemp("cache")) as found:
        yield found


def policy(**spec: Any) -> Manifest:
    return manifest(KIND, {"schedule": "0 2 * * *", **spec})


# --- what is refused ----------------------------------------------------------------------------------------------

FIVE_FIELDS = "a schedule has five fields (minute, hour, day of month, month, day of week; names such as JAN and MON"
WITH_UNIT = "a duration is a whole number, at least 1, with its unit m, h, d or w; write for example 12h or 30d"
TOO_LONG = "a duration is at most 3650d"
NO_CONDITION = "it needs at least one of statuses, olderThan and taskIdPattern"
GLOB = "a pattern of task ids has letters, digits, '_', '-', '.', and the wildcards * and ?"
ZONE = "this is no name of the IANA time zone database; write for example UTC or Asia/Shanghai"
OBJECT_NAME = "a name of a Kubernetes object has lower-case letters"
POLICY_NAME = f"the name of a TaskRetentionPolicy has at most {MAX_NAME_LENGTH} characters"

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "schedule-null": ({"schedule": None}, "spec.schedule", "Required value"),
    "schedule-number": ({"schedule": 5}, "spec.schedule", "must be of type string"),
    "schedule-empty": ({"schedule": ""}, "spec.schedule", "should be at least 1 chars long"),
    "schedule-too-long": ({"schedule": "0,0" * 60 + " 2 * * *"}, "spec.schedule", "may not be more than 128"),
    "zone": ({"timeZone": "Europe Berlin"}, "spec.timeZone", ZONE),
    "zone-empty": ({"timeZone": ""}, "spec.timeZone", "should be at least 1 chars long"),
    "zone-too-long": ({"timeZone": "A" * 65}, "spec.timeZone", "may not be more than 64"),
    "store": ({"storeRef": {"name": "My_Store"}}, "spec.storeRef.name", OBJECT_NAME),
    "store-elsewhere": ({"storeRef": {"name": "a", "namespace": "b"}}, "spec.storeRef.namespace", ""),
    "suspend-a-word": ({"suspend": "yes"}, "spec.suspend", "must be of type boolean"),
    "deadline": ({"startingDeadlineSeconds": 9}, "spec.startingDeadlineSeconds", "greater than or equal to 10"),
    "deadline-too-long": (
        {"startingDeadlineSeconds": 2**31},
        "spec.startingDeadlineSeconds",
        "less than or equal to 2147483647",
    ),
    "concurrency": (
        {"concurrencyPolicy": "Queue"},
        "spec.concurrencyPolicy",
        'supported values: "Forbid", "Allow", "Replace"',
    ),
    "history-below": (
        {"successfulDeletionsHistoryLimit": -1},
        "spec.successfulDeletionsHistoryLimit",
        "greater than or equal to 0",
    ),
    "history-above": (
        {"failedDeletionsHistoryLimit": 1001},
        "spec.failedDeletionsHistoryLimit",
        "less than or equal to 1000",
    ),
    "rules-too-many": ({"rules": [OLD] * 17}, "spec.rules", "must have at most 16 items"),
    "rule-without-a-condition": ({"rules": [OLD, {}]}, "spec.rules[1]", NO_CONDITION),
    "rule-with-nothing-but-null": ({"rules": [{"olderThan": None, "statuses": None}]}, "spec.rules[0]", NO_CONDITION),
    "rule-with-nothing-but-keep-last": ({"rules": [{"keepLast": 20}]}, "spec.rules[0]", NO_CONDITION),
    "rule-misspelt": ({"rules": [{"olderthan": "30d"}]}, "spec.rules[0].olderthan", ""),
    "statuses-empty": ({"rules": [{"statuses": []}]}, "spec.rules[0].statuses", "should have at least 1 items"),
    "statuses-too-many": (
        {"rules": [{"statuses": [f"s{number}" for number in range(33)]}]},
        "spec.rules[0].statuses",
        "must have at most 32 items",
    ),
    "status-twice": ({"rules": [{"statuses": ["a", "a"]}]}, "spec.rules[0].statuses[1]", "Duplicate value"),
    "status-empty": ({"rules": [{"statuses": [""]}]}, "spec.rules[0].statuses[0]", "at least 1 chars long"),
    "status-too-long": ({"rules": [{"statuses": ["s" * 65]}]}, "spec.rules[0].statuses[0]", "more than 64"),
    "glob-empty": ({"rules": [{"taskIdPattern": ""}]}, "spec.rules[0].taskIdPattern", "at least 1 chars long"),
    "glob-too-long": ({"rules": [{"taskIdPattern": "a" * 129}]}, "spec.rules[0].taskIdPattern", "more than 128"),
    "keep-last-zero": ({"rules": [{**OLD, "keepLast": 0}]}, "spec.rules[0].keepLast", "greater than or equal to 1"),
    "keep-last-above": (
        {"rules": [{**OLD, "keepLast": 100_001}]},
        "spec.rules[0].keepLast",
        "less than or equal to 100000",
    ),
    "tasks-zero": ({"limits": {"maxTasksPerRun": 0}}, "spec.limits.maxTasksPerRun", "greater than or equal to 1"),
    "tasks-above": (
        {"limits": {"maxTasksPerRun": 200_001}},
        "spec.limits.maxTasksPerRun",
        "less than or equal to 200000",
    ),
    "percentage-zero": ({"limits": {"maxPercentage": 0}}, "spec.limits.maxPercentage", "greater than or equal to 1"),
    "percentage-above": ({"limits": {"maxPercentage": 101}}, "spec.limits.maxPercentage", "less than or equal to 100"),
    "minimum-age": ({"limits": {"minimumAge": "30"}}, "spec.limits.minimumAge", WITH_UNIT),
    "minimum-age-too-long": ({"limits": {"minimumAge": "3651d"}}, "spec.limits.minimumAge", TOO_LONG),
    "force-a-word": ({"template": {"force": "yes"}}, "spec.template.force", "must be of type boolean"),
    "not-found": ({"template": {"notFoundPolicy": "Maybe"}}, "spec.template.notFoundPolicy", "supported values"),
    "backoff": ({"template": {"backoffLimit": 101}}, "spec.template.backoffLimit", "less than or equal to 100"),
    "active-deadline": (
        {"template": {"activeDeadlineSeconds": 0}},
        "spec.template.activeDeadlineSeconds",
        "greater than or equal to 1",
    ),
    "ttl-below": (
        {"template": {"ttlSecondsAfterFinished": 299}},
        "spec.template.ttlSecondsAfterFinished",
        "greater than or equal to 300",
    ),
    "cutoff-is-the-runs-own": (
        {"template": {"tasksCreatedBefore": "2026-01-31T00:00:00Z"}},
        "spec.template.tasksCreatedBefore",
        "",
    ),
    "ids-are-the-runs-own": ({"template": {"taskIds": ["a"]}}, "spec.template.taskIds", ""),
    "misspelt": ({"rule": [OLD]}, "spec.rule", ""),
}


@pytest.mark.parametrize(("spec", "field", "advice"), REFUSED.values(), ids=REFUSED)
def test_a_faulty_policy_is_refused_with_the_field_and_what_to_do(
    kubectl: Kubectl, spec: dict[str, Any], field: str, advice: str
) -> None:
    assert_refused(kubectl.try_create(policy(**spec)), field, advice)


def test_a_policy_without_a_schedule_is_refused(kubectl: Kubectl) -> None:
    assert_refused(kubectl.try_create(manifest(KIND, {"rules": [OLD]})), "spec.schedule", "Required value")


REFUSED_SCHEDULES = {
    "four-fields": "0 2 * *",
    "six-fields": "0 0 2 * * *",
    "minute-60": "60 2 * * *",
    "hour-24": "0 24 * * *",
    "day-0": "0 2 0 * *",
    "day-32": "0 2 32 * *",
    "month-13": "0 2 * 13 *",
    "weekday-8": "0 2 * * 8",
    "step-0": "*/0 * * * *",
    "name-in-lower-case": "0 2 * * mon",
    "macro-unknown": "@reboot",
    "macro-in-capitals": "@DAILY",
    "interval": "@every 1h",
    "zone-inside": "TZ=Europe/Berlin 0 2 * * *",
    "leading-space": " 0 2 * * *",
    "newline": "0 2 * * *\n",
    "tab": "0\t2 * * *",
    "words": "every night",
}


@pytest.mark.parametrize("schedule", REFUSED_SCHEDULES.values(), ids=REFUSED_SCHEDULES)
def test_what_is_no_schedule_is_refused(kubectl: Kubectl, schedule: str) -> None:
    assert_refused(kubectl.try_create(policy(schedule=schedule)), "spec.schedule", FIVE_FIELDS)


REFUSED_DURATIONS = {
    "no-unit": ("30", WITH_UNIT),
    "seconds": ("30s", WITH_UNIT),
    "months": ("3M", WITH_UNIT),
    "capital": ("30D", WITH_UNIT),
    "zero": ("0d", WITH_UNIT),
    "leading-zero": ("030d", WITH_UNIT),
    "fraction": ("1.5d", WITH_UNIT),
    "negative": ("-1d", WITH_UNIT),
    "iso": ("P30D", WITH_UNIT),
    "two-units": ("1d12h", WITH_UNIT),
    "space": ("30 d", WITH_UNIT),
    "newline": ("30d\n", WITH_UNIT),
    "unit-alone": ("dd", WITH_UNIT),
    "3651-days": ("3651d", TOO_LONG),
    "522-weeks": ("522w", TOO_LONG),
    "an-hour-too-many": ("87601h", TOO_LONG),
    "a-minute-too-many": ("5256001m", TOO_LONG),
    "the-largest-number": ("9999999w", TOO_LONG),
    "too-short": ("d", "at least 2 chars long"),
    "too-many-digits": ("10000000d", "more than 8"),
}


@pytest.mark.parametrize(("duration", "advice"), REFUSED_DURATIONS.values(), ids=REFUSED_DURATIONS)
def test_what_is_no_duration_is_refused(kubectl: Kubectl, duration: str, advice: str) -> None:
    answer = kubectl.try_create(policy(rules=[OLD, {"olderThan": duration}]))
    assert_refused(answer, "spec.rules[1].olderThan", advice)
    with pytest.raises(ValueError, match=r"duration|3650d"):
        parse_duration(duration)


REFUSED_GLOBS = ("nightly *", "a/b", "task_[1]", "a\\b", "tâche_*", "a\n", "{taskId}", "a,b")


@pytest.mark.parametrize("glob", REFUSED_GLOBS)
def test_a_pattern_of_what_no_task_id_holds_is_refused(kubectl: Kubectl, glob: str) -> None:
    assert_refused(kubectl.try_create(policy(rules=[{"taskIdPattern": glob}])), "spec.rules[0].taskIdPattern", GLOB)


def test_a_name_that_leaves_no_room_for_its_deletions_is_refused(kubectl: Kubectl) -> None:
    longest = "p" * MAX_NAME_LENGTH
    assert_accepted(kubectl.try_create(manifest(KIND, {"schedule": "@daily"}, longest)))
    answer = kubectl.try_create(manifest(KIND, {"schedule": "@daily"}, longest + "p"))
    assert answer.returncode != 0
    assert POLICY_NAME in answer.stderr
    assert "choose a shorter one" in answer.stderr


def _messages(node: Schema) -> Iterator[str]:
    yield from (rule["message"] for rule in node.get("x-kubernetes-validations", []))
    for inner in (*node.get("properties", {}).values(), *([node["items"]] if "items" in node else [])):
        yield from _messages(inner)


def test_every_rule_of_the_schema_has_a_case_here() -> None:
    refusals = {FIVE_FIELDS, GLOB, POLICY_NAME, *(advice for _, _, advice in REFUSED.values())}
    messages = set(_messages(build_schema(TaskRetentionPolicy)))
    assert len(messages) >= 8
    assert sorted(message for message in messages if not any(word and word in message for word in refusals)) == []


# --- what is accepted ---------------------------------------------------------------------------------------------

ACCEPTED_SCHEDULES = (
    "* * * * *",
    "0 2 * * *",
    "*/15 * * * *",
    "5,35 0-6/2 1,15 * *",
    "0 2 * * MON-FRI",
    "30 23 * JAN-MAR,DEC SUN",
    "0 0 31 12 7",
    "05 02  01 09 *",
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
)


@pytest.mark.parametrize("schedule", ACCEPTED_SCHEDULES)
def test_what_the_server_takes_for_a_schedule_the_operator_takes_too(kubectl: Kubectl, schedule: str) -> None:
    assert_accepted(kubectl.try_create(policy(schedule=schedule)))
    assert parse_schedule(schedule, "UTC").fields


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("1m", 60),
        ("12h", 43_200),
        ("30d", 2_592_000),
        ("3650d", 315_360_000),
        ("521w", 315_100_800),
        ("87600h", 315_360_000),
        ("5256000m", 315_360_000),
    ],
)
def test_durations_up_to_3650_days_are_accepted_in_every_unit(kubectl: Kubectl, duration: str, seconds: int) -> None:
    assert_accepted(kubectl.try_create(policy(rules=[{"olderThan": duration}], limits={"minimumAge": duration})))
    assert parse_duration(duration) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"startingDeadlineSeconds": 10}, id="shortest-deadline"),
        pytest.param({"startingDeadlineSeconds": 2**31 - 1}, id="longest-deadline"),
        pytest.param({"successfulDeletionsHistoryLimit": 0, "failedDeletionsHistoryLimit": 1000}, id="history"),
        pytest.param({"rules": []}, id="no-rule"),
        pytest.param({"rules": [OLD] * 16}, id="most-rules"),
        pytest.param({"rules": [{"statuses": ["failed"]}]}, id="statuses-alone"),
        pytest.param({"rules": [{"statuses": [f"{number:064}" for number in range(32)]}]}, id="most-statuses"),
        pytest.param({"rules": [{"taskIdPattern": "*"}]}, id="every-id"),
        pytest.param({"rules": [{"taskIdPattern": "?" * 128}]}, id="longest-pattern"),
        pytest.param({"rules": [{**OLD, "keepLast": 1}, {"taskIdPattern": "*", "keepLast": 100_000}]}, id="keep-last"),
        pytest.param({"limits": {"maxTasksPerRun": 1, "maxPercentage": 1}}, id="least"),
        pytest.param({"limits": {"maxTasksPerRun": 200_000, "maxPercentage": 100}}, id="most"),
    ],
)
def test_what_is_at_the_edge_is_accepted(kubectl: Kubectl, spec: dict[str, Any]) -> None:
    assert_accepted(kubectl.try_create(policy(**spec)))


# --- defaults, and what a tool that compares git with the cluster sees --------------------------------------------

MINIMAL: Manifest = {"schedule": "0 2 * * *"}
DEFAULTED = {
    **MINIMAL,
    "storeRef": {"name": "default"},
    "timeZone": "UTC",
    "suspend": False,
    "concurrencyPolicy": "Forbid",
    "successfulDeletionsHistoryLimit": 3,
    "failedDeletionsHistoryLimit": 3,
    "dryRun": False,
    "rules": [],
    "limits": {"maxTasksPerRun": 10_000},
    "template": {},
}
#: Every kind of rule, and every part that has defaults inside, with something set.
PARTIAL: Manifest = {
    **MINIMAL,
    "rules": [{"statuses": ["failed", "completed"]}, {"taskIdPattern": "nightly_*", "keepLast": 20}, OLD],
    "limits": {"maxPercentage": 30},
    "template": {"backoffLimit": 2},
}
FULL: Manifest = {
    "storeRef": {"name": "archive"},
    "schedule": "30 1 * * MON-FRI",
    "timeZone": "Asia/Shanghai",
    "suspend": True,
    "startingDeadlineSeconds": 3600,
    "concurrencyPolicy": "Allow",
    "successfulDeletionsHistoryLimit": 10,
    "failedDeletionsHistoryLimit": 20,
    "dryRun": True,
    "rules": [{"statuses": ["completed"], "taskIdPattern": "n?_*", "olderThan": "12h", "keepLast": 5}],
    "limits": {"maxTasksPerRun": 500, "maxPercentage": 100, "minimumAge": "2h"},
    "template": {
        "force": False,
        "deleteDatabaseRecords": False,
        "continueOnError": True,
        "notFoundPolicy": "Ignore",
        "backoffLimit": 6,
        "activeDeadlineSeconds": 7200,
        "ttlSecondsAfterFinished": 86_400,
    },
}
SPECS: dict[str, Manifest] = {"minimal": MINIMAL, "partial": PARTIAL, "full": FULL}
specs = pytest.mark.parametrize("name", SPECS)


@pytest.fixture(scope="module")
def stored(kubectl: Kubectl) -> None:
    for name, spec in SPECS.items():
        kubectl.apply(manifest(KIND, spec, name))


def spec_of(kubectl: Kubectl, name: str) -> dict[str, Any]:
    found: dict[str, Any] = kubectl.get(f"{KIND}/{name}")["spec"]
    return found


def test_a_minimal_policy_gets_every_default_from_the_server_and_selects_nothing(
    kubectl: Kubectl, stored: None
) -> None:
    assert spec_of(kubectl, "minimal") == DEFAULTED


def test_no_default_appears_inside_a_rule_or_the_template(kubectl: Kubectl, stored: None) -> None:
    found = spec_of(kubectl, "partial")
    assert found["rules"] == PARTIAL["rules"]
    assert found["template"] == PARTIAL["template"]
    assert found["limits"] == {"maxPercentage": 30, "maxTasksPerRun": 10_000}


def test_every_field_that_is_set_comes_back_as_it_was_sent(kubectl: Kubectl, stored: None) -> None:
    assert FULL.keys() == {field.alias for field in TaskRetentionPolicySpec.model_fields.values()}
    assert spec_of(kubectl, "full") == FULL


def test_the_template_has_every_option_of_a_deletion_but_what_the_run_itself_decides(kubectl: Kubectl) -> None:
    options = {field.alias for field in TaskDeletionSpec.model_fields.values()}
    decided = {"storeRef", "taskIds", "confirm", "dryRun", "suspend", "tasksCreatedBefore", "statuses"}
    assert FULL["template"].keys() == options - decided


@specs
def test_applying_the_same_policy_again_changes_nothing(kubectl: Kubectl, stored: None, name: str) -> None:
    before = kubectl.get(f"{KIND}/{name}", "--show-managed-fields")
    kubectl.apply(manifest(KIND, SPECS[name], name))
    after = kubectl.get(f"{KIND}/{name}", "--show-managed-fields")
    assert after["metadata"]["generation"] == before["metadata"]["generation"] == 1
    assert after["metadata"]["managedFields"] == before["metadata"]["managedFields"]
    assert after["spec"] == before["spec"]


@specs
def test_a_tool_that_compares_finds_no_difference(kubectl: Kubectl, stored: None, name: str) -> None:
    assert kubectl.differences(manifest(KIND, SPECS[name], name)) == ""


def test_a_tool_that_compares_finds_a_difference_where_there_is_one(kubectl: Kubectl, stored: None) -> None:
    changed = {**PARTIAL, "rules": [{"olderThan": "31d"}]}
    assert "+  - olderThan: 31d" in kubectl.differences(manifest(KIND, changed, "partial"))


def test_the_status_of_the_operator_is_no_difference(kubectl: Kubectl) -> None:
    kubectl.apply(manifest(KIND, PARTIAL, "reported"))
    status = {"status": {"observedGeneration": 1, "matched": 7}}
    kubectl.must("patch", f"{KIND}/reported", "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}")
    assert kubectl.differences(manifest(KIND, PARTIAL, "reported")) == ""
    assert kubectl.get(f"{KIND}/reported")["metadata"]["generation"] == 1


def test_what_is_taken_out_of_the_manifest_gets_its_default_back(kubectl: Kubectl) -> None:
    kubectl.apply(manifest(KIND, FULL, "emptied"))
    kubectl.apply(manifest(KIND, MINIMAL, "emptied"))
    assert spec_of(kubectl, "emptied") == DEFAULTED


# --- what kubectl shows -------------------------------------------------------------------------------------------


def test_the_columns_of_policies_are_there_by_their_short_name(kubectl: Kubectl, stored: None) -> None:
    narrow = ["NAME", "SCHEDULE", "SUSPEND", "ACTIVE", "LAST", "NEXT", "MATCHED", "STATUS", "AGE"]
    header = kubectl.must("get", "trp").splitlines()[0]
    assert re.split(r"\s{2,}", header.strip()) == narrow
    wide = kubectl.must("get", "trp", "-o", "wide").splitlines()[0]
    assert re.split(r"\s{2,}", wide.strip()) == [*narrow, "STORE", "ZONE", "FREED", "MESSAGE"]
