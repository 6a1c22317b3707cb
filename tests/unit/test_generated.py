"""Everything that is generated from the models, as one set of files."""

from pathlib import Path

import pytest

from taskdeletion.api.generated import CHART_TEMPLATES, check_generated, render_generated, write_generated

ROOT = Path(__file__).parents[2]
FILES = [f"{directory}/{name}" for directory, files in render_generated().items() for name in files]


def test_the_set_is_crds_the_charts_copy_and_the_reference() -> None:
    assert sorted({path.rpartition("/")[0] for path in FILES}) == sorted(["crds", CHART_TEMPLATES, "docs"])
    assert "docs/api.md" in FILES


def test_the_files_in_the_repository_are_what_the_models_say() -> None:
    assert check_generated(ROOT) == []


def test_nothing_drifts_after_writing(tmp_path: Path) -> None:
    assert sorted(check_generated(tmp_path)) == sorted(FILES)

    write_generated(tmp_path)

    assert check_generated(tmp_path) == []


@pytest.mark.parametrize("path", FILES)
def test_a_file_that_was_changed_or_removed_has_drifted(tmp_path: Path, path: str) -> None:
    write_generated(tmp_path)
    file = tmp_path / path
    file.write_text(file.read_text() + "\n")
    assert check_generated(tmp_path) == [path]

    file.unlink()
    assert check_generated(tmp_path) == [path]


def test_files_of_others_beside_them_are_left_alone(tmp_path: Path) -> None:
    neighbour = tmp_path / "docs" / "install.md"
    neighbour.parent.mkdir()
    neighbour.write_text("mine")
    write_generated(tmp_path)

    assert neighbour.read_text() == "mine"
    assert check_generated(tmp_path) == []
