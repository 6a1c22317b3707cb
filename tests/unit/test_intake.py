"""Which events are a reason to look, and in which lane."""

from collections.abc import Mapping
from typing import Any

import pytest

from taskdeletion.kube.objects import Key
from taskdeletion.workflow.intake import Intake, lane_of

KEY = Key("TaskDeletion", "ns", "td")
SETTLED = {"completionTime": "2025-07-02T00:00:00Z", "observedGeneration": 1}


class Inbox:
    def __init__(self) -> None:
        self.added: list[tuple[Key, tuple[str, str, str]]] = []
        self.delayed: list[Key] = []
        self.intake = Intake(
            lambda key, *, lane: self.added.append((key, lane)), lambda key, _: self.delayed.append(key)
        )

    def send(
        self,
        event: str | None = "MODIFIED",
        *,
        kind: str = "TaskDeletion",
        uid: str = "uid-1",
        generation: int = 1,
        spec: Mapping[str, Any] | None = None,
        status: Mapping[str, Any] | None = None,
        **metadata: Any,
    ) -> int:
        """How many keys this event brought."""
        before = len(self.added)
        meta = {"namespace": "ns", "name": "td", "uid": uid, "generation": generation, **metadata}
        body: dict[str, Any] = {"metadata": meta, "spec": spec or {}, "status": status or {}}
        self.intake.notice(kind, event, body)
        return len(self.added) - before


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.mark.parametrize("event", [None, "ADDED", "MODIFIED"])
def test_what_was_never_seen_is_looked_at(inbox: Inbox, event: str | None) -> None:
    assert inbox.send(event) == 1
    assert inbox.added == [(KEY, ("TaskDeletion", "ns", "default"))]


def test_our_own_status_writes_pass_over(inbox: Inbox) -> None:
    inbox.send("ADDED")

    assert inbox.send(status={"phase": "Running"}, resourceVersion="2") == 0
    assert inbox.send(status={"phase": "Failed", **SETTLED}, resourceVersion="3") == 0


def test_a_listing_anew_passes_over_what_is_known(inbox: Inbox) -> None:
    inbox.send("ADDED")

    assert inbox.send(None) == 0


def test_a_changed_spec_is_looked_at(inbox: Inbox) -> None:
    inbox.send("ADDED")

    assert inbox.send(generation=2, spec={"suspend": True}) == 1
    assert inbox.send(generation=2, spec={"suspend": True}) == 0


def test_a_deletion_that_waits_for_a_finalizer_is_looked_at_once(inbox: Inbox) -> None:
    inbox.send("ADDED")

    assert inbox.send(deletionTimestamp="2025-07-02T00:00:00Z") == 1
    assert inbox.send(deletionTimestamp="2025-07-02T00:00:00Z") == 0


@pytest.mark.parametrize("status", [{}, SETTLED], ids=["running", "ended"])
def test_a_deletion_is_always_looked_at(inbox: Inbox, status: dict[str, Any]) -> None:
    inbox.send("ADDED")

    assert inbox.send("DELETED", status=status) == 1


def test_the_deletion_of_what_was_never_seen_is_looked_at(inbox: Inbox) -> None:
    assert inbox.send("DELETED") == 1


def test_what_was_deleted_is_new_when_it_comes_again(inbox: Inbox) -> None:
    inbox.send("ADDED")
    inbox.send("DELETED")

    assert inbox.send("ADDED") == 1


def test_a_namesake_with_another_uid_is_looked_at_though_no_deletion_was_seen(inbox: Inbox) -> None:
    inbox.send("ADDED")

    assert inbox.send("MODIFIED", uid="uid-2") == 1


def test_a_request_that_ended_is_left_alone(inbox: Inbox) -> None:
    assert inbox.send(None, status=SETTLED) == 0
    assert inbox.send("MODIFIED", generation=2, status={**SETTLED, "observedGeneration": 2}) == 0


def test_an_edit_after_the_end_is_looked_at_once(inbox: Inbox) -> None:
    inbox.send(None, status=SETTLED)

    assert inbox.send(generation=2, status=SETTLED) == 1


def test_a_request_that_ended_and_has_a_time_to_live_is_looked_at(inbox: Inbox) -> None:
    assert inbox.send(None, status=SETTLED, spec={"ttlSecondsAfterFinished": 0}) == 1


def test_a_time_to_live_that_is_set_after_the_end_is_looked_at(inbox: Inbox) -> None:
    inbox.send(None, status=SETTLED)

    assert inbox.send(generation=2, status=SETTLED, spec={"ttlSecondsAfterFinished": 60}) == 1


def test_a_store_never_settles(inbox: Inbox) -> None:
    assert inbox.send(None, kind="TaskStore", status=SETTLED) == 1
    assert inbox.send(generation=2, kind="TaskStore", status=SETTLED) == 1


def test_a_request_and_a_store_of_the_same_name_are_two_things(inbox: Inbox) -> None:
    assert [inbox.send("ADDED"), inbox.send("ADDED", kind="TaskStore")] == [1, 1]


@pytest.mark.parametrize("spec", [None, {}], ids=["null", "empty"])
def test_an_object_without_a_spec_is_looked_at(inbox: Inbox, spec: dict[str, Any] | None) -> None:
    inbox.intake.notice(
        "TaskDeletion", "ADDED", {"metadata": {"namespace": "n", "name": "x", "uid": "u"}, "spec": spec}
    )

    assert inbox.added == [(Key("TaskDeletion", "n", "x"), ("TaskDeletion", "n", "default"))]


@pytest.mark.parametrize(
    ("kind", "spec", "lane"),
    [
        pytest.param("TaskDeletion", {"storeRef": {"name": "big"}}, ("TaskDeletion", "ns", "big"), id="its store"),
        pytest.param("TaskDeletion", {}, ("TaskDeletion", "ns", "default"), id="the default store"),
        pytest.param("TaskDeletion", {"storeRef": None}, ("TaskDeletion", "ns", "default"), id="a store of null"),
        pytest.param("TaskStore", {}, ("TaskStore", "ns", "td"), id="a store has its own lane"),
    ],
)
def test_lanes_hold_what_may_be_stuck_together(kind: str, spec: dict[str, Any], lane: tuple[str, str, str]) -> None:
    assert lane_of(Key(kind, "ns", "td"), spec) == lane


@pytest.mark.parametrize(
    ("event", "status", "labels", "woken"),
    [
        ("MODIFIED", SETTLED, {"datapipeline.dev/policy": "nightly"}, True),
        ("DELETED", {}, {"datapipeline.dev/policy": "nightly"}, True),
        ("MODIFIED", {}, {"datapipeline.dev/policy": "nightly"}, False),
        ("MODIFIED", SETTLED, {}, False),
    ],
    ids=["ended", "deleted", "going on", "of no policy"],
)
def test_a_policy_hears_that_a_taskdeletion_of_its_own_is_over(
    inbox: Inbox, event: str, status: Mapping[str, Any], labels: Mapping[str, str], woken: bool
) -> None:
    inbox.send(event, status=status, labels=labels)
    assert inbox.delayed == ([Key("TaskRetentionPolicy", "ns", "nightly")] if woken else [])
