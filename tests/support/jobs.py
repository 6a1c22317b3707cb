"""Plays what a stack without nodes has not: the scheduler, and a kubelet that serves logs.

The Job controller and the API server are real: that makes the pods, and this fetches logs from here over TLS, as from
any node. Only what becomes of a pod is written by hand, as a kubelet writes it.
"""

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dev.pipeline import wait_until
from taskdeletion.domain.job_manifest import CONTAINER
from taskdeletion.domain.job_states import JobSeen, PodSeen
from taskdeletion.kube.client import MERGE_PATCH, KubeRejected
from taskdeletion.kube.jobs import Jobs
from tests.support.certificates import make_pair
from tests.support.kube import Kube


class FakeNode:
    """A Node whose kubelet knows logs. `logs`: text per pod; a pod without one answers 404."""

    def __init__(self, kube: Kube, name: str) -> None:
        self.kube = kube
        self.name = name
        self.logs: dict[str, str] = {}

    def register(self, port: int) -> None:
        """Make the Node object, with the address of this process."""
        self.kube.create("/api/v1/nodes", {"metadata": {"name": self.name}})
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }
        self._patch(f"/api/v1/nodes/{self.name}/status", {"status": status})

    def unregister(self) -> None:
        """Remove the Node object."""
        self.kube.api.request("DELETE", f"/api/v1/nodes/{self.name}")

    def wait_for_pod(self, jobs: Jobs, job: JobSeen) -> PodSeen:
        """The pod of the Job that is on no node yet, as soon as the Job controller has made it."""
        found: list[PodSeen] = []

        def look() -> bool:
            found[:] = [pod for pod in jobs.list_pods(job) if not pod.node and not pod.has_ended]
            return bool(found)

        wait_until(look, seconds=60, what="a pod of the Job")
        return found[0]

    # --- scheduler and kubelet --------------------------------------------------------------------------------------
    def bind(self, namespace: str, pod: str) -> None:
        """The pod is on this node."""
        target = {"apiVersion": "v1", "kind": "Node", "name": self.name}
        self.kube.create(
            f"/api/v1/namespaces/{namespace}/pods/{pod}/binding", {"metadata": {"name": pod}, "target": target}
        )

    def write_pod_status(self, namespace: str, pod: str, phase: str, state: Mapping[str, Any] | None = None) -> None:
        """The status of the pod."""
        status: dict[str, Any] = {"phase": phase}
        if state is not None:
            one = {"name": CONTAINER, "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
            status["containerStatuses"] = [one]
        self._patch(f"/api/v1/namespaces/{namespace}/pods/{pod}/status", {"status": status})

    def start(self, jobs: Jobs, job: JobSeen, text: str) -> PodSeen:
        """The next pod of the Job runs here, and has said `text`."""
        pod = self.wait_for_pod(jobs, job)
        self.bind(job.namespace, pod.name)
        self.logs[pod.name] = text
        self.write_pod_status(job.namespace, pod.name, "Running", {"running": {}})
        return pod

    def end(self, namespace: str, pod: str, exit_code: int = 0) -> None:
        """Its container has ended."""
        phase = "Failed" if exit_code else "Succeeded"
        ended = {"exitCode": exit_code, "reason": "Error" if exit_code else "Completed"}
        self.write_pod_status(namespace, pod, phase, {"terminated": ended})

    def _patch(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            self.kube.api.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        except KubeRejected as error:
            raise AssertionError(str(error)) from error


@contextmanager
def fake_node(kube: Kube, name: str, folder: Path) -> Iterator[FakeNode]:
    """A Node for as long as it is needed."""
    node = FakeNode(kube, name)

    class Kubelet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            pod = self.path.split("?")[0].split("/")[3]
            text = node.logs.get(pod)
            self.send_response(200 if text is not None else 404)
            self.end_headers()
            self.wfile.write((text or "").encode())

        def log_message(self, *_: object) -> None:
            """Not on the test's stderr."""

    pair = make_pair("kubelet")
    (folder / "tls.pem").write_bytes(pair.cert + pair.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Kubelet) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        node.register(server.server_address[1])
        try:
            yield node
        finally:
            node.unregister()
            server.shutdown()
            thread.join()
