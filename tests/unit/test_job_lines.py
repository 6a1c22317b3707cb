"""What a pod says is read back as it was written, and a log that is not whole is seen to be so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.job_lines import (
    Closing,
    Line,
    Progress,
    TaskLine,
    close_log,
    format_line,
    parse_line,
    parse_log,
)
from taskdeletion.domain.siblings import Sibling, SiblingKind

OWNER = "11111111-2222-3333-4444-555555555555"
TASKS = [TaskLine(f"task_{number}", number, 10 * number) for number in range(1, 4)]
task_ids = st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,12}", fullmatch=True)
counts = st.integers(0, 2**56)
words = st.sampled_from([reasons.BUSY, reasons.INTERRUPTED, reasons.STORE_ROOT_MISSING])
faults = st.none() | st.builds(Fault, st.sampled_from(["waiting", "retriable", "permanent"]), words, st.text())
kinds: st.SearchStrategy[list[SiblingKind]] = st.lists(st.sampled_from(["claimed", "deleting"]), unique=True)
lines: st.SearchStrategy[Line] = st.one_of(
    task_ids.flatmap(
        lambda task_id: st.builds(
            TaskLine,
            st.just(task_id),
            counts,
            counts,
            st.booleans(),
            kinds.map(lambda found: tuple(Sibling(kind, OWNER, task_id) for kind in found)),
            faults,
        )
    ),
    st.builds(Progress, task_ids, counts, counts),
    st.builds(Closing, counts, counts, counts, st.integers(0, 4), faults),
)


def write(*said: Line) -> str:
    return "".join(map(format_line, said))


@given(lines)
def test_a_line_is_read_as_it_was_written(line: Line) -> None:
    text = format_line(line)

    assert text.isascii()
    assert text.count("\n") == 1
    assert parse_line(text) == line


@given(st.text() | lines.map(format_line).flatmap(lambda text: st.integers(0, len(text) - 2).map(lambda n: text[:n])))
def test_what_is_no_whole_line_is_none(text: str) -> None:
    assert parse_line(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"task":"../x","files":0,"bytes":0,"directory":false,"siblings":[]}',
        '{"task":"a","files":-1,"bytes":0,"directory":false,"siblings":[]}',
        '{"task":"a","files":true,"bytes":0,"directory":false,"siblings":[]}',
        '{"task":"a","files":0,"bytes":0,"directory":false,"siblings":["a"]}',
        '{"task":"a","files":0,"bytes":0,"directory":false,"siblings":[],"kind":"nice","reason":"","message":""}',
        '{"task":"a","files":0,"bytes":72057594037927937,"directory":false,"siblings":[]}',
        f'{{"task":"a","files":0,"bytes":0,"directory":false,"siblings":[".claimed-{OWNER}-b"]}}',
        '{"end":0,"files":0,"bytes":0,"level":0,"kind":"waiting","reason":"Forged","message":""}',
        '{"end":1,"files":0}',
        "[1]",
        "1",
        "[" * 100_000,
    ],
)
def test_what_no_pod_writes_is_passed_over(text: str) -> None:
    assert parse_line(text) is None


def test_a_whole_log_is_complete() -> None:
    log = parse_log(write(Progress("task_1", 1, 5), *TASKS, close_log(TASKS, level=2)) + "Traceback: something\n")

    assert log.is_complete
    assert list(log.tasks.values()) == TASKS
    assert log.progress == {}
    assert log.closing == Closing(3, 6, 60, level=2)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param(write(*TASKS), id="no closing line"),
        pytest.param(write(*TASKS[1:], close_log(TASKS)), id="the first line was rotated away"),
        pytest.param(write(*TASKS, close_log(TASKS))[:-3], id="the last line is cut"),
        pytest.param(write(*TASKS, TaskLine("task_9"), close_log(TASKS)), id="a line too many"),
        pytest.param(write(*TASKS[:2], TaskLine("task_3", 4, 30), close_log(TASKS)), id="other counts"),
    ],
)
def test_a_log_that_lost_something_is_not(text: str) -> None:
    assert not parse_log(text).is_complete


def test_the_latest_progress_of_a_task_without_a_line_counts() -> None:
    log = parse_log(write(Progress("task_1", 1, 5), Progress("task_2", 1, 5), Progress("task_1", 7, 35), TASKS[1]))

    assert log.progress == {"task_1": Progress("task_1", 7, 35)}
