"""`python -m dev.play`: a stack with the operator and a filled pipeline, running until `python -m dev down`.

Run by `make up`. Idempotent: what runs already is kept, the operator is started anew with the code as it is.
"""

from __future__ import annotations

import sys

from dev.__main__ import DEFAULT_STATE_DIR, running_stack
from dev.demo import fill, install_crds, operator_environment
from dev.stack import start_detached
from dev.story import NAMESPACE, Story


def main() -> int:
    """Start, fill when new, and say how to reach it."""
    running = running_stack(DEFAULT_STATE_DIR)
    DEFAULT_STATE_DIR.mkdir(parents=True, exist_ok=True)
    stack = running or start_detached(DEFAULT_STATE_DIR)
    if running is None:
        install_crds(stack)
        fill(stack, Story(stack))
    story = Story(stack)
    stack.stop_process("operator")
    stack.spawn("operator", [sys.executable, "-m", "taskdeletion", "operator"], operator_environment(stack))
    begun = "was running already, and was filled before" if running else "is filled with the demo's tasks"
    print(f"\nThe stack {begun}: namespace {NAMESPACE}. The operator's log: {stack.state_dir}/logs/operator.log")
    print(f"To look for yourself:\n  psql {story.rows.database_url}\n  redis-cli -u {stack.redis.url}")
    print(f"  redis-cli -u {story.states.state_url}   # the state of workflows")
    print(f"  files: {story.rows.root}, {story.states.root}")
    print(f"  buckets {story.rows.bucket}, {story.states.bucket}: {stack.minio.endpoint}")
    print(f"  API server's audit log: {stack.kubernetes.audit_log}\nTry:\n")
    print(f"export KUBECONFIG={stack.kubernetes.kubeconfig}")
    print(f'export PATH="{stack.kubernetes.kubectl.parent}:$PATH"')
    print(f"kubectl config set-context --current --namespace={NAMESPACE}")
    print("kubectl apply -f examples/ && kubectl get td -w\n\nmake down   # stops everything")
    return 0


if __name__ == "__main__":
    sys.exit(main())
