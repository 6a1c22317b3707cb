"""Opens a TaskStore: from its spec and Secrets to probed backends; keeps connections while both are the same.

Called by the workflow of requests (which needs all of it) and of stores (which reports on each part). What is wrong is
a `waiting` Fault that names the part: a store that is not whole is not worked on at all, so nothing is half done.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from taskdeletion.api import reasons
from taskdeletion.api.task_store import TaskStoreSpec
from taskdeletion.backends.directory import Crew, DirectoryRoot
from taskdeletion.domain.faults import Fault
from taskdeletion.domain.leadership import ALONE, Leadership
from taskdeletion.domain.results import Problem
from taskdeletion.executors.store import Connections, OpenStore, StorePools
from taskdeletion.kube.objects import Cluster
from taskdeletion.kube.secrets import SecretData
from taskdeletion.settings import Settings
from taskdeletion.workflow.connecting import connect
from taskdeletion.workflow.locating import Located, Reading, Readings

Part = Literal["Catalog", "Directory", "Redis", "ObjectStore"]
#: A store that was found whole this long ago is not probed again before work begins.
PROBE_FRESH_SECONDS = 10.0


@dataclass(slots=True)
class _Entry:
    """Cached connections with the number of uses; closed when retired and unused."""

    fingerprint: str
    connections: Connections
    uses: int = 0
    retired: bool = False
    probed_at: float | None = None


class Stores:
    """All stores that this process works on. Thread-safe."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        leadership: Leadership = ALONE,
    ) -> None:
        self._readings = Readings(cluster, clock)
        self._settings = settings
        self._clock = clock
        self._leadership = leadership
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(settings.object_batches)
        self._crew = Crew(limit=settings.directory_threads, helpers=settings.directory_helpers)
        self._probes = ThreadPoolExecutor(16, thread_name_prefix="probe")

    def open(self, namespace: str, name: str, *, due_at: float | None = None) -> OpenStore:
        """The store with every part usable, as a context manager. Raises Fault (waiting) with what is missing.

        `due_at`: when the work became due, by the clock; what was read since then may be shared (`locating`).
        """
        store, entry = self._open(namespace, name, due_at)
        with ExitStack() as undo:
            undo.callback(store.close)
            self._require_whole(store, entry)
            undo.pop_all()
        return store

    def open_unprobed(self, namespace: str, name: str) -> OpenStore:
        """The store with its parts connected but not probed. Raises Fault (waiting)."""
        return self._open(namespace, name)[0]

    def _open(self, namespace: str, name: str, due_at: float | None = None) -> tuple[OpenStore, _Entry]:
        reading = self._readings.read(namespace, name, due_at=due_at)
        located = reading.located
        entry = self._acquire(reading)
        with ExitStack() as undo:
            undo.callback(self._release, entry)
            directory = self._open_directory(located)
            undo.pop_all()
        store = OpenStore(
            namespace=namespace,
            name=name,
            uid=located.live.uid,
            spec=located.spec,
            connections=entry.connections,
            directory=directory,
            release=lambda: self._release(entry),
        )
        return store, entry

    def open_root(self, namespace: str, name: str) -> DirectoryRoot | None:
        """Only the root of the store's directories, whatever its other parts are like. Raises Fault (waiting)."""
        return self._open_directory(self.locate(namespace, name))

    def locate(self, namespace: str, name: str) -> Located:
        """Find and validate the TaskStore, now; Fault (waiting) where another one reaches for the same data."""
        return self._readings.locate(namespace, name)

    def probe(self, store: OpenStore) -> Mapping[Part, list[Problem]]:
        """Ask every part of an open store whether it can be worked on; parts side by side."""
        found = _probes_of(store.connections, store.directory)
        probes = {part: self._probes.submit(probe) for part, probe in found.items()}
        return {part: future.result() for part, future in probes.items()}

    def forget(self, namespace: str, name: str) -> None:
        """The TaskStore is gone: close its connections, now or when their last user is done."""
        self._readings.forget(namespace, name)
        with self._lock:
            entry = self._entries.pop((namespace, name), None)
            unused = self._retire(entry)
        _close_all(unused)

    def require_same(self, store: OpenStore) -> None:
        """Raises Fault (waiting) where the TaskStore was deleted, replaced or made unusable since it was opened."""
        if self.locate(store.namespace, store.name).live.uid != store.uid:
            raise Fault("waiting", reasons.STORE_REPLACED, f"TaskStore {store.name} was replaced meanwhile")

    def close(self) -> None:
        """Close all connections; stores that are still in use are closed when they are released."""
        with self._lock:
            entries, self._entries = list(self._entries.values()), {}
            unused = [connections for entry in entries for connections in self._retire(entry)]
        _close_all(unused)
        self._probes.shutdown(wait=False, cancel_futures=True)

    # --- whole or not -----------------------------------------------------------------------------------------------
    def _require_whole(self, store: OpenStore, entry: _Entry) -> None:
        if self._is_fresh(entry):
            return
        problems = [(part, problem) for part, found in self.probe(store).items() for problem in found]
        if problems:
            part, first = problems[0]
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise Fault("waiting", first.reason, f"{part}: {first.message}{more}")
        entry.probed_at = self._clock()

    def _is_fresh(self, entry: _Entry) -> bool:
        return entry.probed_at is not None and self._clock() - entry.probed_at < PROBE_FRESH_SECONDS

    def examine(self, namespace: str, name: str) -> dict[Part, list[Problem]]:
        """What a real probe of every part finds, each part on its own. Raises Fault for the store as a whole."""
        located = self.locate(namespace, name)
        try:
            with self.open_unprobed(namespace, name) as store:
                return dict(self.probe(store))
        except Fault:
            return {part: self._examine_part(part, located) for part in _parts_of(located.spec)}

    def _examine_part(self, part: Part, located: Located) -> list[Problem]:
        """Connect and probe one part alone: its neighbours may be broken."""
        alone = Located(located.live, _only(part, located.spec))
        try:
            secrets = self._readings.read_secrets(alone)
            with ExitStack() as stack:
                connections = connect(alone.spec, secrets, self._build_pools(alone), self._slots, self._leadership)
                stack.callback(connections.close)
                directory = self._open_directory(alone)
                if directory is not None:
                    stack.callback(directory.close)
                return [found for probe in _probes_of(connections, directory).values() for found in probe()]
        except Fault as fault:
            return [Problem(fault.reason, fault.message)]

    # --- connections ------------------------------------------------------------------------------------------------
    def _acquire(self, reading: Reading) -> _Entry:
        located, secrets = reading.located, reading.secrets
        fingerprint = _fingerprint(located, secrets)
        key = (located.live.key.namespace, located.live.key.name)
        unused: list[Connections] = []
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.fingerprint != fingerprint:
                pools = self._build_pools(located)
                fresh = _Entry(fingerprint, connect(located.spec, secrets, pools, self._slots, self._leadership))
                unused = self._retire(entry)
                entry = self._entries[key] = fresh
            entry.uses += 1
        _close_all(unused)
        return entry

    def _release(self, entry: _Entry) -> None:
        with self._lock:
            entry.uses -= 1
            unused = [entry.connections] if entry.retired and not entry.uses else []
        _close_all(unused)

    @staticmethod
    def _retire(entry: _Entry | None) -> list[Connections]:
        """What can be closed now; what is in use is closed by its last user. Call with the lock, close without."""
        if entry is None:
            return []
        entry.retired = True
        return [] if entry.uses else [entry.connections]

    def _build_pools(self, located: Located) -> StorePools:
        return StorePools(located.live.key.name, self._settings.store_threads)

    def _open_directory(self, located: Located) -> DirectoryRoot | None:
        directory = located.spec.directory
        if directory is None:
            return None
        claim = directory.persistent_volume_claim.claim_name
        volume = self._settings.volumes_root / located.live.key.namespace / claim
        try:
            return DirectoryRoot.open(
                volume,
                directory.sub_path,
                require_mount=self._settings.require_mount,
                crew=self._crew,
                leadership=self._leadership,
            )
        except Fault as fault:
            if fault.reason != reasons.VOLUME_NOT_MOUNTED:
                raise
            message = (
                f"claim {claim} is not mounted in the operator at {volume}; mount it, see the chart's volumes.claims"
            )
            raise Fault(fault.kind, fault.reason, message) from fault


def _close_all(unused: Iterable[Connections]) -> None:
    """Closing can wait for requests that are on their way, so it is never done under the lock."""
    for connections in unused:
        connections.close()


def _fingerprint(located: Located, secrets: Mapping[str, SecretData]) -> str:
    versions = {name: secret.resource_version for name, secret in secrets.items()}
    return json.dumps([located.live.uid, located.spec.to_api(), versions], sort_keys=True)


def _parts_of(spec: TaskStoreSpec) -> list[Part]:
    given: dict[Part, object] = {
        "Catalog": spec.catalog,
        "Directory": spec.directory,
        "Redis": spec.redis,
        "ObjectStore": spec.object_store,
    }
    return [part for part, value in given.items() if value is not None]


def _only(part: Part, spec: TaskStoreSpec) -> TaskStoreSpec:
    return spec.model_copy(
        update={
            "catalog": spec.catalog if part == "Catalog" else None,
            "directory": spec.directory if part == "Directory" else None,
            "redis": spec.redis if part == "Redis" else None,
            "object_store": spec.object_store if part == "ObjectStore" else None,
        }
    )


def _probes_of(connections: Connections, directory: DirectoryRoot | None) -> dict[Part, Callable[[], list[Problem]]]:
    probes: dict[Part, Callable[[], list[Problem]]] = {}
    if connections.catalog is not None:
        probes["Catalog"] = connections.catalog.probe
    if directory is not None:
        probes["Directory"] = lambda: _as_list(directory.probe())
    if (redis := connections.redis) is not None:
        probes["Redis"] = lambda: _as_list(redis.probe())
    if (objects := connections.objects) is not None:
        probes["ObjectStore"] = lambda: _as_list(objects.probe())
    return probes


def _as_list(problem: Problem | None) -> list[Problem]:
    return [problem] if problem is not None else []
