"""The fixture that runs a test over both ways to empty a directory: the native helper, and pure Python.

Used by the contract tests of the directory backend, with an import or from a conftest. A child that was forked works
the way its parent was told to; one that was started anew calls `use_walk` itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import pytest

from taskdeletion.backends.directory import entries

WalkKind = Literal["native", "python"]


def use_walk(kind: WalkKind) -> None:
    """Let this process empty directories in the chosen way from now on."""
    entries.chosen = entries.NativeEntries() if kind == "native" else entries.PythonEntries()


@pytest.fixture(params=get_args(WalkKind))
def walk_kind(request: pytest.FixtureRequest) -> Iterator[WalkKind]:
    """The way that directories are emptied while the test runs."""
    kind: WalkKind = request.param
    if kind == "native" and not entries.HAS_NATIVE:
        pytest.skip("the native helper is not built here: install with a C compiler")
    before = entries.chosen
    use_walk(kind)
    yield kind
    entries.chosen = before
