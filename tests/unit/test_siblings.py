"""Names of directories that were moved aside: written, read back, and never mistaken."""

import random

import pytest

from taskdeletion.domain.siblings import Sibling, SiblingKind, parse_sibling
from taskdeletion.domain.task_ids import ID_CHARACTERS, is_task_id

UID = "0a1b2c3d-4e5f-6789-abcd-ef0123456789"


@pytest.mark.parametrize("kind", ["claimed", "deleting"])
@pytest.mark.parametrize(
    "task_id", ["task_20250702_173932", "a", "-", "_", "a.b", "a-b-c", "x" * 128, f"claimed-{UID}-x", UID]
)
def test_a_name_is_read_back_as_it_was_written(kind: SiblingKind, task_id: str) -> None:
    sibling = Sibling(kind, UID, task_id)

    assert sibling.name == f".{kind}-{UID}-{task_id}"
    assert parse_sibling(sibling.name) == sibling


def test_names_round_trip_for_any_id() -> None:
    draw = random.Random(1)
    characters = sorted(ID_CHARACTERS)
    for _ in range(5000):
        task_id = "".join(draw.choices(characters, k=draw.randint(1, 128)))
        sibling = Sibling(draw.choice(["claimed", "deleting"]), UID, task_id)
        assert parse_sibling(sibling.name) == (sibling if is_task_id(task_id) else None)


@pytest.mark.parametrize("sibling", [Sibling("claimed", UID, "a"), Sibling("deleting", UID, "x" * 128)])
def test_a_sibling_is_never_a_task_and_fits_into_a_file_name(sibling: Sibling) -> None:
    assert not is_task_id(sibling.name)
    assert len(sibling.name) <= 255


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("task_1", id="a task"),
        pytest.param(f"claimed-{UID}-a", id="without the dot"),
        pytest.param(f"..claimed-{UID}-a", id="two dots"),
        pytest.param(f".claimed-{UID}-", id="without an id"),
        pytest.param(f".claimed-{UID}", id="without an id and its dash"),
        pytest.param(f".claimed-{UID}-.a", id="an id that begins with a dot"),
        pytest.param(f".claimed-{UID}-..", id="the parent"),
        pytest.param(f".claimed-{UID}-a/b", id="a slash"),
        pytest.param(f".claimed-{UID}-a\n", id="a newline at the end"),
        pytest.param(f".claimed-{UID}-a b", id="a blank"),
        pytest.param(f".claimed-{UID}-ａ", id="a letter that is not ASCII"),
        pytest.param(f".claimed-{UID}-{'x' * 129}", id="an id that is too long"),
        pytest.param(f".claimed-{UID.upper()}-a", id="a uid in capitals"),
        pytest.param(f".claimed-{UID[:-1]}-a", id="a uid that is too short"),
        pytest.param(f".claimed-{UID}0-a", id="a uid that is too long"),
        pytest.param(f".claimed-{UID.replace('0', '٠')}-a", id="a uid with digits that are not ASCII"),
        pytest.param(".claimed--a", id="without a uid"),
        pytest.param(f".Claimed-{UID}-a", id="another case"),
        pytest.param(f".deleted-{UID}-a", id="another word"),
        pytest.param(f".claimed-{UID}_a", id="another separator"),
        pytest.param(f"x.claimed-{UID}-a", id="something before it"),
        pytest.param(f".probe-{UID}", id="a trial directory"),
    ],
)
def test_other_names_are_no_siblings(name: str) -> None:
    assert parse_sibling(name) is None
