"""Reasons are words of the API: each is written down once, explained on a page, and used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskdeletion.api import reasons, task_deletion

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "operator" / "taskdeletion"
PAGES = ROOT / "docs" / "reasons"
INDEX = PAGES / "README.md"
CONSTANTS = {name: value for name, value in vars(reasons).items() if name.isupper()}
every_reason = pytest.mark.parametrize("value", sorted(CONSTANTS.values()))


def modules() -> Iterator[tuple[Path, ast.Module]]:
    """All modules but the one that holds the constants."""
    for path in sorted(SOURCE.rglob("*.py")):
        if path != SOURCE / "api" / "reasons.py":
            yield path, ast.parse(path.read_text())


def words_of_literals() -> set[str]:
    """The words that the API uses as values of other fields, such as the phase Succeeded."""
    words = ast.walk(ast.parse(Path(task_deletion.__file__).read_text()))
    lists = [node for node in words if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"]
    return {str(leaf.value) for node in lists for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}


def test_reasons_are_camel_case_fit_into_their_field_and_are_unique() -> None:
    assert CONSTANTS
    assert [value for value in CONSTANTS.values() if not re.fullmatch(r"(?:[A-Z][a-z]+)+", value)] == []
    assert max(map(len, CONSTANTS.values())) <= 64
    assert len(set(CONSTANTS.values())) == len(CONSTANTS)


@pytest.mark.parametrize(("name", "value"), sorted(CONSTANTS.items()))
def test_a_constant_is_named_like_its_value(name: str, value: str) -> None:
    assert name == re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value).upper()


def test_every_reason_has_a_page_and_every_page_a_reason() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} - {INDEX.stem} == set(CONSTANTS.values())


@every_reason
def test_a_page_says_what_where_whether_it_passes_and_what_to_do(value: str) -> None:
    lines = (PAGES / f"{value}.md").read_text().rstrip("\n").split("\n")
    text = "\n".join(lines)

    assert lines[0] == f"# {value}"
    assert 5 <= len(lines) <= 24
    for label in ("**Where:**", "**Passes by itself:**", "**What to do:**", "**Data:**"):
        assert text.count(label) == 1, label


@every_reason
def test_the_index_has_every_page_once(value: str) -> None:
    assert INDEX.read_text().count(f"[{value}]({value}.md)") == 1


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES.glob("*.md"):
        targets: list[str] = re.findall(r"\]\(([^)#:]+\.md)[^)]*\)", page.read_text())
        assert [target for target in targets if not (page.parent / target).is_file()] == [], page.name


def test_every_reason_is_used() -> None:
    used = {
        node.attr
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "reasons"
    }

    assert sorted(CONSTANTS.keys() - used) == []
    assert sorted(used - CONSTANTS.keys()) == []


#: The same words in another vocabulary: types of conditions, reasons of a Job's, and error codes of S3.
HOMONYMS = {
    ("domain/conditions.py", "Accepted"),
    ("workflow/policy_record.py", "Accepted"),
    ("backends/objects/faults.py", "ObjectLocked"),
    ("domain/job_results.py", "DeadlineExceeded"),
}


def test_no_reason_is_written_inline() -> None:
    """Ready is also a type of conditions; words that are values of other fields (Succeeded) cannot be told apart."""
    values = set(CONSTANTS.values()) - words_of_literals() - {reasons.READY}
    inline = {
        (path.relative_to(SOURCE).as_posix(), node.value)
        for path, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in values
    }

    assert sorted(inline - HOMONYMS) == []
    assert len(values) >= len(CONSTANTS) - 3
