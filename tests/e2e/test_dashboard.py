"""Dashboard and alerts on a real Prometheus that scrapes a real operator at work: each asks for what is there."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dev.metrics_docs import ALERTS, ROOT, read_alerts
from dev.monitoring import Prometheus, running_prometheus
from dev.pipeline import Pipeline, wait_until
from dev.settings import free_port
from dev.stack import Stack
from taskdeletion.api.retention_policy import TaskRetentionPolicy
from tests.conftest import new_pipeline
from tests.support.kube import GROUP_PATH, Kube, operator_environment
from tests.support.process import running_operator
from tests.support.promql import find_unknown, known_labels

DASHBOARD = json.loads((ROOT / "examples" / "monitoring" / "dashboard.json").read_text())
#: What Grafana puts in for its variables.
VARIABLES = {"$__rate_interval": "1m", "$__range": "5m", "$object_namespace": ".*", "${datasource}": "prometheus"}
#: Panels of what does not happen here, each with the metric that would tell.
NOTHING_TO_SHOW = {
    ("Leftovers", "taskdeletion_leftovers"),
    ("Policies that are not ready", "taskdeletion_policy_ready"),
    ("Runs by outcome", "taskdeletion_policy_runs_total"),
    ("Attempts and retries", "taskdeletion_retries_total"),
    ("Resources that were not deleted, by reason", "taskdeletion_resources_total"),
}


@dataclass(frozen=True)
class Query:
    """One query of one panel. `legend`: the labels that the panel names."""

    panel: str
    expression: str
    legend: frozenset[str]


def fill_in(expression: str) -> str:
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return expression


QUERIES = [
    Query(panel["title"], fill_in(target["expr"]), frozenset(re.findall(r"{{(\w+)}}", target["legendFormat"])))
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
]
each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: f"{query.panel}: {query.expression[:40]}")


@pytest.fixture(scope="module")
def prometheus(stack: Stack, kube: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, after it has seen a minute in the life of an operator."""
    folder = tmp_path_factory.mktemp("prometheus")
    address = f"127.0.0.1:{free_port()}"
    pipeline = new_pipeline(stack, kube, Pipeline)
    environment = operator_environment(
        stack, TASKDELETION_METRICS_ADDRESS=address, TASKDELETION_NAMESPACES=pipeline.namespace
    )
    with (
        running_operator(environment, folder / "operator.log"),
        running_prometheus(folder, [address], [ALERTS]) as server,
    ):
        live_a_little(server, kube, pipeline)
        yield server


def live_a_little(server: Prometheus, kube: Kube, pipeline: Pipeline) -> None:
    namespace = pipeline.namespace
    create_policy(kube, namespace)
    create_store_without_secret(kube, pipeline)
    kube.patch_secret(namespace, "pipeline-redis", {"url": f"redis://127.0.0.1:{free_port()}/0"})
    pipeline.add_task("task_1")
    kube.create_deletion(namespace, "first", taskIds=["task_1"])
    wait_for(server, f'sum(taskdeletion_waiting_requests{{object_namespace="{namespace}"}}) == 1')
    wait_for(server, f'taskdeletion_store_ready{{object_namespace="{namespace}"}} == 0')
    kube.patch_secret(namespace, "pipeline-redis", {"url": pipeline.stack.redis.url})
    kube.wait_for_end(namespace, "first")
    wait_for(server, f'taskdeletion_tasks_total{{state="Deleted", object_namespace="{namespace}"}} == 1')
    pipeline.add_task("task_2", files=7)
    pipeline.add_task("task_3", status="in_progress")
    kube.create_deletion(namespace, "second", taskIds=["task_2", "task_3"], deleteDatabaseRecords=True)
    kube.wait_for_end(namespace, "second")
    wait_for(server, f'increase(taskdeletion_tasks_total{{state="Deleted", object_namespace="{namespace}"}}[1m]) > 0')
    wait_for(server, 'rate(taskdeletion_ended_requests_total{phase="PartiallyFailed"}[1m]) >= 0')
    kube.create_deletion(namespace, "third", taskIds=["task_9"], storeRef={"name": "later"})
    wait_for(server, f'taskdeletion_waiting_requests{{reason="StoreNotFound", object_namespace="{namespace}"}} == 1')


def create_policy(kube: Kube, namespace: str) -> None:
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": TaskRetentionPolicy.KIND,
        "metadata": {"name": "nightly", "namespace": namespace},
        "spec": {"schedule": "0 2 * * *", "rules": [{"statuses": ["completed"], "olderThan": "30d"}]},
    }
    kube.create(f"{GROUP_PATH}/namespaces/{namespace}/taskretentionpolicies", body)


def create_store_without_secret(kube: Kube, pipeline: Pipeline) -> None:
    redis = {"secretRef": {"name": "missing"}, "keyPatterns": ["other:{taskId}"]}
    manifests = pipeline.manifests(store="broken", catalog=None, directory=None, objectStore=None, redis=redis)
    kube.apply([manifest for manifest in manifests if manifest["kind"] == "TaskStore"])


def wait_for(server: Prometheus, expression: str) -> None:
    wait_until(lambda: server.query(expression), seconds=60, what=expression)


@each_query
def test_a_panel_asks_for_metrics_and_labels_that_exist(prometheus: Prometheus, query: Query) -> None:
    assert find_unknown(prometheus.parse(query.expression), known_labels()) == []


def test_every_panel_shows_something_but_those_of_what_did_not_happen(prometheus: Prometheus) -> None:
    empty = [query for query in QUERIES if not prometheus.query(query.expression)]
    unexplained = [
        query
        for query in empty
        if not any(query.panel == panel and name in query.expression for panel, name in NOTHING_TO_SHOW)
    ]
    assert unexplained == []


@each_query
def test_a_legend_names_labels_that_the_series_have(prometheus: Prometheus, query: Query) -> None:
    # A label that is empty is the same as none: `reason` of a task that was deleted.
    for series in prometheus.query(query.expression):
        assert query.legend - {"reason"} <= set(series["metric"])


def test_figures_are_those_of_the_work(prometheus: Prometheus) -> None:
    def value(panel: str) -> float:
        (expression,) = [query.expression for query in QUERIES if query.panel == panel]
        (series,) = prometheus.query(expression)
        return float(series["value"][1])

    assert value("Leaders") == 1
    assert value("Live requests") == value("Waiting requests") == value("Stores that are not ready") == 1
    assert value("Tasks deleted") > 0
    assert value("Freed") > 0


@pytest.mark.parametrize("alert", read_alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_metrics_and_labels_that_exist(prometheus: Prometheus, alert: dict[str, Any]) -> None:
    assert find_unknown(prometheus.parse(alert["expr"]), known_labels()) == []


def test_alerts_are_evaluated_on_real_metrics_and_tell_of_the_failure_only(prometheus: Prometheus) -> None:
    def evaluated() -> list[dict[str, Any]]:
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] != "unknown" for rule in rules) else []

    rules = wait_until(evaluated, what="the evaluation of the rules")
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in read_alerts()}
    assert {rule["health"] for rule in rules} == {"ok"}
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} == {"TaskDeletionRequestFailed"}


def test_an_expression_with_a_metric_or_a_label_that_is_not_there_is_found_out(prometheus: Prometheus) -> None:
    wrong = "sum by (store, task_id) (taskdeletion_store_ready) / on (pod) taskdeletion_nothing{verb='GET'}"
    problems = find_unknown(prometheus.parse(wrong), known_labels())
    assert "no metric 'taskdeletion_nothing'" in problems
    assert any("task_id" in problem for problem in problems)
    assert any("verb" in problem for problem in problems)


def test_panels_do_not_overlap_and_leave_the_data_source_to_the_reader() -> None:
    places: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places, panel["title"]
        places |= cells
    assert max(x for x, _ in places) == 23
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert re.findall(r'"uid": "(?!\$\{datasource\})([^"]+)"', json.dumps(DASHBOARD)) == [DASHBOARD["uid"]]


def test_the_dashboard_is_where_the_documentation_says(tmp_path: Path) -> None:
    assert "examples/monitoring/dashboard.json" in (ROOT / "docs" / "metrics.md").read_text()
