"""TaskDeletions on a stack's API server: create many at once, see the end of each, read and remove all.

Used by `bench.lines.operator`, the same for every contestant. Speaks plain HTTP: neither the operator's own client nor
kubectl takes part in a figure.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import urllib3

from dev.stack import Stack

GROUP_PATH: Final = "/apis/datapipeline.dev/v1beta1"
MERGE_PATCH: Final = "application/merge-patch+json"
CREATORS: Final = 4
ENDED: Final = b'"completionTime"'
PAGE: Final = 100

Document = dict[str, Any]


class WorkNotDoneError(Exception):
    """A contestant did less than the whole work, or something else."""


@dataclass
class Requests:
    """The TaskDeletions of one namespace, as the stack's admin."""

    stack: Stack
    namespace: str
    pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        kubernetes = self.stack.kubernetes
        self.pool = urllib3.PoolManager(
            ca_certs=str(kubernetes.ca_file),
            maxsize=CREATORS + 2,
            headers={"Authorization": f"Bearer {kubernetes.admin_token}"},
            timeout=urllib3.Timeout(connect=5, read=60),
        )

    @property
    def path(self) -> str:
        """Where they are."""
        return f"{GROUP_PATH}/namespaces/{self.namespace}/taskdeletions"

    def send(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Document:
        """One request; WorkNotDoneError for anything but a 2xx answer."""
        answer = self.pool.request(
            method,
            self.stack.kubernetes.url + path,
            body=None if body is None else json.dumps(body).encode(),
            headers={**self.pool.headers, "Content-Type": content_type},
        )
        if answer.status not in range(200, 300):
            raise WorkNotDoneError(f"{method} {path}: {answer.status}")
        found: Document = json.loads(answer.data)
        return found

    def create(self, name: str, spec: Mapping[str, Any]) -> Document:
        """One TaskDeletion."""
        metadata = {"name": name, "namespace": self.namespace}
        kind = {"apiVersion": "datapipeline.dev/v1beta1", "kind": "TaskDeletion"}
        return self.send("POST", self.path, {**kind, "metadata": metadata, "spec": dict(spec)})

    def create_object(self, manifest: Document) -> None:
        """A Secret or a TaskStore of this namespace."""
        if manifest["kind"] == "Secret":
            self.send("POST", f"/api/v1/namespaces/{self.namespace}/secrets", manifest)
        else:
            self.send("POST", f"{GROUP_PATH}/namespaces/{self.namespace}/taskstores", manifest)

    def create_all(self, specs: Mapping[str, Mapping[str, Any]]) -> None:
        """Many, from some threads."""
        with ThreadPoolExecutor(CREATORS) as creators:
            list(creators.map(self.create, specs, specs.values()))

    def write_status(self, name: str, status: Mapping[str, Any]) -> None:
        """Write a status as an operator would."""
        self.send("PATCH", f"{self.path}/{name}/status", {"status": status}, MERGE_PATCH)

    def list_all(self) -> Iterator[Document]:
        """All of them, a page in memory at a time."""
        token = ""
        while True:
            answer = self.send("GET", f"{self.path}?limit={PAGE}&continue={token}")
            yield from answer["items"]
            token = answer["metadata"].get("continue", "")
            if not token:
                return

    def remove(self, name: str) -> None:
        """Delete one, where it is."""
        if any(item["metadata"]["name"] == name for item in self.select(name)):
            self.send("DELETE", f"{self.path}/{name}")

    def select(self, name: str) -> list[Document]:
        """The one of this name, or none."""
        found: list[Document] = self.send("GET", f"{self.path}?fieldSelector=metadata.name={name}")["items"]
        return found

    def remove_all(self) -> None:
        """Delete all, and their Events."""
        self.send("DELETE", self.path)
        self.send("DELETE", f"/api/v1/namespaces/{self.namespace}/events")

    def count_events(self) -> int:
        """Events that tell of a TaskDeletion, kept and counted once each."""
        answer = self.send("GET", f"/api/v1/namespaces/{self.namespace}/events")
        return sum(event["involvedObject"]["kind"] == "TaskDeletion" for event in answer["items"])

    @contextmanager
    def watched(self, names: Iterable[str]) -> Iterator[Ends]:
        """The ends of these requests, seen from now on."""
        version = self.send("GET", f"{self.path}?limit=1")["metadata"]["resourceVersion"]
        response = self.pool.request(
            "GET",
            f"{self.stack.kubernetes.url}{self.path}?watch=1&resourceVersion={version}",
            headers=self.pool.headers,
            preload_content=False,
            timeout=urllib3.Timeout(connect=5, read=600),
        )
        ends = Ends(set(names))
        thread = threading.Thread(target=ends.follow, args=(response,), name="ends", daemon=True)
        thread.start()
        try:
            yield ends
        finally:
            ends.is_over = True
            response.shutdown()
            thread.join()
            response.close()


@dataclass
class Ends:
    """When each request was seen to have ended, by `time.perf_counter`. `is_over`: nobody wants to know more."""

    awaited: set[str]
    seen: dict[str, float] = field(default_factory=dict)
    all_seen: threading.Event = field(default_factory=threading.Event)
    is_over: bool = False

    def follow(self, response: urllib3.BaseHTTPResponse) -> None:
        """Read the watch until it is shut down."""
        try:
            self._read(response)
        except urllib3.exceptions.HTTPError:
            if not self.is_over:  # else it is the end that we made
                raise

    def _read(self, response: urllib3.BaseHTTPResponse) -> None:
        rest = b""
        for chunk in response.stream(2**16, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if ENDED in line:
                    self._note(json.loads(line)["object"]["metadata"]["name"])

    def _note(self, name: str) -> None:
        if name in self.awaited and name not in self.seen:
            self.seen[name] = time.perf_counter()
            if len(self.seen) == len(self.awaited):
                self.all_seen.set()

    def wait(self, seconds: float) -> float:
        """When the last one ended. WorkNotDoneError where that takes longer than `seconds`."""
        if not self.all_seen.wait(seconds):
            missing = len(self.awaited) - len(self.seen)
            raise WorkNotDoneError(f"{missing} of {len(self.awaited)} requests had not ended after {seconds:.0f} s")
        return max(self.seen.values())


def time_burst(requests: Requests, specs: Mapping[str, Mapping[str, Any]], *, seconds: float) -> float:
    """Seconds from the first creation until the last of these requests has ended."""
    with requests.watched(specs) as ends:
        begun = time.perf_counter()
        requests.create_all(specs)
        return ends.wait(seconds) - begun


def time_each(requests: Requests, specs: Mapping[str, Mapping[str, Any]], *, seconds: float) -> Sequence[float]:
    """Seconds from creation to end of each of these requests, one after another."""
    found = []
    for name, spec in specs.items():
        with requests.watched([name]) as ends:
            begun = time.perf_counter()
            requests.create(name, spec)
            found.append(ends.wait(seconds) - begun)
    return found
