"""How a TaskStore spells the name of a table."""

import pytest

from taskdeletion.domain.faults import Fault
from taskdeletion.domain.table_names import parse_table_name


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("data_pipeline_tasks", ("data_pipeline_tasks",)),
        ("Tasks", ("Tasks",)),
        ("archive.Tasks$1", ("archive", "Tasks$1")),
        ('"Data-Tasks"', ("Data-Tasks",)),
        ('public."task steps"', ("public", "task steps")),
        ('"my.schema".tasks', ("my.schema", "tasks")),
        ('"a""b"."c"', ('a"b', "c")),
        ('""""', ('"',)),
        ('"任务-1"."Ä"', ("任务-1", "Ä")),
        ('"tasks"', ("tasks",)),
        ('"100% of {ids}; DROP TABLE x --"', ("100% of {ids}; DROP TABLE x --",)),
        ("a" * 63, ("a" * 63,)),
        (f'"{"ä" * 31}a"', ("ä" * 31 + "a",)),
    ],
)
def test_a_name_has_its_parts_exactly_as_written(text: str, parts: tuple[str, ...]) -> None:
    assert parse_table_name(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a.", ".a", "a.b.c", "1a", "a b", "a-b", "ä", "a;b", " a", "a ", "a\n", "a. b"),
        *(
            '"',
            '""',
            '"a',
            'a"',
            '"a"b',
            '"a"."',
            '""."a"',
            '"a" "b"',
            '"a"b"',
            '"a\nb"',
            '"a\x00"',
            '"a\x7f"',
            '"a"\n',
        ),
        *("a" * 64, f'"{"ä" * 32}"', f"a.{'b' * 64}"),
    ],
)
def test_what_is_no_name_or_would_be_cut_is_refused(text: str) -> None:
    with pytest.raises(Fault) as caught:
        parse_table_name(text)
    assert (caught.value.kind, caught.value.reason) == ("waiting", "StoreInvalid")
