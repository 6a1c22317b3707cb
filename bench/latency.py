"""`python -m bench.latency`: apply to Complete for one small task at a time, and the writes that each request costs.

Run by `make bench` on an idle machine. Writes are counted in the API server's own audit log.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from dev.demo import install_crds, kubectl, operator_environment
from dev.pipeline import Pipeline
from dev.stack import Stack, start_stack

NAMESPACE = "bench"
REQUESTS = 50
TARGET_P50_SECONDS, TARGET_P95_SECONDS, TARGET_WRITES = 0.5, 1.5, 3


def main() -> int:
    """Measure and print; 1 if a target is missed."""
    with start_stack() as stack:
        pipeline = Pipeline(stack, NAMESPACE)
        kubectl(stack, "create", "namespace", NAMESPACE)
        install_crds(stack)
        pipeline.create()
        apply(stack, *pipeline.manifests())
        for number in range(REQUESTS):
            pipeline.add_task(f"task_{number}")
        stack.spawn("operator", [sys.executable, "-m", "taskdeletion", "operator"], operator_environment(stack))
        kubectl(stack, "wait", "--for=condition=Ready", "taskstore/default", "-n", NAMESPACE, "--timeout=60s")
        seconds = sorted(measure(stack, number) for number in range(REQUESTS))
        writes = count_writes(stack)
    return report(seconds, writes)


def measure(stack: Stack, number: int) -> float:
    """Seconds from the answer to `apply` until a watch sees Complete."""
    name = f"request-{number}"
    spec = {"taskIds": [f"task_{number}"], "confirm": True}
    body = {
        "apiVersion": "datapipeline.dev/v1beta1",
        "kind": "TaskDeletion",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
    apply(stack, body)
    begun = time.perf_counter()
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig), "-n", NAMESPACE]
    subprocess.run(
        [*command, "wait", "--for=condition=Complete", f"td/{name}", "--timeout=60s"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def apply(stack: Stack, *objects: object) -> None:
    """`kubectl apply`."""
    text = "\n---\n".join(json.dumps(item) for item in objects)
    command = [str(stack.kubernetes.kubectl), "--kubeconfig", str(stack.kubernetes.kubeconfig), "apply", "-f", "-"]
    subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def count_writes(stack: Stack) -> Counter[str]:
    """Writes of the operator per TaskDeletion, from the audit log."""
    assert stack.kubernetes.audit_log is not None
    found: Counter[str] = Counter()
    for line in Path(stack.kubernetes.audit_log).read_text().splitlines():
        event = json.loads(line)
        reference = event.get("objectRef", {})
        is_ours = reference.get("resource") == "taskdeletions" and reference.get("namespace") == NAMESPACE
        if is_ours and event["verb"] in ("patch", "update", "delete") and "kubectl" not in event.get("userAgent", ""):
            found[reference["name"]] += 1
    return found


def report(seconds: list[float], writes: Counter[str]) -> int:
    """Print the figures beside their targets."""
    p50, p95 = statistics.median(seconds), seconds[int(len(seconds) * 0.95) - 1]
    most = max(writes.values())
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    print(f"commit {revision.stdout.strip()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{len(seconds)} TaskDeletions of one small task each, one after another (kubectl wait included)")
    print(f"apply to Complete: p50 {p50:.3f} s (target {TARGET_P50_SECONDS}), p95 {p95:.3f} s ({TARGET_P95_SECONDS})")
    print(f"writes per TaskDeletion: most {most}, median {statistics.median(writes.values())} ({TARGET_WRITES})")
    reached = p50 <= TARGET_P50_SECONDS and p95 <= TARGET_P95_SECONDS and most <= TARGET_WRITES
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
