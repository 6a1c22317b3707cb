"""Delays before attempts and between looks."""

from collections.abc import Callable

import pytest

from taskdeletion.domain.backoff import delay_before_attempt, delay_while_waiting

MIDDLE = 0.5  # the jitter that changes nothing


@pytest.mark.parametrize(
    ("attempts", "seconds"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80), (6, 160), (7, 300), (100, 300)]
)
def test_attempts_are_spread_up_to_five_minutes(attempts: int, seconds: float) -> None:
    assert delay_before_attempt(attempts, MIDDLE) == pytest.approx(seconds)


@pytest.mark.parametrize(("looks", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 30), (10**9, 30)])
def test_looks_are_spread_up_to_half_a_minute(looks: int, seconds: float) -> None:
    assert delay_while_waiting(looks, MIDDLE) == pytest.approx(seconds)


@pytest.mark.parametrize("delay", [delay_before_attempt, delay_while_waiting])
def test_jitter_changes_a_delay_by_a_fifth_at_most(delay: Callable[[int, float], float]) -> None:
    middle = delay(3, MIDDLE)

    assert delay(3, 0.0) == pytest.approx(0.8 * middle)
    assert middle < delay(3, 0.999999) < 1.2 * middle
