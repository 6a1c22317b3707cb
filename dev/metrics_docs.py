"""The tables of docs/metrics.md: every metric from where it is defined, every alert from the chart's file.

`make generate` writes them, `make verify` and a test look whether they are what the code says.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from taskdeletion.observe.families import FAMILIES, Family

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "metrics.md"
ALERTS = ROOT / "charts" / "task-deletion-operator" / "files" / "alerts.yaml"


def read_alerts(path: Path = ALERTS) -> list[dict[str, Any]]:
    """The alert rules, in the order of the file."""
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def render_metrics() -> str:
    """One row for each metric."""
    rows = ["| metric | type | labels | what it says |", "|---|---|---|---|", *map(_describe_metric, FAMILIES)]
    return "\n".join(rows)


def _describe_metric(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
    return f"| `{family.name}` | {family.kind} | {labels} | {family.text} |"


def render_alerts() -> str:
    """One row for each alert."""
    rows = ["| alert | severity | after | summary |", "|---|---|---|---|", *map(_describe_alert, read_alerts())]
    return "\n".join(rows)


def _describe_alert(rule: dict[str, Any]) -> str:
    name, severity, after = rule["alert"], rule["labels"]["severity"], rule.get("for", "at once")
    return f"| [{name}](runbooks/{name}.md) | {severity} | {after} | {rule['annotations']['summary']} |"


def fill(page: str) -> str:
    """The page with its tables as they are to be. ValueError where it has no place for one."""
    return _put(_put(page, "metrics", render_metrics()), "alerts", render_alerts())


def _put(page: str, name: str, table: str) -> str:
    begin, end = f"<!-- generated: {name} -->\n", f"\n<!-- end of {name} -->"
    head, begun, rest = page.partition(begin)
    _, ended, tail = rest.partition(end)
    if not (begun and ended):
        raise ValueError(f"the page has no place for its {name}: {begin.strip()} and {end.strip()}")
    return f"{head}{begin}{table}{end}{tail}"


def main() -> int:
    """Write the page; with --check only say whether it would change."""
    before = PAGE.read_text()
    after = fill(before)
    if "--check" in sys.argv:
        return int(before != after)
    PAGE.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
