"""What the chart sets up for Prometheus: nothing that needs its operator unless asked, and ports that fit together."""

from typing import Any

import pytest
import yaml

from dev.helm import CHART, ChartError, render_chart
from taskdeletion.settings import Settings

Manifest = dict[str, Any]
ALERTS = CHART / "files" / "alerts.yaml"
EVERYTHING = {
    "metrics": {
        "port": 9100,
        "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True, "labels": {"role": "alerts"}},
    }
}


def rendered(values: Manifest) -> dict[str, Manifest]:
    """The manifests that have to do with metrics, by kind."""
    documents = yaml.safe_load_all(render_chart(values, namespace="ops"))
    kinds = ("Deployment", "Service", "ServiceMonitor", "PodMonitor", "PrometheusRule")
    return {document["kind"]: document for document in documents if document and document["kind"] in kinds}


def container(values: Manifest) -> Manifest:
    (only,) = rendered(values)["Deployment"]["spec"]["template"]["spec"]["containers"]
    found: Manifest = only
    return found


def address(values: Manifest) -> tuple[str, int] | None:
    environment = {variable["name"]: variable["value"] for variable in container(values)["env"]}
    return Settings.from_environment(environment).metrics_address


def test_by_default_metrics_are_served_and_nothing_is_asked_of_the_prometheus_operator() -> None:
    assert set(rendered({})) == {"Deployment", "Service"}
    assert address({}) == ("0.0.0.0", 8081)


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["default", "another port"])
def test_service_and_pod_name_the_port_that_the_operator_serves(values: Manifest) -> None:
    served = address(values)
    assert served is not None
    ports = {port["name"]: port["containerPort"] for port in container(values)["ports"]}
    assert ports == {"health": 8080, "metrics": served[1]}
    (port,) = rendered(values)["Service"]["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (served[1], "metrics")


def test_every_replica_is_scraped_also_one_that_is_not_ready() -> None:
    spec = rendered({})["Service"]["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert spec["selector"] == rendered({})["Deployment"]["spec"]["selector"]["matchLabels"]


def test_monitors_find_the_service_and_the_pods() -> None:
    found = rendered(EVERYTHING)
    service_monitor, pod_monitor = found["ServiceMonitor"], found["PodMonitor"]
    assert service_monitor["metadata"]["labels"]["release"] == "prometheus"
    assert service_monitor["spec"]["endpoints"] == [{"port": "metrics", "interval": "15s"}]
    wanted = service_monitor["spec"]["selector"]["matchLabels"].items()
    assert wanted <= found["Service"]["metadata"]["labels"].items()
    pods = found["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert pod_monitor["spec"]["selector"]["matchLabels"].items() <= pods
    assert [port["port"] for port in pod_monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_the_rule_holds_the_alerts_as_they_are_in_their_file() -> None:
    rule = rendered(EVERYTHING)["PrometheusRule"]
    assert rule["metadata"]["labels"]["role"] == "alerts"
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())


def test_alerts_lead_to_runbooks_where_people_can_read_them() -> None:
    url = "https://wiki.example/runbooks"
    rule = rendered({"metrics": {"prometheusRule": {"enabled": True, "runbookUrl": url}}})["PrometheusRule"]
    rules = [rule for group in rule["spec"]["groups"] for rule in group["rules"]]
    assert {rule["annotations"]["runbook_url"] for rule in rules} == {f"{url}/{rule['alert']}.md" for rule in rules}


def test_switched_off_nothing_is_served() -> None:
    values = {"metrics": {"enabled": False}}
    assert set(rendered(values)) == {"Deployment"}
    assert address(values) is None
    assert [port["name"] for port in container(values)["ports"]] == ["health"]


@pytest.mark.parametrize(
    ("values", "path"),
    [
        pytest.param({"port": 8080}, "/metrics/port", id="the port of the probes"),
        pytest.param({"port": 80}, "/metrics/port", id="a port for root"),
        pytest.param({"port": "8081"}, "/metrics/port", id="a string for the port"),
        pytest.param(
            {"enabled": False, "serviceMonitor": {"enabled": True}}, "/metrics/serviceMonitor", id="no metrics"
        ),
        pytest.param({"podMonitor": {"interval": "often"}}, "/metrics/podMonitor/interval", id="no interval"),
        pytest.param({"prometheusRule": {"runbookUrl": "x"}}, "/metrics/prometheusRule/runbookUrl", id="no address"),
        pytest.param({"rule": {}}, "/metrics", id="an unknown key"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Manifest, path: str) -> None:
    with pytest.raises(ChartError, match="schema") as refusal:
        render_chart({"metrics": values})
    assert path in str(refusal.value)
