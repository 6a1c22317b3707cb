"""A kubelet that really runs the pods of Jobs, as processes beside the API server: on folders that stand for claims.

The Job controller makes the pods; this takes each, runs the command with exactly the arguments of its container, serves
what it says as its log, and writes its status. Used by the tests of what works with Jobs.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from taskdeletion.domain.job_manifest import REQUEST_LABEL, VOLUME_PATH
from taskdeletion.kube.client import KubeRejected
from tests.support.jobs import FakeNode, fake_node
from tests.support.kube import Kube

ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1


class Kubelet:
    """Runs pods of `namespaces` on `node`. `volumes`: the folder of each claim, by namespace and name.

    `unlink_ms`: how long an unlink takes in pods that begin from now on. `is_held`: none begins. `is_away`: the node is
    cut off, so what runs on it goes on and hears of nothing.
    """

    def __init__(self, kube: Kube, node: FakeNode, volumes: Path) -> None:
        self.kube = kube
        self.node = node
        self.volumes = volumes
        self.namespaces: set[str] = set()
        self.unlink_ms = 0
        self.is_held = False
        self.is_away = False
        self.ran: list[str] = []
        self._processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._loop = threading.Thread(target=self._repeat, name="kubelet")

    def start(self) -> None:
        """Begin to look for pods."""
        self._loop.start()

    def stop(self) -> None:
        """End all that runs, and wait."""
        self._stopping.set()
        self._loop.join()
        for process in list(self._processes.values()):
            process.kill()
        for thread in self._threads:
            thread.join()

    def kill(self, verb: str) -> bool:
        """SIGKILL to the processes of Jobs that do `verb`; whether there was one."""
        found = [process for (_, pod), process in list(self._processes.items()) if f"-{verb}-" in pod]
        for process in found:
            process.kill()
        return bool(found)

    def is_running(self, verb: str) -> bool:
        """Whether a process of a Job that does `verb` runs."""
        return any(one.poll() is None for (_, pod), one in list(self._processes.items()) if f"-{verb}-" in pod)

    def said(self, verb: str) -> str:
        """What pods that do `verb` have said so far."""
        return "".join(text for pod, text in list(self.node.logs.items()) if f"-{verb}-" in pod)

    # --- the loop ---------------------------------------------------------------------------------------------------
    def _repeat(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            for namespace in [] if self.is_away else list(self.namespaces):
                for pod in self._list(namespace):
                    self._look_at(namespace, pod)

    def _list(self, namespace: str) -> list[dict[str, Any]]:
        path = f"/api/v1/namespaces/{namespace}/pods"
        return list(self.kube.api.request("GET", path, query={"labelSelector": REQUEST_LABEL}).body["items"])

    def _look_at(self, namespace: str, pod: dict[str, Any]) -> None:
        name, is_deleting = pod["metadata"]["name"], "deletionTimestamp" in pod["metadata"]
        process = self._processes.get((namespace, name))
        if is_deleting and process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
        elif is_deleting and pod["spec"].get("nodeName"):
            self._finalize(namespace, name)
        elif not (is_deleting or self.is_held or pod["spec"].get("nodeName")):
            self._run(namespace, pod)

    def _finalize(self, namespace: str, name: str) -> None:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
        with suppress(KubeRejected):  # gone by now
            self.kube.api.request("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", body=options)

    def _run(self, namespace: str, pod: dict[str, Any]) -> None:
        name = pod["metadata"]["name"]
        [container] = pod["spec"]["containers"]
        assert container["command"] == ["taskdeletion"]
        claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        arguments = [str(argument).replace("$$", "$") for argument in container["args"]]
        arguments[arguments.index(f"--volume={VOLUME_PATH}")] = f"--volume={self.volumes / namespace / claim}"
        place = ["--allow-unmounted", "--progress-seconds=0.1"]
        launcher = [sys.executable, "-m", "tests.support.pod", str(os.geteuid()), str(self.unlink_ms)]
        index = pod["metadata"]["labels"].get("batch.kubernetes.io/job-completion-index", "0")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "operator")))}
        self.node.bind(namespace, name)
        self.node.logs[name] = ""
        self.ran.append(name)
        process = subprocess.Popen(
            [*launcher, arguments[0], *place, *arguments[1:]],
            stdout=subprocess.PIPE,
            env={**environment, "JOB_COMPLETION_INDEX": index},
            cwd=ROOT,
        )
        self._processes[namespace, name] = process
        self._threads.append(threading.Thread(target=self._attend, args=(namespace, name, process)))
        self._threads[-1].start()

    def _attend(self, namespace: str, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.node.write_pod_status(namespace, name, "Running", {"running": {}})
        for line in process.stdout:
            self.node.logs[name] += line.decode()
        process.stdout.close()
        code = process.wait()
        if not self._stopping.is_set():
            self.node.end(namespace, name, 128 - code if code < 0 else code)


@contextmanager
def running_kubelet(kube: Kube, name: str, folder: Path) -> Iterator[Kubelet]:
    """One for as long as it is needed, with volumes below `folder`."""
    with fake_node(kube, name, folder) as node:
        kubelet = Kubelet(kube, node, folder / "volumes")
        kubelet.start()
        try:
            yield kubelet
        finally:
            kubelet.stop()
