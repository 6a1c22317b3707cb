"""`python -m dev.demo`: the main job, from `kubectl apply` to freed storage, on real services, checked at the end.

Run by `make demo`. Shows what was there, what is there now, and what was not touched; exits 1 if one thing is not as it
should be. Leaves nothing running.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dev.pipeline import Pipeline, Residue
from dev.stack import Stack, start_stack

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "pipelines"
BUCKET = "pipeline"
KEPT, FREED, FORGOTTEN = "untouched", "freed, rows kept", "gone, rows too"


@dataclass(frozen=True)
class Expected:
    """One task of the demo: what the catalog says of it, and what must have become of it."""

    task_id: str
    status: str
    fate: str
    state: str
    files: int = 12
    file_bytes: int = 20_000
    row: bool = True


TASKS = (
    Expected("task_20250702_173932", "completed", FREED, "free-july: Deleted", files=15, file_bytes=174_763),
    Expected("task_20250702_174521", "partial_completed", FREED, "free-july: Deleted"),
    Expected("task_20250702_1739", "completed", KEPT, "a neighbour: nobody named it"),
    Expected("task_20250702_1739321", "completed", KEPT, "a neighbour: nobody named it"),
    Expected("task_20250703_090000", "failed", FORGOTTEN, "forget-everything: Deleted"),
    Expected("task_20250704_130000", "completed", FREED, "mixed: Deleted"),
    Expected("task_20250704_120000", "in_progress", KEPT, "mixed: Refused (TaskRunning)"),
    Expected("task_20250915_080000", "completed", KEPT, "mixed: Refused (TaskNewerThanRequest)"),
    Expected("task_19990101_000000", "-", KEPT, "mixed: NotFound (its files have no row)", row=False),
    Expected("task_20250705_080000", "completed", KEPT, "preview: WouldDelete"),
    Expected("task_20250706_000000", "in_progress", FREED, "clean-stuck: Deleted (forced)"),
)
#: name of the example -> condition to wait for, phase in the end
REQUESTS = {
    "free-july": ("Complete", "Succeeded"),
    "preview": ("Complete", "Succeeded"),
    "forget-everything": ("Complete", "Succeeded"),
    "mixed": ("Failed", "PartiallyFailed"),
    "clean-stuck": ("Complete", "Succeeded"),
}


def main() -> int:
    """Run the demo; returns the exit code."""
    with start_stack() as stack:
        pipeline = Pipeline(stack, NAMESPACE, bucket=BUCKET, prefix="")
        return play(stack, pipeline)


def play(stack: Stack, pipeline: Pipeline) -> int:
    """The story: fill, start, apply, wait, show, compare."""
    say("A pipeline with finished, running and new tasks: PostgreSQL, Redis, MinIO, a volume")
    install_crds(stack)
    fill(stack, pipeline)
    before = {task.task_id: pipeline.look(task.task_id) for task in TASKS}
    say("The operator starts")
    stack.spawn("operator", [sys.executable, "-m", "taskdeletion", "operator"], operator_environment(stack))
    kubectl(stack, "wait", "--for=condition=Ready", "taskstore/default", "-n", NAMESPACE, "--timeout=60s")
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
    after = {task.task_id: pipeline.look(task.task_id) for task in TASKS}
    wrong = [name for name, (_, phase) in REQUESTS.items() if read_phase(stack, name) != phase]
    return close(before, after, wrong)


def install_crds(stack: Stack) -> None:
    """Install the CRDs and wait until they are served."""
    kubectl(stack, "apply", "--server-side", "-f", str(ROOT / "crds"))
    kubectl(stack, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")


def fill(stack: Stack, pipeline: Pipeline) -> None:
    """The namespace, its stores with all tasks, and the Secrets; the TaskStore comes from examples/."""
    kubectl(stack, "create", "namespace", pipeline.namespace)
    pipeline.create()
    for task in TASKS:
        date = datetime.strptime(task.task_id[5:13], "%Y%m%d").replace(tzinfo=UTC)
        pipeline.add_task(
            task.task_id,
            status=task.status,
            files=task.files,
            file_bytes=task.file_bytes,
            created_at=date,
            row=task.row,
            keys=3,
            objects=4,
        )
    for secret in pipeline.manifests()[:-1]:
        pairs = [f"--from-literal={key}={value}" for key, value in secret["stringData"].items()]
        name = secret["metadata"]["name"]
        kubectl(stack, "create", "secret", "generic", name, "-n", pipeline.namespace, *pairs)
    kubectl(stack, "apply", "-f", str(ROOT / "examples" / "task-store.yaml"))


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


def close(before: dict[str, Residue], after: dict[str, Residue], wrong_phases: list[str]) -> int:
    """Print the closing table; 1 if anything is not as expected."""
    say("What was there, what is there now")
    line = "{:22} {:18} {:>21} {:>21}  {:17} {}"
    print(line.format("TASK", "CATALOG SAYS", "BEFORE f/k/o/rows", "NOW f/k/o/rows", "EXPECTED", "REQUEST"))
    bad = 0
    for task in TASKS:
        then, now = before[task.task_id], after[task.task_id]
        fine = is_as_expected(task.fate, then, now)
        bad += not fine
        mark = "ok " if fine else "WRONG "
        print(line.format(task.task_id, task.status, describe(then), describe(now), task.fate, mark + task.state))
    for name in wrong_phases:
        print(f"WRONG phase of TaskDeletion {name}")
    print(f"\n{len(TASKS) - bad} of {len(TASKS)} tasks as expected, {len(wrong_phases)} requests with a wrong phase")
    return 1 if bad or wrong_phases else 0


def describe(found: Residue) -> str:
    """files/keys/objects/rows, `-` for what is absent."""
    files = "-" if found.directory is None else str(found.directory)
    rows = (1 if found.row else 0) + found.steps
    return f"{files}/{found.keys or '-'}/{found.objects or '-'}/{rows or '-'}"


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
