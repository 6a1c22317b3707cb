"""Alert rules as Prometheus' own promtool sees them: valid, firing when they should, silent when not."""

import shutil
from pathlib import Path

import pytest
import yaml

from dev.metrics_docs import ALERTS, ROOT, read_alerts
from dev.monitoring import run_promtool
from taskdeletion.observe.metrics import Metrics
from tests.support.measured import fill_metrics

TESTS = ROOT / "tests" / "monitoring" / "alerts.test.yaml"
LOOKS = [look for test in yaml.safe_load(TESTS.read_text())["tests"] for look in test["alert_rule_test"]]


def test_the_rules_are_valid() -> None:
    done = run_promtool("check", "rules", "--lint=all", "--lint-fatal", ALERTS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(read_alerts())} rules found" in done.stdout


def test_alerts_fire_when_they_should_and_only_then() -> None:
    done = run_promtool("test", "rules", TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [rule["alert"] for rule in read_alerts()])
def test_each_alert_is_seen_firing_and_silent(name: str) -> None:
    seen = {bool(look["exp_alerts"]) for look in LOOKS if look["alertname"] == name}
    assert seen == {True, False}


@pytest.mark.parametrize("rule", read_alerts(), ids=lambda rule: rule["alert"])
def test_a_rule_that_never_fires_fails_its_test(rule: dict[str, str], tmp_path: Path) -> None:
    """The tests of the rules see whether a rule holds."""
    rules = tmp_path / "charts" / "task-deletion-operator" / "files" / "alerts.yaml"
    rules.parent.mkdir(parents=True)
    broken = [
        {**other, "expr": "vector(0) > 1"} if other["alert"] == rule["alert"] else other for other in read_alerts()
    ]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "broken", "rules": broken}]}))
    tests = tmp_path / "tests" / "monitoring" / TESTS.name
    tests.parent.mkdir(parents=True)
    shutil.copy(TESTS, tests)
    done = run_promtool("test", "rules", tests)
    assert done.returncode == 1
    assert rule["alert"] in done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_metrics() -> None:
    metrics = Metrics()
    metrics.watch_process("1.2.3")
    fill_metrics(metrics)
    done = run_promtool("check", "metrics", stdin=metrics.expose().decode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_scrape_configuration_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    block = page[page.index("```yaml\nscrape_configs:") + len("```yaml\n") :].partition("```")[0]
    (tmp_path / "prometheus.yaml").write_text(block)
    shutil.copy(ALERTS, tmp_path)
    done = run_promtool("check", "config", tmp_path / "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
