"""`python -m dev.play`: a stack with the operator and a filled pipeline, running until `python -m dev down`.

Run by `make up`. Idempotent: what runs already is kept, the operator is started anew with the code as it is.
"""

from __future__ import annotations

import sys

from dev.__main__ import DEFAULT_STATE_DIR, running_stack
from dev.demo import BUCKET, NAMESPACE, fill, install_crds, operator_environment
from dev.pipeline import Pipeline
from dev.stack import start_detached


def main() -> int:
    """Start, fill when new, and say how to reach it."""
    running = running_stack(DEFAULT_STATE_DIR)
    DEFAULT_STATE_DIR.mkdir(parents=True, exist_ok=True)
    stack = running or start_detached(DEFAULT_STATE_DIR)
    if running is None:
        install_crds(stack)
        fill(stack, Pipeline(stack, NAMESPACE, bucket=BUCKET, prefix=""))
    stack.stop_process("operator")
    stack.spawn("operator", [sys.executable, "-m", "taskdeletion", "operator"], operator_environment(stack))
    print(f"\nThe operator serves namespace {NAMESPACE}; its log is {stack.state_dir}/logs/operator.log. Try:\n")
    print(f"export KUBECONFIG={stack.kubernetes.kubeconfig}")
    print(f'export PATH="{stack.kubernetes.kubectl.parent}:$PATH"')
    print(f"kubectl config set-context --current --namespace={NAMESPACE}")
    print("kubectl apply -f examples/ && kubectl get td -w\n\nmake down   # stops everything")
    return 0


if __name__ == "__main__":
    sys.exit(main())
