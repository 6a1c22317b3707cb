"""An opened TaskStore: its backends, the threads that work on it, and the sweeps that requests share.

Made by `workflow.stores`; used by the executor and the workflow while they hold it.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from taskdeletion.api.task_store import TaskStoreSpec
from taskdeletion.backends.directory import DirectoryRoot
from taskdeletion.backends.objects import Objects
from taskdeletion.backends.redis import RedisKeys
from taskdeletion.domain.catalog import Catalog
from taskdeletion.executors.sweeps import SharedSweep


class StorePools:
    """Threads of one store: a slow store uses up its own threads, never those of another."""

    def __init__(self, name: str, threads: int) -> None:
        self.threads = threads
        self.directories = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-directory")
        self.keys = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-redis")
        self.objects = ThreadPoolExecutor(threads, thread_name_prefix=f"{name}-objects")

    def close(self) -> None:
        """Let running work end in the background; nothing new begins."""
        for pool in (self.directories, self.keys, self.objects):
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class Connections:
    """What stays open between two uses of a store, as long as its spec and Secrets are the same."""

    pools: StorePools
    catalog: Catalog | None = None
    redis: RedisKeys | None = None
    objects: Objects | None = None
    sweep: SharedSweep | None = None

    def close(self) -> None:
        """Close everything that is open."""
        self.pools.close()
        for backend in (self.catalog, self.redis, self.objects):
            if backend is not None:
                backend.close()


@dataclass(frozen=True, slots=True)
class OpenStore:
    """One use of a store. `directory` is opened anew each time, so that a volume that went away is noticed."""

    namespace: str
    name: str
    uid: str
    spec: TaskStoreSpec
    connections: Connections
    directory: DirectoryRoot | None
    release: Callable[[], None] = field(repr=False)

    @property
    def catalog(self) -> Catalog | None:
        """The index of tasks, where there is one."""
        return self.connections.catalog

    def close(self) -> None:
        """End this use: the root's descriptor is closed, connections stay for the next one."""
        if self.directory is not None:
            self.directory.close()
        self.release()

    def __enter__(self) -> "OpenStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
