"""The interval that a benchmark's verdict hangs on, against values from tables of the sign test."""

import random

import pytest

from bench.intervals import Interval, coverage_without, median_interval, pair_ratios


@pytest.mark.parametrize(
    ("count", "dropped", "coverage"),
    [(5, 0, 0.9375), (6, 0, 0.96875), (7, 0, 0.984375), (7, 1, 0.875), (9, 1, 0.9609375), (12, 2, 0.96142578125)],
)
def test_the_coverage_is_that_of_the_sign_test(count: int, dropped: int, coverage: float) -> None:
    assert coverage_without(count, dropped) == coverage


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (11, 2, 10), (12, 3, 10), (15, 4, 12), (20, 6, 15), (25, 8, 18)],
)
def test_the_interval_is_the_narrowest_of_order_statistics_that_covers_95_percent(
    count: int, low: int, high: int
) -> None:
    figures = [float(number) for number in range(1, count + 1)]
    random.Random(count).shuffle(figures)

    found = median_interval(figures)

    assert (found.low, found.high, found.median) == (low, high, (count + 1) / 2)
    assert found.is_certain


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_fewer_than_six_figures_are_never_certain(count: int) -> None:
    found = median_interval([float(number) for number in range(count)])

    assert (found.low, found.high) == (0.0, count - 1.0)
    assert not found.is_certain


def test_an_outlier_widens_the_interval_and_does_not_move_the_median() -> None:
    assert median_interval([1.0, 1.0, 1.0, 1.0, 1.0, 9.0]) == Interval(1.0, 1.0, 9.0, 0.96875)


def test_the_interval_holds_the_true_median_as_often_as_it_says() -> None:
    draw = random.Random(7)
    trials = 4000

    inside = 0
    for _ in range(trials):
        found = median_interval([draw.expovariate(1.0) for _ in range(9)])
        inside += found.low <= 0.6931471805599453 <= found.high

    assert inside / trials == pytest.approx(0.961, abs=0.01)


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="median of nothing"):
        median_interval([])


def test_ratios_are_taken_round_by_round() -> None:
    assert pair_ratios([1.0, 20.0, 3.0], [2.0, 40.0, 6.0]) == [0.5, 0.5, 0.5]


def test_ratios_need_as_many_rounds_on_both_sides() -> None:
    with pytest.raises(ValueError, match="zip"):
        pair_ratios([1.0, 2.0], [1.0])
