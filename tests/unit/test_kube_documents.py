import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from taskdeletion.kube.events import Event, build_event, shorten
from taskdeletion.kube.objects import Key, build_merge_patch
from taskdeletion.kube.secrets import SecretData


def apply(patch: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """RFC 7386, the algorithm of its section 2."""
    result = copy.deepcopy(document)
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        elif isinstance(value, dict):
            inner = result.get(name)
            result[name] = apply(value, inner if isinstance(inner, dict) else {})
        else:
            result[name] = value
    return result


@pytest.mark.parametrize(
    ("old", "new", "patch"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": 3}),
        ({"a": 1, "b": 2}, {"b": 2}, {"a": None}),
        ({}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 2}}, {}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": 3}}, {"a": {"x": 3, "y": None}}),
        ({"a": {"x": 1}}, {"a": {}}, {"a": {"x": None}}),
        ({"a": [1, 2]}, {"a": [2]}, {"a": [2]}),
        ({"a": [{"x": 1, "y": 2}]}, {"a": [{"x": 1}]}, {"a": [{"x": 1}]}),
        ({"a": 1}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": {"x": 1}}, {"a": [1]}, {"a": [1]}),
        ({}, {"a": {}}, {"a": {}}),
        ({"a": 0}, {"a": ""}, {"a": ""}),
    ],
)
def test_a_merge_patch_is_the_difference_and_leads_from_old_to_new(
    old: dict[str, Any], new: dict[str, Any], patch: dict[str, Any]
) -> None:
    assert build_merge_patch(old, new) == patch
    assert apply(patch, old) == new


def test_an_event_names_its_object_and_has_a_name_of_its_own() -> None:
    event = Event({"namespace": "n", "name": "a" * 253, "uid": "u"}, "Warning", "Retrying", "later")
    one, two = (build_event(event, datetime(2026, 7, 2, 21, 45, 30, tzinfo=UTC)) for _ in range(2))

    assert one["involvedObject"] == event.involved
    assert (one["type"], one["reason"], one["message"], one["count"]) == ("Warning", "Retrying", "later", 1)
    assert one["firstTimestamp"] == one["lastTimestamp"] == "2026-07-02T21:45:30Z"
    assert one["metadata"]["namespace"] == "n"
    assert len(one["metadata"]["name"]) <= 253
    assert one["metadata"]["name"] != two["metadata"]["name"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", ""),
        ("x" * 1024, "x" * 1024),
        ("x" * 1025, "x" * 1021 + "…"),
        ("ü" * 600, "ü" * 510 + "…"),
    ],
    ids=["empty", "fits", "one too long", "not inside a character"],
)
def test_a_message_is_cut_at_1024_bytes(message: str, expected: str) -> None:
    assert shorten(message) == expected
    assert len(shorten(message).encode()) <= 1024


def test_the_values_of_a_secret_are_not_in_its_repr() -> None:
    assert "hunter2" not in repr(SecretData({"password": b"hunter2"}, "7"))


def test_a_key_reads_like_kubectl() -> None:
    assert str(Key("TaskDeletion", "pipelines", "free-july")) == "TaskDeletion pipelines/free-july"
    assert json.dumps(sorted([Key("TaskStore", "a", "b"), Key("TaskDeletion", "z", "z")])[0].kind) == '"TaskDeletion"'
