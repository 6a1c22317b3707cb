"""Fixtures of the directory backend's tests: a store among what must not change, per user and per walk."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.children import ORDINARY, ROOT, User
from tests.support.trees import Scene
from tests.support.walks import WalkKind, walk_kind

__all__ = ["scene", "user", "walk_kind"]


@pytest.fixture(params=[ROOT, ORDINARY], ids=["root", "ordinary"])
def user(request: pytest.FixtureRequest) -> User:
    """Each user who may run the operator."""
    chosen: User = request.param
    if chosen.uid != os.geteuid() and os.geteuid() != 0:
        pytest.skip("only root can act as root")
    return chosen


@pytest.fixture
def scene(user: User, walk_kind: WalkKind) -> Iterator[Scene]:
    """A scene on the disk. Not below pytest's own folder, which an ordinary user may not walk through."""
    base = Path(tempfile.mkdtemp(prefix="hostile-"))
    base.chmod(0o755)
    found = Scene(base, user)
    found.build()
    yield found
    shutil.rmtree(base)
