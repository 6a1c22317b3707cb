"""When renames count as durable: those that were noted before an fsync began, and no others."""

import errno
import os
from collections.abc import Callable

import pytest

from taskdeletion.backends.directory.syncing import Syncing


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The descriptors of all fsyncs, none of which is done."""
    found: list[int] = []
    monkeypatch.setattr(os, "fsync", found.append)
    return found


def answer(monkeypatch: pytest.MonkeyPatch, effect: Callable[[], object]) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: effect())


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_several_renames_need_one_sync(syncs: list[int]) -> None:
    syncing = Syncing()
    for _ in range(3):
        syncing.note_rename()
    for _ in range(3):
        syncing.sync_renames(7)
    assert syncs == [7]


def test_without_a_rename_nothing_is_synced_unless_it_is_asked_for(syncs: list[int]) -> None:
    syncing = Syncing()
    syncing.sync_renames(7)
    assert syncs == []
    syncing.sync(7)
    assert syncs == [7]


def test_a_rename_during_a_sync_needs_another(monkeypatch: pytest.MonkeyPatch) -> None:
    syncing = Syncing()
    syncing.note_rename()
    answer(monkeypatch, syncing.note_rename)
    syncing.sync_renames(7)
    after: list[int] = []
    answer(monkeypatch, lambda: after.append(7))
    syncing.sync_renames(7)
    assert after == [7]


def test_a_sync_that_fails_makes_nothing_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    syncing = Syncing()
    syncing.note_rename()
    answer(monkeypatch, lambda: fail(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        syncing.sync_renames(7)
    after: list[int] = []
    answer(monkeypatch, lambda: after.append(7))
    syncing.sync_renames(7)
    assert after == [7]


def test_a_file_system_that_has_no_such_thing_is_good_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    syncing = Syncing()
    syncing.note_rename()
    answer(monkeypatch, lambda: fail(errno.EINVAL))
    syncing.sync_renames(7)
