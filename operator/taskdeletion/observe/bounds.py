"""How many different values a label may have: reasons are those of the API, and of names there is a limited number.

Used by `metrics` and `present`. A status can be written by others than the operator, so what it says is not believed.
"""

import threading
from typing import Final

from taskdeletion.api import reasons

#: What stands for every name, or reason, beyond those that are told apart. No namespace and no reason is called so.
OTHER: Final = "_other"
NAMESPACE_LIMIT: Final = 500
OBJECT_LIMIT: Final = 1000
_REASONS: Final = frozenset(value for name, value in vars(reasons).items() if name.isupper()) | {""}


def known_reason(reason: str | None) -> str:
    """A reason of the API as it is, "" for none."""
    return (reason or "") if (reason or "") in _REASONS else OTHER


class Names:
    """The first `limit` names that it is asked for. Thread-safe."""

    def __init__(self, limit: int = NAMESPACE_LIMIT) -> None:
        self._limit = limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def admit(self, name: str) -> str:
        """The name, or `OTHER` where there are too many already."""
        with self._lock:
            if name not in self._known and len(self._known) < self._limit:
                self._known.add(name)
            return name if name in self._known else OTHER
