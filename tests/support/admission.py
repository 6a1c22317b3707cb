"""kubectl against the API server of the stack, and what its answers have to say: used by tests of the CRDs.

Nothing of the operator is asked: a refusal has to name the field and say what to do by itself.
"""

import json
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.pipeline import wait_until
from dev.stack import Stack
from taskdeletion.api.common import API_VERSION
from taskdeletion.api.crd import KINDS

CRDS = Path(__file__).parents[2] / "crds"
PATIENCE_SECONDS = 60

Answer = subprocess.CompletedProcess[str]
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kubectl:
    """kubectl of the stack, in one namespace."""

    command: tuple[str, ...]

    def __call__(self, *arguments: str, stdin: str | None = None) -> Answer:
        return subprocess.run(
            [*self.command, *arguments], input=stdin, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    def must(self, *arguments: str, stdin: str | None = None) -> str:
        answer = self(*arguments, stdin=stdin)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def get(self, *arguments: str) -> Manifest:
        found: Manifest = json.loads(self.must("get", *arguments, "-o", "json"))
        return found

    def apply(self, manifest: Manifest) -> None:
        """What Flux and `kubectl apply --server-side` do."""
        self.must("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def differences(self, manifest: Manifest) -> str:
        """What applying `manifest` once more would change; "" for nothing."""
        answer = self("diff", "--server-side", "-f", "-", stdin=json.dumps(manifest))
        assert answer.returncode in (0, 1), answer.stderr
        return answer.stdout

    def try_create(self, manifest: Manifest) -> Answer:
        """Everything that admission does for a create, with nothing stored."""
        return self(
            "create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", stdin=json.dumps(manifest)
        )


@contextmanager
def admitting(stack: Stack, cache: Path) -> Iterator[Kubectl]:
    """kubectl in a fresh namespace of a server that has the CRDs of `crds/`, and explains them."""
    namespace = f"admission-{uuid.uuid4().hex[:8]}"
    options = (f"--kubeconfig={stack.kubernetes.kubeconfig}", f"--cache-dir={cache}")
    found = Kubectl((str(stack.kubernetes.kubectl), *options, f"--namespace={namespace}"))
    found.must("apply", "--server-side", "-f", str(CRDS))
    found.must("wait", "--for=condition=Established", f"--timeout={PATIENCE_SECONDS}s", "-f", str(CRDS))
    found.must("create", "namespace", namespace)
    wait_until(  # the API server publishes the schema of a new kind a moment after it serves the kind
        lambda: not any(found("explain", kind.PLURAL).returncode for kind in KINDS),
        seconds=PATIENCE_SECONDS,
        what="the publication of the new kinds' schemas",
    )
    yield found
    found.must("delete", "namespace", namespace, "--wait=false")


def manifest(kind: str, spec: Manifest, name: str = "x") -> Manifest:
    """An object of ours."""
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def assert_refused(answer: Answer, field: str, advice: str) -> None:
    """The server refused, by the name of `field`, and said `advice`."""
    assert answer.returncode != 0, f"accepted: {answer.stdout}"
    assert re.search(rf"{re.escape(field)}(?![\w.\[]).*{re.escape(advice)}", answer.stderr), answer.stderr


def assert_accepted(answer: Answer) -> None:
    """The server would have stored it."""
    assert answer.returncode == 0, answer.stderr
