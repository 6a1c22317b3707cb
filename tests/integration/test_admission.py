"""What the API server itself refuses and accepts: the CRDs of `crds/` on a real one, through kubectl.

A refusal has to name the field and say what to do, because nothing of the operator is asked by then.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from dev.stack import Stack
from taskdeletion.api import places, store_catalog, task_store
from taskdeletion.api.crd import KINDS, Schema, build_schema
from taskdeletion.api.task_deletion import MAX_TASK_ID_LENGTH, MAX_TASK_IDS, TASK_ID_PATTERN, TaskDeletionSpec
from tests.support.admission import (
    CRDS,
    Answer,
    Kubectl,
    Manifest,
    admitting,
    assert_accepted,
    assert_refused,
    manifest,
)


def try_edit(kubectl: Kubectl, name: str, spec: Manifest) -> Answer:
    """Everything that admission does for a merge patch of the spec; None removes a field."""
    return kubectl("patch", name, "--type=merge", "--dry-run=server", "-p", json.dumps({"spec": spec}))


@pytest.fixture(scope="module")
def kubectl(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    with admitting(stack, tmp_path_factory.mktemp("cache")) as found:
        yield found


def deletion(**spec: Any) -> dict[str, Any]:
    return manifest("TaskDeletion", {"taskIds": ["task-1"], "confirm": True, **spec})


def store(**spec: Any) -> dict[str, Any]:
    return manifest("TaskStore", spec)


# --- a TaskDeletion that is refused when it is created ------------------------------------------------------------

CHARACTERS = "letters, digits"
REFUSED_DELETIONS = {
    "confirm-missing": ({"taskIds": ["a"]}, "spec.confirm", "add 'confirm: true'"),
    "confirm-false": ({"taskIds": ["a"], "confirm": False}, "spec.confirm", "add 'confirm: true'"),
    "confirm-null": ({"taskIds": ["a"], "confirm": None}, "spec.confirm", "add 'confirm: true'"),
    "confirm-a-word": ({"taskIds": ["a"], "confirm": "yes"}, "spec.confirm", "must be of type boolean"),
    "ids-missing": ({"confirm": True}, "spec.taskIds", "Required value"),
    "ids-empty": ({"confirm": True, "taskIds": []}, "spec.taskIds", "should have at least 1 items"),
    "ids-too-many": (
        {"confirm": True, "taskIds": [f"t{number}" for number in range(MAX_TASK_IDS + 1)]},
        "spec.taskIds",
        "must have at most 500 items",
    ),
    "id-twice": ({"confirm": True, "taskIds": ["a", "b", "a"]}, "spec.taskIds[2]", 'Duplicate value: "a"'),
    "id-too-long": (
        {"confirm": True, "taskIds": ["a" * (MAX_TASK_ID_LENGTH + 1)]},
        "spec.taskIds[0]",
        "may not be more than 128",
    ),
    "policy-unknown": (
        {"confirm": True, "taskIds": ["a"], "notFoundPolicy": "Maybe"},
        "spec.notFoundPolicy",
        'supported values: "Fail", "Ignore"',
    ),
    "backoff-too-large": (
        {"confirm": True, "taskIds": ["a"], "backoffLimit": 101},
        "spec.backoffLimit",
        "should be less than or equal to 100",
    ),
    "deadline-zero": (
        {"confirm": True, "taskIds": ["a"], "activeDeadlineSeconds": 0},
        "spec.activeDeadlineSeconds",
        "should be greater than or equal to 1",
    ),
    "time-without-a-zone": (
        {"confirm": True, "taskIds": ["a"], "tasksCreatedBefore": "2026-01-31T00:00:00"},
        "spec.tasksCreatedBefore",
        "must be of type date-time",
    ),
    "time-before-all-times": (
        {"confirm": True, "taskIds": ["a"], "tasksCreatedBefore": "0001-01-01T00:00:00+14:00"},
        "spec.tasksCreatedBefore",
        "write a full time",
    ),
    "time-after-all-times": (
        {"confirm": True, "taskIds": ["a"], "tasksCreatedBefore": "9999-12-31T23:59:59-14:00"},
        "spec.tasksCreatedBefore",
        "write a full time",
    ),
    "time-in-lower-case": (
        {"confirm": True, "taskIds": ["a"], "tasksCreatedBefore": "2025-07-31t00:00:00z"},
        "spec.tasksCreatedBefore",
        "",
    ),
    "store-name": (
        {"confirm": True, "taskIds": ["a"], "storeRef": {"name": "My_Store"}},
        "spec.storeRef.name",
        "lower-case letters",
    ),
    "store-in-another-namespace": (
        {"confirm": True, "taskIds": ["a"], "storeRef": {"name": "a", "namespace": "b"}},
        "spec.storeRef.namespace",
        "",
    ),
}


@pytest.mark.parametrize(("spec", "field", "advice"), REFUSED_DELETIONS.values(), ids=REFUSED_DELETIONS)
def test_a_faulty_request_is_refused_with_the_field_and_what_to_do(
    kubectl: Kubectl, spec: dict[str, Any], field: str, advice: str
) -> None:
    assert_refused(kubectl.try_create(manifest("TaskDeletion", spec)), field, advice)


REFUSED_IDS = {
    "empty": "",
    "slash": "a/b",
    "leading-slash": "/etc",
    "star": "task_*",
    "question-mark": "task_?",
    "bracket": "task_[1]",
    "brace": "{taskId}",
    "backslash": "a\\b",
    "space": "a b",
    "newline": "a\nb",
    "trailing-newline": "a\n",
    "nul": "a\0b",
    "colon": "a:b",
    "unicode-letter": "tâche",
    "unicode-digit": "task_١",
    "full-width": "task_\uff11",
    "leading-dot": ".hidden",
    "dot": ".",
    "dot-dot": "..",
    "percent": "a%2fb",
}


@pytest.mark.parametrize("task_id", REFUSED_IDS.values(), ids=REFUSED_IDS)
def test_a_task_id_that_could_name_something_else_is_refused(kubectl: Kubectl, task_id: str) -> None:
    answer = kubectl.try_create(deletion(taskIds=["good", task_id]))
    assert_refused(answer, "spec.taskIds[1]", CHARACTERS)
    assert re.fullmatch(TASK_ID_PATTERN, task_id) is None


def test_every_refused_task_id_is_named_at_once(kubectl: Kubectl) -> None:
    answer = kubectl.try_create(deletion(taskIds=["a/b", "good", "c d"]))
    assert_refused(answer, "spec.taskIds[0]", CHARACTERS)
    assert_refused(answer, "spec.taskIds[2]", CHARACTERS)
    assert "spec.taskIds[1]" not in answer.stderr


@pytest.mark.parametrize(
    ("faulty", "field"),
    [
        pytest.param(deletion(taskIDs=["a"]), "spec.taskIDs", id="a-misspelled-field"),
        pytest.param(deletion(namespace="other"), "spec.namespace", id="another-namespace"),
        pytest.param(store(redis={"secretRef": {"name": "a"}, "url": "redis://x"}), "spec.redis.url", id="nested"),
        pytest.param({**deletion(), "options": {}}, "options", id="beside-the-spec"),
    ],
)
def test_an_unknown_field_is_refused_under_strict_validation(
    kubectl: Kubectl, faulty: dict[str, Any], field: str
) -> None:
    assert_refused(kubectl.try_create(faulty), f'unknown field "{field}', "")


# --- a TaskDeletion that is accepted ------------------------------------------------------------------------------

MINIMAL_DELETION = """\
apiVersion: datapipeline.dev/v1beta1
kind: TaskDeletion
metadata:
  name: minimal
spec:
  confirm: true
  taskIds:
  - task_20250702_173932
  - task_20250702_174521
"""
MINIMAL_STORE = """\
apiVersion: datapipeline.dev/v1beta1
kind: TaskStore
metadata:
  name: minimal
spec:
  redis:
    secretRef:
      name: pipeline-redis
"""
MINIMAL_POLICY = """
apiVersion: datapipeline.dev/v1beta1
kind: TaskRetentionPolicy
metadata: {name: minimal}
spec: {schedule: "@daily"}
"""
MINIMAL = {"TaskDeletion": MINIMAL_DELETION, "TaskStore": MINIMAL_STORE, "TaskRetentionPolicy": MINIMAL_POLICY}
kinds = pytest.mark.parametrize("kind", list(MINIMAL))


@pytest.fixture(scope="module")
def minimal(kubectl: Kubectl) -> None:
    for text in MINIMAL.values():
        kubectl.must("apply", "--server-side", "-f", "-", stdin=text)


def test_a_minimal_request_gets_every_default_from_the_server(kubectl: Kubectl, minimal: None) -> None:
    assert kubectl.get("taskdeletion/minimal")["spec"] == {
        "storeRef": {"name": "default"},
        "taskIds": ["task_20250702_173932", "task_20250702_174521"],
        "confirm": True,
        "force": False,
        "deleteDatabaseRecords": False,
        "continueOnError": True,
        "dryRun": False,
        "notFoundPolicy": "Fail",
        "backoffLimit": 6,
        "suspend": False,
    }


def test_a_minimal_store_gets_every_default_from_the_server(kubectl: Kubectl, minimal: None) -> None:
    assert kubectl.get("taskstore/minimal")["spec"] == {
        "redis": {"secretRef": {"name": "pipeline-redis"}, "keyPatterns": ["task:{taskId}", "task:{taskId}:*"]}
    }


def test_the_parts_of_a_store_get_their_defaults_from_the_server(kubectl: Kubectl) -> None:
    answer = kubectl.try_create(
        store(
            catalog={"postgres": {"secretRef": {"name": "db"}}},
            directory={"persistentVolumeClaim": {"claimName": "data"}},
            objectStore={"secretRef": {"name": "minio"}, "bucket": "pipeline"},
        )
    )
    assert_accepted(answer)
    spec = json.loads(answer.stdout)["spec"]
    assert spec["catalog"]["postgres"] == {
        "secretRef": {"name": "db"},
        "tasksTable": "data_pipeline_tasks",
        "stepsTable": "data_pipeline_task_steps",
        "timeZone": "UTC",
        "terminalStatuses": ["completed", "partial_completed", "failed", "cancelled"],
        "runningStepStatuses": ["running"],
    }
    assert spec["directory"]["subPath"] == "data_pipeline/training_data"
    assert spec["objectStore"]["prefixes"] == ["tasks/{taskId}/"]


def test_a_catalog_in_redis_gets_its_defaults_from_the_server(kubectl: Kubectl) -> None:
    answer = kubectl.try_create(store(catalog={"redis": SECRET}, directory=DIRECTORY))
    assert_accepted(answer)
    assert json.loads(answer.stdout)["spec"]["catalog"] == {
        "redis": {
            **SECRET,
            "keyPattern": "{taskId}:node:*",
            "statusField": "status",
            "createdField": "created_at",
            "updatedField": "updated_at",
            "settleSeconds": 300,
            "timeZone": "UTC",
            "terminalStatuses": ["completed", "failed"],
        }
    }


@kinds
def test_the_status_of_a_new_object_says_that_nobody_looked_yet(kubectl: Kubectl, minimal: None, kind: str) -> None:
    assert kubectl.get(f"{kind.lower()}/minimal")["status"] == {"observedGeneration": -1}


def _without_version(found: dict[str, Any]) -> dict[str, Any]:
    """`found` without its resourceVersion: the first write after a create stores the default of the status."""
    return {**found, "metadata": {**found["metadata"], "resourceVersion": ""}}


@kinds
def test_applying_the_same_manifest_twice_changes_nothing(kubectl: Kubectl, minimal: None, kind: str) -> None:
    before = kubectl.get(f"{kind.lower()}/minimal")
    kubectl.must("apply", "--server-side", "-f", "-", stdin=MINIMAL[kind])
    assert _without_version(kubectl.get(f"{kind.lower()}/minimal")) == _without_version(before)
    difference = kubectl("diff", "--server-side", "-f", "-", stdin=MINIMAL[kind])
    assert (difference.returncode, difference.stdout) == (0, "")


def test_applying_the_crds_twice_changes_nothing(kubectl: Kubectl) -> None:
    def generations() -> list[int]:
        return [kubectl.get(f"crd/{kind.PLURAL}.datapipeline.dev")["metadata"]["generation"] for kind in KINDS]

    before = generations()
    kubectl.must("apply", "--server-side", "-f", str(CRDS))
    assert generations() == before


@pytest.fixture(scope="module")
def largest(kubectl: Kubectl) -> str:
    ids = [f"{number:03d}".ljust(MAX_TASK_ID_LENGTH, "x") for number in range(MAX_TASK_IDS)]
    text = json.dumps(manifest("TaskDeletion", {"confirm": True, "taskIds": ids}, "largest"))
    kubectl.must("apply", "--server-side", "-f", "-", stdin=text)
    return "taskdeletion/largest"


def test_five_hundred_ids_of_128_characters_are_accepted(kubectl: Kubectl, largest: str) -> None:
    assert len(kubectl.get(largest)["spec"]["taskIds"]) == MAX_TASK_IDS


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param(lambda ids: {"suspend": True}, id="suspended"),
        pytest.param(lambda ids: {"taskIds": ids[::-1]}, id="reordered"),
    ],
)
def test_the_largest_request_can_be_edited_within_the_servers_cost_limit(
    kubectl: Kubectl, largest: str, edit: Any
) -> None:
    ids = kubectl.get(largest)["spec"]["taskIds"]
    assert_accepted(try_edit(kubectl, largest, edit(ids)))


# --- edits of a TaskDeletion --------------------------------------------------------------------------------------

MUTABLE = {"suspend": (True, False), "ttlSecondsAfterFinished": (60, 61)}
IMMUTABLE: dict[str, tuple[Any, Any]] = {  # a value that is no default, and another one
    "storeRef": ({"name": "other"}, {"name": "third"}),
    "taskIds": (["a", "b"], ["a", "b", "c"]),
    "confirm": (True, False),
    "force": (True, False),
    "deleteDatabaseRecords": (True, False),
    "continueOnError": (False, True),
    "dryRun": (True, False),
    "notFoundPolicy": ("Ignore", "Fail"),
    "tasksCreatedBefore": ("2026-01-31T00:00:00Z", "2026-02-01T00:00:00Z"),
    "statuses": (["completed", "failed"], ["completed"]),
    "backoffLimit": (3, 4),
    "activeDeadlineSeconds": (60, 61),
}
FULL_SPEC = {name: value for name, (value, _) in {**IMMUTABLE, **MUTABLE}.items()}


@pytest.fixture(scope="module")
def full(kubectl: Kubectl) -> str:
    text = json.dumps(manifest("TaskDeletion", FULL_SPEC, "full"))
    kubectl.must("apply", "--server-side", "-f", "-", stdin=text)
    return "taskdeletion/full"


def test_every_field_of_the_spec_is_in_the_table_of_edits() -> None:
    assert set(FULL_SPEC) == {field.alias for field in TaskDeletionSpec.model_fields.values()}


@pytest.mark.parametrize("field", IMMUTABLE)
def test_changing_a_field_is_refused(kubectl: Kubectl, full: str, field: str) -> None:
    assert_refused(
        try_edit(kubectl, full, {field: IMMUTABLE[field][1]}), f"spec.{field}", "create another TaskDeletion"
    )


@pytest.mark.parametrize("field", sorted(IMMUTABLE.keys() - {"taskIds"}))
def test_removing_a_field_is_refused(kubectl: Kubectl, full: str, field: str) -> None:
    assert_refused(try_edit(kubectl, full, {field: None}), f"spec.{field}", "create another TaskDeletion")


def test_removing_the_task_ids_is_refused(kubectl: Kubectl, full: str) -> None:
    assert_refused(try_edit(kubectl, full, {"taskIds": None}), "spec.taskIds", "Required value")


@pytest.mark.parametrize("field", sorted(IMMUTABLE.keys() - {"confirm"}))
def test_setting_a_field_later_is_refused(kubectl: Kubectl, minimal: None, field: str) -> None:
    answer = try_edit(kubectl, "taskdeletion/minimal", {field: IMMUTABLE[field][0]})
    assert_refused(answer, f"spec.{field}", "create another TaskDeletion")


@pytest.mark.parametrize("field", MUTABLE)
def test_suspend_and_ttl_can_be_set_changed_and_removed(kubectl: Kubectl, full: str, minimal: None, field: str) -> None:
    value, other = MUTABLE[field]
    assert_accepted(try_edit(kubectl, "taskdeletion/minimal", {field: value}))
    assert_accepted(try_edit(kubectl, full, {field: other}))
    assert_accepted(try_edit(kubectl, full, {field: None}))


def test_a_refused_edit_names_only_the_field_that_was_edited(kubectl: Kubectl, full: str) -> None:
    answer = try_edit(kubectl, full, {"backoffLimit": 9})
    assert set(re.findall(r"spec\.(\w+): Forbidden", answer.stderr)) == {"backoffLimit"}


def test_reordering_the_task_ids_is_accepted_because_a_set_has_no_order(kubectl: Kubectl, full: str) -> None:
    assert_accepted(try_edit(kubectl, full, {"taskIds": ["b", "a"]}))


# --- patterns: the API server's regular expressions against Python's ----------------------------------------------

DIRECTORY = {"persistentVolumeClaim": {"claimName": "data"}}
SECRET = {"secretRef": {"name": "x"}}


def _table(value: str) -> dict[str, Any]:
    return store(directory=DIRECTORY, catalog={"postgres": {**SECRET, "tasksTable": value}})


@dataclass(frozen=True)
class Patterned:
    """A field with a pattern: how to put a value there, and what a refusal says."""

    path: str
    pattern: str
    advice: str
    build: Any


PATTERNED = {
    "keyPattern": Patterned(
        "spec.redis.keyPatterns[0]",
        places.KEY_PATTERN_PATTERN,
        "could match the keys of another task",
        lambda value: store(redis={**SECRET, "keyPatterns": [value]}),
    ),
    "prefix": Patterned(
        "spec.objectStore.prefixes[0]",
        task_store.PREFIX_PATTERN,
        "could match the objects of another task",
        lambda value: store(objectStore={**SECRET, "bucket": "abc", "prefixes": [value]}),
    ),
    "table": Patterned(
        "spec.catalog.postgres.tasksTable",
        store_catalog.TABLE_PATTERN,
        "write for example public.data_pipeline_tasks",
        _table,
    ),
    "bucket": Patterned(
        "spec.objectStore.bucket",
        task_store.BUCKET_PATTERN,
        "copy it from the object store",
        lambda value: store(objectStore={**SECRET, "bucket": value}),
    ),
    "subPath": Patterned(
        "spec.directory.subPath",
        task_store.SUB_PATH_PATTERN,
        "write for example data_pipeline/training_data",
        lambda value: store(directory={**DIRECTORY, "subPath": value}),
    ),
}

ACCEPTED_VALUES = {
    "keyPattern": [
        *(
            "task:{taskId}",
            "task:{taskId}:*",
            "{taskId}",
            "{taskId}:*",
            "{taskId}:node:*",
            "{{taskId}}:x",
            "{{taskId}}*",
        ),
        *("a/{taskId}/[ab]?", "cache:{{taskId}}:*", "{taskId} x", "é{taskId}é*", "任务:{taskId}:*", "a\n{taskId}\n"),
    ],
    "prefix": [
        *("tasks/{taskId}/", "{taskId}/", "a/b/{taskId}/c/", "x={taskId}/", "tasks/{taskId}/part-1.0/", "é{taskId}/"),
        *("/{taskId}/", "a//{taskId}//"),
    ],
    "table": [
        "tasks",
        "_t",
        "public.tasks",
        "Pipeline.Tasks$1",
        "t" * 63,
        f"{'s' * 63}.{'t' * 63}",
        *('"Data-Tasks"', 'public."task steps"', '"a.b"."c""d"', '"tâches"', '"100%"', '"a;b"', '"a\'--"'),
    ],
    "bucket": ["abc", "a-b.c", "0pipeline9", "a" * 63],
    "subPath": ["a", "a/b", "data pipeline/π", "...", "a..b/c", ".hidden"],
}
REFUSED_VALUES = {
    "keyPattern": [
        *("task_{taskId}", "task-{taskId}", "task.{taskId}", "task1{taskId}", "{taskId}_x", "{taskId}-x", "{taskId}.x"),
        *(
            "{taskId}*",
            "{taskId}?",
            "{taskId}[:]",
            "*{taskId}",
            "*:{taskId}",
            "?:{taskId}",
            "[ab]:{taskId}",
            "a]:{taskId}",
        ),
        *("\\{taskId}", "a\\:{taskId}", "{taskId}:\\*", "{taskId}:{other}", "{a}:{taskId}", "{taskId}:}x"),
        *("task:{TaskId}:*", "task:{task}:*", "task:taskId", "{taskId}{taskId}", "{taskId}\\"),
    ],
    "prefix": [
        *(
            "tasks/{taskId}",
            "tasks/x{taskId}/",
            "tasks/{taskId}x/",
            "tasks/{taskId}-/",
            "tasks/{taskId}./",
            "t.{taskId}/",
        ),
        *(
            "tasks/{taskId}/*/",
            "*/{taskId}/",
            "tasks/?{taskId}/",
            "tasks/{taskId}/\n",
            "{{taskId}}/",
            "tasks/[a]/{taskId}/",
        ),
        *("tasks/{taskId}/a", "a\\/{taskId}/", "tasks/taskId/"),
    ],
    "table": [
        *(
            "",
            "1tasks",
            "a.b.c",
            "a b",
            'a"b',
            '"a',
            '""',
            '"a"b"',
            '"a\n"',
            '"a"."b"."c"',
            "a;b",
            "a-b",
            "a.",
            ".a",
            "t" * 64,
            "tâches",
            "a\n",
            "a'--",
            "tasks\u2028",
        ),
    ],
    "bucket": ["Abc", "a_b", "-ab", "ab-", "a/b", "a b", "abc\n", "büc"],
    "subPath": ["/a", "a/", "a//b", "/", "a\nb", "a\tb", "a\0b", "a\n", "/etc/passwd"],
}


def _cases(table: dict[str, list[str]]) -> list[Any]:
    return [pytest.param(name, value, id=f"{name}-{value!a}") for name, values in table.items() for value in values]


@pytest.mark.parametrize(("name", "value"), _cases(REFUSED_VALUES))
def test_a_value_is_refused_with_advice_where_python_refuses_it(kubectl: Kubectl, name: str, value: str) -> None:
    field = PATTERNED[name]
    assert re.fullmatch(field.pattern, value) is None
    assert_refused(kubectl.try_create(field.build(value)), field.path, field.advice)


@pytest.mark.parametrize(("name", "value"), _cases(ACCEPTED_VALUES))
def test_a_value_is_accepted_where_python_accepts_it(kubectl: Kubectl, name: str, value: str) -> None:
    field = PATTERNED[name]
    assert re.fullmatch(field.pattern, value)
    answer = kubectl.try_create(field.build(value))
    assert_accepted(answer)
    task_store.TaskStore.model_validate_json(answer.stdout)


# --- a TaskStore that is refused ----------------------------------------------------------------------------------

REFUSED_STORES = {
    "nothing-to-clean": (
        {"catalog": {"postgres": SECRET}},
        "spec",
        "at least one of directory, redis and objectStore",
    ),
    "empty": ({}, "spec", "at least one of directory, redis and objectStore"),
    "catalog-without-a-kind": (
        {"directory": DIRECTORY, "catalog": {}},
        "spec.catalog",
        "exactly one of postgres and redis",
    ),
    "catalog-of-two-kinds": (
        {"directory": DIRECTORY, "catalog": {"postgres": SECRET, "redis": SECRET}},
        "spec.catalog",
        "exactly one of postgres and redis",
    ),
    "pattern-of-states": (
        {"directory": DIRECTORY, "catalog": {"redis": {**SECRET, "keyPattern": "node_{taskId}"}}},
        "spec.catalog.redis.keyPattern",
        "could match the keys of another task",
    ),
    "state-settles-in-the-past": (
        {"directory": DIRECTORY, "catalog": {"redis": {**SECRET, "settleSeconds": -1}}},
        "spec.catalog.redis.settleSeconds",
        "should be greater than or equal to 0",
    ),
    "no-secret": ({"redis": {}}, "spec.redis.secretRef", "Required value"),
    "no-claim": ({"directory": {}}, "spec.directory.persistentVolumeClaim", "Required value"),
    "no-bucket": ({"objectStore": SECRET}, "spec.objectStore.bucket", "Required value"),
    "sub-path-leaves": (
        {"directory": {**DIRECTORY, "subPath": "a/../../b"}},
        "spec.directory.subPath",
        "remove the parts '.' and '..'",
    ),
    "sub-path-parent": (
        {"directory": {**DIRECTORY, "subPath": ".."}},
        "spec.directory.subPath",
        "remove the parts '.' and '..'",
    ),
    "sub-path-dot": (
        {"directory": {**DIRECTORY, "subPath": "./a"}},
        "spec.directory.subPath",
        "remove the parts '.' and '..'",
    ),
    "pattern-without-id": (
        {"redis": {**SECRET, "keyPatterns": ["task:everything:*"]}},
        "spec.redis.keyPatterns[0]",
        "holds {taskId} exactly once",
    ),
    "pattern-with-two-ids": (
        {"redis": {**SECRET, "keyPatterns": ["task:{taskId}", "{taskId}:{taskId}"]}},
        "spec.redis.keyPatterns[1]",
        "holds {taskId} exactly once",
    ),
    "no-patterns": ({"redis": {**SECRET, "keyPatterns": []}}, "spec.redis.keyPatterns", "should have at least 1 items"),
    "prefix-without-id": (
        {"objectStore": {**SECRET, "bucket": "abc", "prefixes": ["everything/"]}},
        "spec.objectStore.prefixes[0]",
        "holds {taskId} exactly once",
    ),
    "steps-table": (
        {"directory": DIRECTORY, "catalog": {"postgres": {**SECRET, "stepsTable": "steps; drop"}}},
        "spec.catalog.postgres.stepsTable",
        "write for example public.data_pipeline_tasks",
    ),
    "time-zone": (
        {"directory": DIRECTORY, "catalog": {"postgres": {**SECRET, "timeZone": "UTC+8 hours"}}},
        "spec.catalog.postgres.timeZone",
        "write for example UTC or Asia/Shanghai",
    ),
    "secret-name": ({"redis": {"secretRef": {"name": "My Secret"}}}, "spec.redis.secretRef.name", "lower-case"),
    "status-twice": (
        {"directory": DIRECTORY, "catalog": {"postgres": {**SECRET, "terminalStatuses": ["failed", "failed"]}}},
        "spec.catalog.postgres.terminalStatuses[1]",
        "Duplicate value",
    ),
}


@pytest.mark.parametrize(("spec", "field", "advice"), REFUSED_STORES.values(), ids=REFUSED_STORES)
def test_a_faulty_store_is_refused_with_the_field_and_what_to_do(
    kubectl: Kubectl, spec: dict[str, Any], field: str, advice: str
) -> None:
    assert_refused(kubectl.try_create(manifest("TaskStore", spec)), field, advice)


# --- edits of a TaskStore -----------------------------------------------------------------------------------------

FULL_STORE: dict[str, dict[str, Any]] = {
    "catalog": {"postgres": {**SECRET, "tasksTable": "tasks", "stepsTable": "steps", "timeZone": "Asia/Shanghai"}},
    "directory": {**DIRECTORY, "subPath": "a/b"},
    "redis": {**SECRET, "keyPatterns": ["a:{taskId}", "b:{taskId}:*"]},
    "objectStore": {**SECRET, "bucket": "pipeline", "prefixes": ["a/{taskId}/", "b/{taskId}/"]},
}
MOVES: dict[str, dict[str, Any]] = {
    "catalog.postgres.tasksTable": {"catalog": {"postgres": {"tasksTable": "others"}}},
    "catalog.postgres.stepsTable": {"catalog": {"postgres": {"stepsTable": None}}},
    "directory.persistentVolumeClaim.claimName": {"directory": {"persistentVolumeClaim": {"claimName": "other"}}},
    "directory.subPath": {"directory": {"subPath": "a/c"}},
    "redis.keyPatterns": {"redis": {"keyPatterns": ["a:{taskId}"]}},
    "objectStore.bucket": {"objectStore": {"bucket": "other"}},
    "objectStore.prefixes": {"objectStore": {"prefixes": ["a/{taskId}/", "c/{taskId}/"]}},
}
ACCEPTED_STORE_EDITS = {
    "secret-of-the-catalog": {"catalog": {"postgres": {"secretRef": {"name": "new"}}}},
    "secret-of-redis": {"redis": {"secretRef": {"name": "new"}}},
    "secret-of-the-objects": {"objectStore": {"secretRef": {"name": "new"}}},
    "time-zone": {"catalog": {"postgres": {"timeZone": "UTC"}}},
    "terminal-statuses": {"catalog": {"postgres": {"terminalStatuses": ["done"]}}},
    "order-of-patterns": {"redis": {"keyPatterns": ["b:{taskId}:*", "a:{taskId}"]}},
}


@pytest.fixture(scope="module")
def full_store(kubectl: Kubectl) -> str:
    text = json.dumps(manifest("TaskStore", FULL_STORE, "full"))
    kubectl.must("apply", "--server-side", "-f", "-", stdin=text)
    return "taskstore/full"


@pytest.mark.parametrize("field", MOVES)
def test_moving_a_store_is_refused(kubectl: Kubectl, full_store: str, field: str) -> None:
    assert_refused(try_edit(kubectl, full_store, MOVES[field]), f"spec.{field}", "create another TaskStore")


def test_moving_the_state_of_a_store_is_refused(kubectl: Kubectl) -> None:
    state = {"redis": {**SECRET, "keyPattern": "{taskId}:node:*"}}
    text = json.dumps(manifest("TaskStore", {"directory": DIRECTORY, "catalog": state}, "state"))
    kubectl.must("apply", "--server-side", "-f", "-", stdin=text)
    name = "taskstore/state"
    moved = try_edit(kubectl, name, {"catalog": {"redis": {"keyPattern": "{taskId}:run:*"}}})
    assert_refused(moved, "spec.catalog.redis.keyPattern", "create another TaskStore")
    other_kind = try_edit(kubectl, name, {"catalog": {"redis": None, "postgres": SECRET}})
    assert_refused(other_kind, "spec.catalog.postgres", "create another TaskStore")
    settled = {"ttlSeconds": 60, "settleSeconds": 0, "statusField": "s", "terminalStatuses": ["done"]}
    assert_accepted(try_edit(kubectl, name, {"catalog": {"redis": settled}}))


@pytest.mark.parametrize("part", FULL_STORE)
def test_removing_a_part_of_a_store_is_refused(kubectl: Kubectl, full_store: str, part: str) -> None:
    assert_refused(try_edit(kubectl, full_store, {part: None}), f"spec.{part}", "create another TaskStore")


@pytest.mark.parametrize("part", sorted(FULL_STORE.keys() - {"redis"}))
def test_adding_a_part_to_a_store_is_refused(kubectl: Kubectl, minimal: None, part: str) -> None:
    answer = try_edit(kubectl, "taskstore/minimal", {part: FULL_STORE[part]})
    assert_refused(answer, f"spec.{part}", "create another TaskStore")


@pytest.mark.parametrize("edit", ACCEPTED_STORE_EDITS.values(), ids=ACCEPTED_STORE_EDITS)
def test_what_is_no_location_can_be_edited(kubectl: Kubectl, full_store: str, edit: dict[str, Any]) -> None:
    assert_accepted(try_edit(kubectl, full_store, edit))


# --- what kubectl shows -------------------------------------------------------------------------------------------


def _columns(text: str) -> list[str]:
    return re.split(r"\s{2,}", text.splitlines()[0].strip())


def test_the_columns_of_requests(kubectl: Kubectl, minimal: None) -> None:
    narrow = ["NAME", "PHASE", "PROGRESS", "FAILED", "FREED", "AGE"]
    assert _columns(kubectl.must("get", "td")) == narrow
    assert _columns(kubectl.must("get", "td", "-o", "wide")) == [*narrow, "STORE", "DRY-RUN", "FORCE", "MESSAGE"]


def test_the_columns_of_stores(kubectl: Kubectl, minimal: None) -> None:
    narrow = ["NAME", "READY", "REASON", "AGE"]
    assert _columns(kubectl.must("get", "tst")) == narrow
    assert _columns(kubectl.must("get", "tst", "-o", "wide")) == [*narrow, "MESSAGE"]


def test_the_columns_show_what_a_status_says(kubectl: Kubectl) -> None:
    kubectl.must("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest("TaskDeletion", FULL_SPEC, "shown")))
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Progressing",
        "message": "deleting",
        "lastTransitionTime": "2026-01-31T00:00:00Z",
    }
    status = {"phase": "Running", "progress": "1/2", "summary": {"failed": 7}, "conditions": [ready]}
    kubectl.must("patch", "td/shown", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    row = re.split(r"\s{2,}", kubectl.must("get", "td/shown", "-o", "wide").splitlines()[1].strip())
    assert [*row[:5], *row[6:]] == ["shown", "Running", "1/2", "7", "0 B", "other", "true", "true", "deleting"]


def test_the_category_lists_all_kinds(kubectl: Kubectl, minimal: None) -> None:
    shown = kubectl.must("get", "datapipeline", "-o", "name").split()
    assert {f"{kind.KIND.lower()}.datapipeline.dev/minimal" for kind in KINDS} <= set(shown)


def _objects(path: str, node: Schema) -> Iterator[tuple[str, Schema]]:
    """Path and fields of every object in a schema, through lists, as `kubectl explain` spells paths."""
    if "items" in node:
        yield from _objects(path, node["items"])
    if "properties" in node:
        yield path, node["properties"]
        for name, field in node["properties"].items():
            yield from _objects(f"{path}.{name}", field)


EXPLAINED = [found for kind in KINDS for found in _objects(kind.SHORT_NAMES[0], build_schema(kind))]


@pytest.mark.parametrize(("path", "fields"), EXPLAINED, ids=[path for path, _ in EXPLAINED])
def test_kubectl_explains_every_field(kubectl: Kubectl, path: str, fields: Schema) -> None:
    text = kubectl.must("explain", path)
    shown = " ".join(text.split())
    assert "<no description>" not in shown
    for name in fields.keys() - {"apiVersion", "kind", "metadata"}:  # those the server describes in its own words
        assert f" {name} <" in shown
        assert " ".join(fields[name]["description"].split()) in shown


def test_kubectl_explains_a_field_alone(kubectl: Kubectl) -> None:
    assert "exactly as the catalog spells them" in " ".join(kubectl.must("explain", "td.spec.taskIds").split())
