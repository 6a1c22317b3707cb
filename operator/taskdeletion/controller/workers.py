"""The threads that empty a work queue: take a key, reconcile it, say when to look again.

Started and stopped by `bootstrap`. They know keys and times; what reconciling means is handed in. Whatever goes wrong
with one key is logged and tried again later, and never ends a worker.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from taskdeletion.controller.queue import WorkQueue

K = TypeVar("K", bound=Hashable)

SHORTEST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 60.0

log = logging.getLogger(__name__)


class Workers(Generic[K]):
    """`count` threads around `reconcile`, which returns the seconds until it wants the key again, or None for done.

    `passing`: exceptions that are no error: somebody else wrote first, the API server is away.
    """

    def __init__(
        self,
        queue: WorkQueue[K],
        reconcile: Callable[[K], float | None],
        *,
        count: int,
        name: str,
        passing: tuple[type[Exception], ...] = (),
    ) -> None:
        self._queue = queue
        self._reconcile = reconcile
        self._passing = passing
        self._failures: dict[K, int] = {}  # in a row; a key is only ever in the hands of one worker
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(count)
        ]

    def start(self) -> None:
        """Start the threads; once only."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float) -> bool:
        """Shut the queue down and wait for the work at hand; False when some was still going on after the timeout."""
        self._queue.shut_down()
        deadline = time.monotonic() + timeout_seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def is_healthy(self) -> bool:
        """Whether every thread is alive."""
        return all(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                delay_seconds = self._attempt(key)
                if delay_seconds is not None:
                    self._queue.add_after(key, delay_seconds)
            finally:
                self._queue.done(key)  # after add_after, so that the queue keeps the key's lane

    def _attempt(self, key: K) -> float | None:
        try:
            delay_seconds = self._reconcile(key)
        # The last boundary before the thread itself: an error nobody foresaw is one key's trouble, not everybody's.
        except Exception as error:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            delay_seconds = choose_backoff(failures)
            if isinstance(error, self._passing):
                log.warning("%s goes on in %.1f s: %s", key, delay_seconds, error)
            else:
                log.exception("%s failed; trying again in %.1f s", key, delay_seconds)
        else:
            self._failures.pop(key, None)
        return delay_seconds


def choose_backoff(failures: int, jitter: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after `failures` earlier failures in a row: doubling from 0.5 to 60, spread over a half."""
    ceiling = min(LONGEST_BACKOFF_SECONDS, 2 * SHORTEST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
    return jitter(ceiling / 2, ceiling)
