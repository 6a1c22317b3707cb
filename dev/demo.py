"""`python -m dev.demo`: the main job, from `kubectl apply` to freed storage, on real services, checked at the end.

Run by `make demo`. Shows what was there, what is there now, and what was not touched; exits 1 if one thing is not as it
should be. Leaves nothing running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack, start_stack
from dev.story import FORGOTTEN, KEPT, NAMESPACE, POLICY, REQUESTS, Story

ROOT = Path(__file__).resolve().parents[1]
STORES = ("default", "workflows")


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
    follow_policy(stack)
    wrong = [name for name, (_, phase) in REQUESTS.items() if read_phase(stack, name) != phase]
    return close(story, before, wrong)


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
        "TASKDELETION_PROBE_INTERVAL_SECONDS": "10",
    }


def kubectl(stack: Stack, *arguments: str) -> None:
    """Run kubectl, its output for everybody to see (but not the values of Secrets)."""
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig), *arguments]
    subprocess.run(command, check=True)


def read_phase(stack: Stack, name: str) -> str:
    """The phase of one of the demo's requests."""
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig)]
    arguments = ["get", "td", name, "-n", NAMESPACE, "-o", "jsonpath={.status.phase}"]
    return subprocess.run([*command, *arguments], check=True, capture_output=True, text=True).stdout


def close(story: Story, before: dict[str, Residue], wrong_phases: list[str]) -> int:
    """Print the closing table; 1 if anything is not as expected."""
    say("What was there, what is there now")
    line = "{:24} {:18} {:>16} {:>14}  {:18} {}"
    print(line.format("TASK", "CATALOG SAYS", "BEFORE f/k/o/r", "NOW f/k/o/r", "EXPECTED", "REQUEST"))
    after, bad = story.look(), 0
    for pipeline, task in story.tasks():
        then, now = before[task.task_id], after[task.task_id]
        fine = is_as_expected(task.fate, then, now)
        bad += not fine
        mark = "ok " if fine else "WRONG "
        amounts = describe(pipeline, then), describe(pipeline, now)
        print(line.format(task.task_id, task.status, *amounts, task.fate, mark + task.state))
    for name in wrong_phases:
        print(f"WRONG phase of TaskDeletion {name}")
    print(f"\n{len(after) - bad} of {len(after)} tasks as expected, {len(wrong_phases)} requests with a wrong phase")
    return 1 if bad or wrong_phases else 0


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
