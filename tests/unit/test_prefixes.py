"""Object prefixes: exact, and never of another task."""

import pytest

from taskdeletion.domain.prefixes import build_nobodys_prefix, build_prefix
from taskdeletion.domain.task_ids import is_task_id


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        ("tasks/{taskId}/", "tasks/task_1/"),
        ("{taskId}/", "task_1/"),
        ("a b/{taskId}/out/", "a b/task_1/out/"),
        ("d\u00e9j\u00e0:{taskId}:x/", "d\u00e9j\u00e0:task_1:x/"),
    ],
)
def test_a_prefix_is_the_template_with_the_id(template: str, prefix: str) -> None:
    assert build_prefix(template, "task_1") == prefix


@pytest.mark.parametrize(
    "template",
    [
        "",
        "/",
        "tasks/",
        "{taskId}",
        "tasks/{taskId}",
        "tasks/{taskId}x/",
        "tasks/x{taskId}/",
        "tasks/{taskId}*/",
        "tasks/*/{taskId}/",
        "{taskId}/{taskId}/",
        "tasks/{taskId}/\n",
        "tasks/{taskid}/",
    ],
)
def test_a_template_that_could_name_another_task_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        build_prefix(template, "task_1")


@pytest.mark.parametrize("task_id", ["", ".", "..", "../x", "a/b", "*", "a\n", "a" * 129])
def test_no_prefix_is_built_of_what_is_no_task_id(task_id: str) -> None:
    with pytest.raises(ValueError, match="not a task id"):
        build_prefix("tasks/{taskId}/", task_id)


@pytest.mark.parametrize("neighbour", ["task_10", "task_1.x", "task_1-x", "task_", "TASK_1"])
def test_no_neighbour_stands_under_the_prefix(neighbour: str) -> None:
    assert not build_prefix("tasks/{taskId}/", neighbour).startswith(build_prefix("tasks/{taskId}/", "task_1"))


def test_the_probes_prefix_has_the_templates_shape_and_no_owner() -> None:
    prefix = build_nobodys_prefix("tasks/{taskId}/", "abc")
    assert prefix.startswith("tasks/")
    assert prefix.endswith("/")
    assert not is_task_id(prefix.removeprefix("tasks/").removesuffix("/"))
