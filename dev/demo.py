"""`python -m dev.demo`: the main job, from `kubectl apply` to freed storage, on real services, checked at the end.

Run by `make demo`. Shows what was there, what is there now, and what was not touched; exits 1 if one thing is not as it
should be. Leaves nothing running.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack, start_stack
from dev.story import FORGOTTEN, KEPT, NAMESPACE, POLICY, REQUESTS, Expected, Outcome, Story

ROOT = Path(__file__).resolve().parents[1]
STORES = ("default", "workflows")
POLICY_LABEL = "datapipeline.dev/policy"
TASKS_IN_SHORT = (
    r'{range .status.tasks[*]}{.taskId}{"\t"}{.state}{"\t"}{.reason}{"\t"}{.message}{"\n"}'
    r'{range .resources[*]}{"\t"}{.resource}{"\t"}{.outcome}{"\t"}{.count}{"\n"}{end}{end}'
)
#: task id -> what the statuses of all requests of the demo say of it
Outcomes = dict[str, list[Outcome]]


def main() -> int:
    """Run the demo; returns the exit code."""
    with start_stack() as stack:
        return play(stack, Story(stack))


def play(stack: Stack, story: Story) -> int:
    """The story: fill, start, apply, wait, show, compare."""
    say("A pipeline that keeps its tasks in PostgreSQL, and one that has only their state in Redis")
    install_crds(stack)
    fill(stack, story)
    before = story.look()
    say("The operator starts")
    stack.spawn("operator", [sys.executable, "-m", "taskdeletion", "operator"], operator_environment(stack))
    for name in STORES:
        kubectl(stack, "wait", "--for=condition=Ready", f"taskstore/{name}", "-n", NAMESPACE, "--timeout=60s")
    say("kubectl apply -f examples/")
    kubectl(stack, "apply", "-f", str(ROOT / "examples"))
    for name, (condition, _) in REQUESTS.items():
        kubectl(stack, "wait", f"--for=condition={condition}", f"td/{name}", "-n", NAMESPACE, "--timeout=60s")
    say(f"kubectl get td -n {NAMESPACE} -o wide")
    kubectl(stack, "get", "td", "-n", NAMESPACE, "-o", "wide")
    say(f"kubectl get tst -n {NAMESPACE}")
    kubectl(stack, "get", "tst", "-n", NAMESPACE)
    say(f"kubectl describe td mixed -n {NAMESPACE}")
    kubectl(stack, "describe", "td", "mixed", "-n", NAMESPACE)
    say(f"kubectl get td free-workflows -n {NAMESPACE} -o jsonpath='{TASKS_IN_SHORT}'")
    kubectl(stack, "get", "td", "free-workflows", "-n", NAMESPACE, "-o", f"jsonpath={TASKS_IN_SHORT}")
    follow_policy(stack)
    requests = read_requests(stack)
    phases = {one["metadata"]["name"]: one.get("status", {}).get("phase") for one in requests}
    wrong = [name for name, (_, phase) in REQUESTS.items() if phases.get(name) != phase]
    return close(story, before, read_outcomes(requests), wrong)


def follow_policy(stack: Stack) -> None:
    """A retention policy, from its preview to the end of a run."""
    policy = f"trp/{POLICY}"
    say("kubectl apply -f dev/policy.yaml")
    kubectl(stack, "apply", "-f", str(ROOT / "dev" / "policy.yaml"))
    kubectl(stack, "wait", "--for=jsonpath={.status.preview.generation}=1", policy, "-n", NAMESPACE, "--timeout=60s")
    say("What its next run would take")
    kubectl(stack, "get", policy, "-n", NAMESPACE, "-o", "jsonpath={.status.preview}{'\\n'}")
    say("Its next run, within a minute")
    ended = "--for=jsonpath={.status.lastRun.phase}=Succeeded"
    kubectl(stack, "wait", ended, policy, "-n", NAMESPACE, "--timeout=120s")
    say(f"kubectl get trp,td -n {NAMESPACE}")
    kubectl(stack, "get", "trp,td", "-n", NAMESPACE)


def install_crds(stack: Stack) -> None:
    """Install the CRDs and wait until they are served."""
    kubectl(stack, "apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl(stack, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def fill(stack: Stack, story: Story) -> None:
    """The namespace, both pipelines with all tasks, and the Secrets; the TaskStores come from examples/."""
    kubectl(stack, "create", "namespace", NAMESPACE)
    story.fill()
    for name, values in story.secrets().items():
        pairs = [f"--from-literal={key}={value}" for key, value in values.items()]
        kubectl(stack, "create", "secret", "generic", name, "-n", NAMESPACE, *pairs)
    for name in ("task-store", "state-store"):
        kubectl(stack, "apply", "-f", str(ROOT / "examples" / f"{name}.yaml"))


def operator_environment(stack: Stack) -> dict[str, str]:
    """The operator beside the control plane: its volumes are folders, not mounts."""
    return {
        **os.environ,
        "KUBECONFIG": str(stack.kubernetes.kubeconfig),
        "PYTHONPATH": str(ROOT / "operator"),
        "TASKDELETION_VOLUMES_ROOT": str(stack.volumes_root),
        "TASKDELETION_REQUIRE_MOUNT": "false",
        "TASKDELETION_HEALTH_ADDRESS": "127.0.0.1:0",
        "TASKDELETION_METRICS_ADDRESS": "127.0.0.1:0",
        "TASKDELETION_PROBE_INTERVAL_SECONDS": "10",
    }


def kubectl(stack: Stack, *arguments: str) -> None:
    """Run kubectl, its output for everybody to see (but not the values of Secrets)."""
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig), *arguments]
    subprocess.run(command, check=True)


def read_requests(stack: Stack) -> list[dict[str, Any]]:
    """All TaskDeletions of the demo's namespace."""
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig)]
    arguments = ["get", "td", "-n", NAMESPACE, "-o", "json"]
    answer = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(answer)["items"]
    return found


def read_outcomes(requests: Iterable[Mapping[str, Any]]) -> Outcomes:
    """What the requests and the policy of the demo say of each task that they name."""
    found: Outcomes = {}
    for request in requests:
        metadata = request["metadata"]
        name = metadata.get("labels", {}).get(POLICY_LABEL, metadata["name"])
        if name in (*REQUESTS, POLICY):  # the dry runs of examples/retention-policy.yaml come at night
            for task in request.get("status", {}).get("tasks", []):
                outcome = Outcome(name, task["state"], task.get("reason", ""))
                found.setdefault(task["taskId"], []).append(outcome)
    return found


def close(story: Story, before: dict[str, Residue], outcomes: Outcomes, wrong_phases: list[str]) -> int:
    """Print the closing table; 1 if anything is not as expected."""
    say("What was there, what is there now, and what the requests say")
    line = "{:24} {:18} {:>16} {:>14}  {:18} {}"
    print(line.format("TASK", "CATALOG SAYS", "BEFORE f/k/o/r", "NOW f/k/o/r", "EXPECTED", "REQUEST"))
    after, bad = story.look(), 0
    for pipeline, task in story.tasks():
        then, now = before[task.task_id], after[task.task_id]
        said = outcomes.get(task.task_id, [])
        faults = find_faults(task, then, now, said)
        bad += bool(faults)
        amounts = describe(pipeline, then), describe(pipeline, now)
        verdict = f"WRONG {'; '.join(faults)}" if faults else f"ok {describe_request(task, said)}"
        print(line.format(task.task_id, story.describe_catalog(pipeline, task), *amounts, task.fate, verdict))
    for name in wrong_phases:
        print(f"WRONG phase of TaskDeletion {name}")
    print(f"\n{len(after) - bad} of {len(after)} tasks as expected, {len(wrong_phases)} requests with a wrong phase")
    return 1 if bad or wrong_phases else 0


def find_faults(task: Expected, then: Residue, now: Residue, said: list[Outcome]) -> list[str]:
    """What is wrong with what is left of a task, and with what statuses say of it (once, by one request)."""
    faults = [] if is_as_expected(task.fate, then, now) else ["something else is left"]
    expected = [] if task.outcome is None else [task.outcome]
    return faults if said == expected else [*faults, f"status says {show(said)}, not {show(expected)}"]


def describe_request(task: Expected, said: list[Outcome]) -> str:
    """What its request says of a task, as read from the status, and why."""
    return ", ".join([*map(str, said), *filter(None, [task.note])])


def show(outcomes: list[Outcome]) -> str:
    """Outcomes for people."""
    return ", ".join(map(str, outcomes)) or "nothing"


def describe(pipeline: Pipeline, found: Residue) -> str:
    """files/keys/objects/records, `-` for what is absent."""
    files = "-" if found.directory is None else str(found.directory)
    records = pipeline.count_records(found)
    return f"{files}/{found.keys or '-'}/{found.objects or '-'}/{records or '-'}"


def is_as_expected(fate: str, then: Residue, now: Residue) -> bool:
    """Whether a task's residue is what its fate says; nothing may ever be left as a sibling."""
    if fate == KEPT:
        return now == then
    if not now.is_gone:
        return False
    if fate == FORGOTTEN:
        return now.row is None and not now.steps
    return now.row is not None and now.row["directory_exists"] is False and now.steps == then.steps


def say(title: str) -> None:
    """A heading."""
    print(f"\n=== {title}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
