"""The page about hostile trees names tests that exist, and every hostile test that exists."""

import ast
import re
from pathlib import Path

from taskdeletion.api import reasons

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "hostile-trees.md"
CONTRACT = ROOT / "tests" / "contract"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("| ") and "::" in line
]
NAMED = re.findall(r"`(test_\w+\.py::test_\w+)`", PAGE.read_text())


def named_in(path: Path) -> set[str]:
    """The tests of a module, as the page names them."""
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    return {f"{path.name}::{function.name}" for function in functions if function.name.startswith("test_")}


def test_every_test_that_the_page_names_exists() -> None:
    existing = {name for path in CONTRACT.glob("test_*.py") for name in named_in(path)}
    assert NAMED
    assert sorted(set(NAMED) - existing) == []


def test_every_hostile_test_is_on_the_page_once() -> None:
    hostile = {name for path in CONTRACT.glob("test_hostile_*.py") for name in named_in(path)}
    assert sorted(hostile - set(NAMED)) == []
    assert sorted(name for name in set(NAMED) if NAMED.count(name) > 1) == []


def test_every_row_has_a_case_an_outcome_a_reason_and_a_test() -> None:
    assert [row[0] for row in ROWS if len(row) != 4 or not re.search(r"`test_\w+\.py::test_\w+`", row[3])] == []


def test_every_reason_on_the_page_exists_and_says_whether_it_is_tried_again() -> None:
    values = {value for name, value in vars(reasons).items() if name.isupper()}
    for row in ROWS:
        named = re.findall(r"`([A-Z]\w+)`", row[2])
        assert sorted(set(named) - values) == [], row[0]
        assert not named or re.search("retriable|permanent|waiting|TaskStore", row[2]), row[0]
