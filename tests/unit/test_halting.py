"""When an attempt stops at the next boundary."""

import threading

import pytest

from taskdeletion.api import reasons
from taskdeletion.workflow.halting import Halting


@pytest.mark.parametrize(
    ("now", "deadline", "stopping", "expected"),
    [
        pytest.param(5.0, None, False, None, id="no deadline"),
        pytest.param(5.0, 5.1, False, None, id="before the deadline"),
        pytest.param(5.0, 5.0, False, ("permanent", reasons.DEADLINE_EXCEEDED), id="at the deadline"),
        pytest.param(9.0, 5.0, False, ("permanent", reasons.DEADLINE_EXCEEDED), id="after the deadline"),
        pytest.param(5.0, None, True, ("waiting", reasons.INTERRUPTED), id="shutting down"),
        pytest.param(5.0, 5.1, True, ("waiting", reasons.INTERRUPTED), id="shutting down before the deadline"),
        pytest.param(5.0, 5.0, True, ("permanent", reasons.DEADLINE_EXCEEDED), id="both: the deadline stays true"),
    ],
)
def test_an_attempt_stops(now: float, deadline: float | None, stopping: bool, expected: tuple[str, str] | None) -> None:
    event = threading.Event()
    if stopping:
        event.set()
    halting = Halting(event, lambda: now, deadline)

    fault = halting()

    assert (None if fault is None else (fault.kind, fault.reason)) == expected
    assert halting.is_shutting_down is stopping
    assert halting.is_past_deadline is (deadline is not None and now >= deadline)


def test_it_is_asked_anew_each_time() -> None:
    event, times = threading.Event(), iter([1.0, 2.0, 3.0])
    halting = Halting(event, lambda: next(times), 3.0)

    assert halting() is None
    event.set()
    assert [fault and fault.reason for fault in (halting(), halting())] == [
        reasons.INTERRUPTED,
        reasons.DEADLINE_EXCEEDED,
    ]
