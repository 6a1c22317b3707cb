"""Which stores of a namespace reach for the same data."""

from typing import Any

import pytest
from pydantic import ValidationError

from taskdeletion.api.task_store import TaskStoreSpec
from taskdeletion.domain.overlaps import find_ambiguity, find_overlap


def directory(sub_path: str, claim: str = "training-data") -> dict[str, Any]:
    return {"directory": {"persistentVolumeClaim": {"claimName": claim}, "subPath": sub_path}}


def catalog(secret: str = "db", table: str = "tasks") -> dict[str, Any]:
    return {"catalog": {"postgres": {"secretRef": {"name": secret}, "tasksTable": table}}}


def redis(*patterns: str) -> dict[str, Any]:
    return {"redis": {"secretRef": {"name": "r"}, "keyPatterns": list(patterns)}}


def state(pattern: str = "{taskId}:node:*", secret: str = "r") -> dict[str, Any]:
    return {"catalog": {"redis": {"secretRef": {"name": secret}, "keyPattern": pattern}}}


def objects(*prefixes: str, bucket: str = "pipeline") -> dict[str, Any]:
    return {"objectStore": {"secretRef": {"name": "m"}, "bucket": bucket, "prefixes": list(prefixes)}}


def overlap(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    specs = {"one": TaskStoreSpec.model_validate(one), "other": TaskStoreSpec.model_validate(other)}
    found = find_overlap("one", specs)
    assert (found is None) == (find_overlap("other", specs) is None), "both stores or none"
    return found


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        pytest.param(
            {**catalog(), **directory("a")}, {**catalog(), **objects("a/{taskId}/")}, "catalogs", id="one catalog"
        ),
        pytest.param(
            {**catalog(), **directory("a")},
            {**catalog(table='"tasks"'), **directory("b")},
            "catalogs",
            id="one table, quoted",
        ),
        pytest.param(
            {**state(), **directory("a")}, {**state("{taskId}:*:x"), **directory("b")}, "catalogs", id="one state"
        ),
        pytest.param(
            {**state(), **directory("a")},
            redis("{taskId}:node:x"),
            "key patterns and the state keys",
            id="state keys of the other store",
        ),
        pytest.param(directory("a/b"), directory("a/b"), "directories", id="equal roots"),
        pytest.param(directory("a"), directory("a/b"), "directories", id="a nested root"),
        pytest.param(directory("a/b/c"), directory("a"), "directories", id="a root two levels up"),
        pytest.param(redis("task:{taskId}"), redis("task:{taskId}"), "key patterns", id="equal patterns"),
        pytest.param(redis("task:{taskId}"), redis("task:{taskId}:*"), "key patterns", id="patterns that share a head"),
        pytest.param(
            redis("a:{taskId}", "b:{taskId}"), redis("c:{taskId}", "b:x:{taskId}"), "key patterns", id="one of"
        ),
        pytest.param(redis("{taskId}:*"), redis("task:{taskId}"), "key patterns", id="a pattern without a head"),
        pytest.param(objects("tasks/{taskId}/"), objects("tasks/{taskId}/"), "object prefixes", id="equal prefixes"),
        pytest.param(objects("tasks/{taskId}/"), objects("tasks/x/{taskId}/"), "object prefixes", id="a nested prefix"),
        pytest.param(objects("{taskId}/"), objects("tasks/{taskId}/"), "object prefixes", id="a prefix without a head"),
        pytest.param(
            {**directory("a"), **objects("x/{taskId}/")},
            {**directory("b"), **objects("x/{taskId}/")},
            "object prefixes",
            id="one part of two",
        ),
    ],
)
def test_stores_overlap(one: dict[str, Any], other: dict[str, Any], what: str) -> None:
    message = overlap(one, other)

    assert message is not None
    assert f"the {what} of this store and of TaskStore other" in message


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            {**catalog(), **directory("a")}, {**catalog("db-2"), **directory("b")}, id="catalogs of two databases"
        ),
        pytest.param(
            {**catalog(), **directory("a")},
            {**catalog(table="other"), **directory("b")},
            id="two tables of one database",
        ),
        pytest.param(
            {**state(), **directory("a")}, {**state(secret="s"), **directory("b")}, id="states of two Redis servers"
        ),
        pytest.param(
            {**state(), **directory("a")}, {**state("{taskId}:run:*"), **directory("b")}, id="disjoint states"
        ),
        pytest.param({**state(secret="s"), **directory("a")}, redis("{taskId}:*"), id="state of another Redis"),
        pytest.param({**state(), **directory("a")}, {**catalog("r"), **directory("b")}, id="a database and a state"),
        pytest.param(directory("a"), directory("b"), id="disjoint roots"),
        pytest.param(directory("tasks"), directory("tasks-old"), id="a root whose name begins like another"),
        pytest.param(directory("a", "claim-1"), directory("a", "claim-2"), id="the same path on two claims"),
        pytest.param(redis("a:{taskId}"), redis("b:{taskId}"), id="disjoint patterns"),
        pytest.param(objects("a/{taskId}/"), objects("b/{taskId}/"), id="disjoint prefixes"),
        pytest.param(
            objects("a/{taskId}/"), objects("a/{taskId}/", bucket="other"), id="the same prefix in two buckets"
        ),
        pytest.param(directory("a"), redis("a:{taskId}"), id="nothing of the same kind"),
    ],
)
def test_stores_do_not_overlap(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert overlap(one, other) is None


def test_a_store_does_not_overlap_with_itself() -> None:
    assert find_overlap("one", {"one": TaskStoreSpec.model_validate(directory("a"))}) is None


def test_the_first_by_name_is_told_so_that_the_message_does_not_change() -> None:
    specs = {name: TaskStoreSpec.model_validate(directory("a")) for name in ("z", "me", "b")}

    assert "TaskStore b " in (find_overlap("me", specs) or "")


@pytest.mark.parametrize(
    ("spec", "is_ambiguous"),
    [
        pytest.param(redis("task:{taskId}", "task:{taskId}:*"), False, id="one head"),
        pytest.param(redis("a:{taskId}", "b:{taskId}"), False, id="disjoint heads"),
        pytest.param(objects("tasks/{taskId}/in/", "tasks/{taskId}/out/"), False, id="one head, two tails"),
        pytest.param(objects("{taskId}/", "tasks/{taskId}/"), True, id="the tasks of a task named tasks"),
        pytest.param(objects("a/{taskId}/", "a/b/{taskId}/"), True, id="nested prefixes"),
        pytest.param(redis("{taskId}:*", "task:{taskId}"), True, id="nested patterns"),
    ],
)
def test_a_store_whose_own_layouts_reach_for_each_other_is_ambiguous(spec: dict[str, Any], is_ambiguous: bool) -> None:
    assert (find_ambiguity(TaskStoreSpec.model_validate(spec)) is not None) == is_ambiguous


@pytest.mark.parametrize(
    ("pattern", "is_doomed"),
    [
        pytest.param("{taskId}:*", True, id="a pattern around the state keys"),
        pytest.param("{taskId}:node:last", True, id="one of the state keys"),
        pytest.param("{taskId}:result:*", False, id="keys beside the state"),
    ],
)
def test_data_patterns_that_match_state_keys_are_refused(pattern: str, is_doomed: bool) -> None:
    spec = TaskStoreSpec.model_validate({**state(secret="other"), **redis(pattern)})
    problem = find_ambiguity(spec)
    assert (problem is not None) == is_doomed
    assert problem is None or f"the pattern {pattern} of spec.redis.keyPatterns can match state keys" in problem


@pytest.mark.parametrize(
    "catalog", [{}, {"postgres": {"secretRef": {"name": "a"}}, "redis": {"secretRef": {"name": "a"}}}]
)
def test_a_catalog_of_no_or_two_kinds_is_no_spec(catalog: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of postgres and redis"):
        TaskStoreSpec.model_validate({"catalog": catalog, **directory("a")})
