"""What a task id is: the last gate before a path, a key pattern or a prefix is built."""

import pytest

from taskdeletion.api.task_deletion import TaskDeletionSpec
from taskdeletion.domain.task_ids import ID_CHARACTERS, is_task_id, require_task_id


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("task_20250702_173932", id="as pipelines write them"),
        pytest.param("a", id="one letter"),
        pytest.param("0", id="one digit"),
        pytest.param("-", id="a dash"),
        pytest.param("_", id="an underscore"),
        pytest.param("-rf", id="like an option"),
        pytest.param("a.", id="a dot at the end"),
        pytest.param("a..b", id="two dots inside"),
        pytest.param("CON", id="a device on other systems"),
        pytest.param("x" * 128, id="the longest"),
    ],
)
def test_a_task_id(value: str) -> None:
    assert is_task_id(value)
    assert require_task_id(value) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="the directory itself"),
        pytest.param("..", id="its parent"),
        pytest.param(".hidden", id="a dot first"),
        pytest.param("a/b", id="a slash"),
        pytest.param("/a", id="an absolute path"),
        pytest.param("a\\b", id="a backslash"),
        pytest.param("a\n", id="a newline at the end"),
        pytest.param("\na", id="a newline first"),
        pytest.param("a\r", id="a carriage return"),
        pytest.param("a\x00", id="a NUL"),
        pytest.param("a ", id="a blank at the end"),
        pytest.param("a*", id="a star"),
        pytest.param("a?", id="a question mark"),
        pytest.param("[a]", id="a class"),
        pytest.param("{a}", id="braces"),
        pytest.param("a:b", id="a colon"),
        pytest.param("a%2e", id="a percent sign"),
        pytest.param("a@b", id="an at sign"),
        pytest.param("1２3", id="a digit that is not ASCII"),
        pytest.param("٣", id="an Arabic digit"),
        pytest.param("aé", id="a letter that is not ASCII"),
        pytest.param("a\u0301", id="a combining mark"),
        pytest.param("a\u200b", id="a blank of no width"),
        pytest.param("x" * 129, id="one too long"),
        pytest.param("x" * 100_000, id="far too long"),
    ],
)
def test_not_a_task_id(value: str) -> None:
    assert not is_task_id(value)
    with pytest.raises(ValueError, match="is not a task id"):
        require_task_id(value)


def test_every_character_of_an_id_is_named() -> None:
    found = {chr(code) for code in range(0x3000) if is_task_id("a" + chr(code))}

    assert found == ID_CHARACTERS


def test_the_api_takes_an_id_that_the_domain_refuses_so_the_domain_has_to_look() -> None:
    assert TaskDeletionSpec(task_ids=["a\n"]).task_ids == ["a\n"]
