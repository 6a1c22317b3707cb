"""What is written about metrics and alerts is what there is."""

import re
from pathlib import Path

import pytest

from dev.metrics_docs import PAGE, ROOT, fill, read_alerts
from tests.support.promql import known_labels

RUNBOOKS = ROOT / "docs" / "runbooks"
ALERT_NAMES = [rule["alert"] for rule in read_alerts()]
every_alert = pytest.mark.parametrize("name", ALERT_NAMES)
LABELS = ("**Means:**", "**Impact:**", "**Look at:**", "**What to do:**")


def test_the_tables_are_those_of_the_code() -> None:
    assert fill(PAGE.read_text()) == PAGE.read_text(), "run: make generate"


def test_a_page_without_a_place_for_a_table_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for its alerts"):
        fill("<!-- generated: metrics -->\n<!-- end of metrics -->\n\n<!-- end of metrics -->")


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md")) == sorted(ALERT_NAMES)


@every_alert
def test_a_runbook_says_what_it_means_and_what_to_do(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n\n- **Means:** ")
    assert [text.count(label) for label in LABELS] == [1] * len(LABELS)
    assert sorted(LABELS, key=text.index) == list(LABELS)


@pytest.mark.parametrize("path", [PAGE, *sorted(RUNBOOKS.glob("*.md"))], ids=lambda path: path.stem)
def test_pages_name_metrics_that_exist_and_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    stems = {name.removesuffix(suffix) for name in known_labels() for suffix in ("", "_bucket", "_sum", "_count")}
    named = set(re.findall(r"\btaskdeletion_[a-z_]+", text))
    assert named - stems == set()
    targets: list[str] = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert [target for target in targets if not (path.parent / target).exists()] == []


@pytest.mark.parametrize("rule", read_alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_and_where_to_read_on(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    assert re.fullmatch(r"TaskDeletion([A-Z][a-z]+)+", str(rule["alert"]))
