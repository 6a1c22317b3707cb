"""The condition table: what kstatus, kubectl wait, Flux and Argo CD read at every stage."""

from datetime import UTC, datetime, timedelta
from itertools import product
from typing import get_args

import pytest

from taskdeletion.api import reasons
from taskdeletion.api.common import Condition
from taskdeletion.domain.conditions import MESSAGE_LIMIT, Stage, View, build_conditions, find_end_reason, is_terminal

NOW = datetime(2025, 7, 2, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
STAGES: tuple[Stage, ...] = get_args(Stage)
every_stage = pytest.mark.parametrize("stage", STAGES)


def view(stage: Stage, reason: str = "Why", message: str = "because") -> View:
    return View(stage, reason, message)


def build(
    stage: Stage, before: list[Condition] | None = None, *, generation: int = 3, now: datetime = NOW
) -> list[Condition]:
    return build_conditions(before or [], view(stage), generation=generation, now=now)


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        ("suspended", "Accepted=True Ready=False"),
        ("running", "Accepted=True Reconciling=True Ready=False"),
        ("waiting", "Accepted=True Reconciling=True Ready=False"),
        ("stopping", "Accepted=True Reconciling=True Ready=False FailureTarget=True"),
        ("succeeded", "Accepted=True Ready=True Complete=True"),
        ("failed", "Accepted=True Stalled=True Ready=False FailureTarget=True Failed=True"),
        ("rejected", "Accepted=False Stalled=True Ready=False FailureTarget=True Failed=True"),
    ],
)
def test_the_table_holds_for_every_stage(stage: Stage, table: str) -> None:
    assert " ".join(f"{found.type}={found.status}" for found in build(stage)) == table


@every_stage
def test_the_reason_stands_everywhere_but_where_the_request_was_accepted(stage: Stage) -> None:
    for found in build(stage):
        accepted = found.type == "Accepted" and found.status == "True"
        assert found.reason == (reasons.ACCEPTED if accepted else "Why")
        assert found.message == ("the request is valid" if accepted else "because")


@every_stage
def test_every_condition_carries_the_generation(stage: Stage) -> None:
    assert {found.observed_generation for found in build(stage, generation=7)} == {7}


@pytest.mark.parametrize(("first", "second"), list(product(STAGES, STAGES)), ids="-".join)
def test_a_time_moves_only_where_a_status_changes(first: Stage, second: Stage) -> None:
    before = {found.type: found for found in build(first)}

    for found in build(second, list(before.values()), now=LATER, generation=4):
        same = found.type in before and before[found.type].status == found.status
        assert found.last_transition_time == (NOW if same else LATER)
        assert found.observed_generation == 4


def test_another_reason_is_no_transition() -> None:
    before = build_conditions([], view("waiting", "Unavailable", "a"), generation=1, now=NOW)
    after = build_conditions(before, view("waiting", "TlsFailed", "b"), generation=1, now=LATER)

    ready = next(found for found in after if found.type == "Ready")
    assert (ready.reason, ready.message, ready.last_transition_time) == ("TlsFailed", "b", NOW)


@every_stage
def test_complete_and_failed_exclude_each_other(stage: Stage) -> None:
    held = {found.type for found in build(stage) if found.status == "True"}

    assert not {"Complete", "Failed"} <= held
    assert is_terminal(build(stage)) == bool(held & {"Complete", "Failed"})
    assert is_terminal(build(stage)) == (stage in ("succeeded", "failed", "rejected"))


@every_stage
def test_kstatus_sees_reconciling_and_stalled_only_while_they_are_true(stage: Stage) -> None:
    found = {condition.type: condition.status for condition in build(stage)}

    assert found.get("Reconciling", "True") == "True"
    assert found.get("Stalled", "True") == "True"
    assert not {"Reconciling", "Stalled"} <= found.keys()
    assert not (found["Ready"] == "True" and {"Reconciling", "Stalled"} & found.keys())


@every_stage
def test_only_a_request_that_has_ended_has_a_reason_of_its_end(stage: Stage) -> None:
    conditions = build_conditions([], view(stage, "Why", "text"), generation=1, now=NOW)

    assert find_end_reason(conditions) == ("Why" if is_terminal(conditions) else "")


def test_a_long_message_is_shortened_to_what_the_schema_takes() -> None:
    found = build_conditions([], view("failed", message="日" * 5000), generation=1, now=NOW)

    assert {len(one.message) for one in found if one.type != "Accepted"} == {MESSAGE_LIMIT}


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [
        ("Complete", "True", True),
        ("Failed", "True", True),
        ("Complete", "False", False),
        ("Failed", "Unknown", False),
        ("Ready", "True", False),
        ("FailureTarget", "True", False),
    ],
)
def test_only_a_true_complete_or_failed_ends_a_request(kind: str, status: str, expected: bool) -> None:
    fields = {"type": kind, "status": status, "lastTransitionTime": NOW, "reason": "Why", "message": ""}

    assert is_terminal([Condition.model_validate(fields)]) is expected


def test_a_request_without_conditions_has_not_ended() -> None:
    assert not is_terminal([])
