"""What one process knows of requests beside their status; losing it is safe.

Kept by `workflow.deletion` per name, and checked against the uid: a namesake inherits nothing.
"""

import threading
from dataclasses import dataclass, field

from taskdeletion.kube.objects import Key, LiveObject


@dataclass(slots=True)
class Memory:
    """One live request. `last`: as last written, once it has tasks; `last_read_at`: when that answer was asked for.

    `looks`: at an unavailable dependency, since anything went on. `upsets`: of the work on a policy, in a row, by a
    change that somebody else made. `repeats`: the number of an attempt that was cut short by something that passes by
    itself (the API server was away), so that the next one is the same attempt.
    """

    uid: str
    looks: int = 0
    upsets: int = 0
    repeats: int | None = None
    last: LiveObject | None = None
    last_read_at: float = 0.0


@dataclass(slots=True)
class Memories:
    """All of them. Thread-safe; one key is only ever in the hands of one worker."""

    _known: dict[Key, Memory] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, live: LiveObject) -> Memory:
        """What is known of this very object; nothing of a predecessor with its name."""
        with self._lock:
            known = self._known.get(live.key)
            if known is None or known.uid != live.uid:
                known = self._known[live.key] = Memory(live.uid)
            return known

    def at(self, key: Key) -> Memory | None:
        """What is known of whoever had this name last."""
        with self._lock:
            return self._known.get(key)

    def drop(self, key: Key) -> None:
        """Forget; without effect where nothing is known."""
        with self._lock:
            self._known.pop(key, None)
