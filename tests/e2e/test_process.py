"""The operator as a process: health, settings, embedding with kopf's own runner."""

import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kopf.testing import KopfRunner

from dev.pipeline import Pipeline, wait_until
from dev.stack import Stack
from tests.support.kube import ROOT, Kube, operator_environment
from tests.support.process import running_operator


def run_operator_briefly(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "taskdeletion", "operator"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("TASKDELETION_WORKER", "8", "TASKDELETION_WORKERS"),
        ("TASKDELETION_WORKERS", "many", "TASKDELETION_WORKERS"),
        ("TASKDELETION_NAMESPACES", "Not_A_Namespace", "TASKDELETION_NAMESPACES"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(stack: Stack, name: str, value: str, advice: str) -> None:
    done = run_operator_briefly({**operator_environment(stack), name: value})
    assert done.returncode == 2
    assert advice in done.stderr


def test_without_a_log_in_the_process_says_so(stack: Stack, tmp_path: Path) -> None:
    done = run_operator_briefly(operator_environment(stack, tmp_path / "absent"))
    assert done.returncode == 2
    assert "KUBECONFIG" in done.stderr


def test_probes_answer_while_the_operator_works(stack: Stack, kube: Kube, pipeline: Pipeline, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = operator_environment(stack, TASKDELETION_HEALTH_ADDRESS=address)
    with running_operator(environment, tmp_path / "operator.log") as operator:

        def ask(path: str) -> int:
            try:
                with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return 0

        wait_until(lambda: ask("/readyz") == 200, what="readiness")
        assert ask("/healthz") == 200
        assert ask("/nothing") == 404
        assert operator.stop() == 0


def test_the_operator_runs_inside_kopfs_own_runner(
    stack: Stack, kube: Kube, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """kopf's command line, in a thread of this process, with our handlers: what `kopf run` would do."""
    for name, value in operator_environment(stack, TASKDELETION_NAMESPACES=pipeline.namespace).items():
        monkeypatch.setenv(name, value)
    entry = tmp_path / "entry.py"
    entry.write_text(
        "import os\n"
        "import kopf\n"
        "from taskdeletion.bootstrap import Services\n"
        "from taskdeletion.handlers.registration import register\n"
        "from taskdeletion.settings import Settings\n"
        "register(kopf.get_default_registry(), Services(Settings.from_environment(os.environ)))\n"
    )
    monkeypatch.syspath_prepend(str(ROOT / "operator"))
    pipeline.add_task("task_1")
    monkeypatch.setattr("kopf._core.intents.registries._default_registry", None)
    with KopfRunner(["run", "-n", pipeline.namespace, "--standalone", str(entry)], timeout=60) as runner:
        kube.create_deletion(pipeline.namespace, "embedded", taskIds=["task_1"])
        status = kube.wait_for_end(pipeline.namespace, "embedded")
    assert runner.exit_code == 0
    assert runner.exception is None
    assert status["phase"] == "Succeeded"
    assert pipeline.look("task_1").is_gone


def test_a_small_request_costs_three_writes(stack: Stack, kube: Kube, pipeline: Pipeline, tmp_path: Path) -> None:
    """Counted in the API server's own audit log: announced, claimed, recorded."""
    pipeline.add_task("task_1")
    with running_operator(operator_environment(stack), tmp_path / "operator.log"):
        kube.create_deletion(pipeline.namespace, "small", taskIds=["task_1"])
        kube.wait_for_end(pipeline.namespace, "small")
    assert stack.kubernetes.audit_log is not None
    events = [json.loads(line) for line in stack.kubernetes.audit_log.read_text().splitlines()]
    mine = [event for event in events if event.get("objectRef", {}).get("namespace") == pipeline.namespace]
    writes = [
        event for event in mine if event["objectRef"].get("name") == "small" and event["verb"] not in ("get", "create")
    ]
    assert [(event["verb"], event["objectRef"].get("subresource")) for event in writes] == [("patch", "status")] * 3


def test_no_finalizer_is_ever_put_on_anything(stack: Stack, kube: Kube, pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.add_task("task_1")
    with running_operator(operator_environment(stack), tmp_path / "operator.log"):
        kube.create_deletion(pipeline.namespace, "one", taskIds=["task_1"])
        kube.wait_for_end(pipeline.namespace, "one")
        for name, plural in (("one", "taskdeletions"), ("default", "taskstores")):
            metadata = (kube.read(pipeline.namespace, name, plural) or {})["metadata"]
            assert "finalizers" not in metadata
            ours = [key for key in metadata.get("annotations", {}) if "kubectl" not in key]
            assert ours == []
