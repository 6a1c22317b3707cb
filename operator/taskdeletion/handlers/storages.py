"""What kopf keeps of objects for change handlers: nothing, for there are none.

Used by `registration.build_settings`. Before any handler is called kopf copies each object twice, and compares it with
what it was, even where nobody asks what changed: a third of what an event costs. Here nothing is copied, and nothing
is ever written to an object.
"""

from typing import Any

import kopf


class NoEssence(kopf.DiffBaseStorage):
    """Every object is as it was: nothing in it is compared."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of the body."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was kept."""
        return None

    def store(self, **_: Any) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """No handler makes progress that would have to outlive it."""

    def fetch(self, **_: Any) -> None:
        """Nothing was kept."""

    def store(self, **_: Any) -> None:
        """Keep nothing."""

    def purge(self, **_: Any) -> None:
        """There is nothing to remove."""

    def touch(self, **_: Any) -> None:
        """Do not touch the object."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """There is nothing of ours in it."""
        return essence
