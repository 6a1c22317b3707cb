"""Rounds in turn, a warm-up that does not count, and verdicts that only an upper end within the target gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import pytest

from bench.line import OURS, Contest, Line
from bench.measuring import CannotRunError, Result, count_reached, measure


class Script:
    """A contest whose figures are written down; the first of each contestant belongs to the warm-up."""

    def __init__(self, figures: Mapping[str, Sequence[float]]) -> None:
        self.contestants: Sequence[str] = list(figures)
        self.calls: list[tuple[str, str]] = []
        self.closed = False
        self._left = {name: iter(values) for name, values in figures.items()}

    def prepare(self, contestant: str) -> None:
        self.calls.append(("prepare", contestant))

    def run(self, contestant: str) -> float:
        self.calls.append(("run", contestant))
        return next(self._left[contestant])

    @contextmanager
    def open(self) -> Iterator[Contest]:
        try:
            yield self
        finally:
            self.closed = True


def build_line(
    open_: Callable[[], AbstractContextManager[Contest]],
    *,
    peer: str | None = "peer",
    target: float | None = 1.0,
    aim: float | None = 0.5,
    rounds: int = 6,
) -> Line:
    return Line(name="one", work="work", peer=peer, target=target, aim=aim, open=open_, rounds=rounds)


def silent(_: str) -> None:
    """Nobody looks."""


def result_of(ours: Sequence[float], theirs: Sequence[float], *, target: float | None = 1.0) -> Result:
    line = build_line(Script({}).open, target=target)
    return Result(line, {OURS: list(ours), "peer": list(theirs)})


def test_contestants_take_turns_and_the_warm_up_is_not_counted() -> None:
    script = Script({OURS: [99.0, 1.0, 2.0], "peer": [99.0, 4.0, 5.0], "other": [99.0, 7.0, 8.0]})

    result = measure(build_line(script.open), rounds=2, progress=silent)

    assert result.figures == {OURS: [1.0, 2.0], "peer": [4.0, 5.0], "other": [7.0, 8.0]}
    one_round = [(step, name) for name in (OURS, "peer", "other") for step in ("prepare", "run")]
    assert script.calls == one_round * 3
    assert result.others == ["other"]


def test_a_line_runs_as_many_rounds_as_it_says() -> None:
    script = Script({OURS: [1.0] * 5, "peer": [1.0] * 5})

    result = measure(build_line(script.open, rounds=4), rounds=None, progress=silent)

    assert len(result.figures[OURS]) == 4


def test_a_contest_is_closed_when_a_contestant_fails() -> None:
    script = Script({OURS: [1.0], "peer": [1.0]})

    with pytest.raises(StopIteration):
        measure(build_line(script.open), rounds=3, progress=silent)

    assert script.closed


@pytest.mark.parametrize("contestants", [["peer", OURS], [OURS], [OURS, "peer", "peer"], [OURS, "stranger", "peer"]])
def test_a_contest_with_other_contestants_than_the_line_is_refused(contestants: list[str]) -> None:
    script = Script({})
    script.contestants = contestants

    with pytest.raises(ValueError, match="should begin with"):
        measure(build_line(script.open), rounds=1, progress=silent)


def test_a_machine_that_lacks_something_is_said_and_not_reached() -> None:
    @contextmanager
    def lacking() -> Iterator[Contest]:
        raise CannotRunError("no FUSE here")
        yield

    result = measure(build_line(lacking), rounds=1, progress=silent)

    assert result.not_run == "no FUSE here"
    assert not result.failed
    assert result.is_reached is False
    assert count_reached([result]) == (0, 1)


def test_a_target_is_reached_when_the_upper_end_is_within_it() -> None:
    assert result_of([1.0] * 6, [1.0] * 6).is_reached


def test_one_round_above_the_target_of_six_is_enough_to_miss_it() -> None:
    result = result_of([0.2, 0.2, 0.2, 0.2, 0.2, 1.01], [1.0] * 6)

    assert result.ratio_to("peer").median == 0.2
    assert result.is_reached is False


def test_a_slow_round_on_both_sides_is_no_miss() -> None:
    assert result_of([0.5, 0.5, 0.5, 0.5, 0.5, 50.0], [1.0, 1.0, 1.0, 1.0, 1.0, 100.0]).is_reached


def test_too_few_rounds_reach_nothing() -> None:
    assert result_of([0.1] * 5, [1.0] * 5).is_reached is False


def test_the_aim_has_a_verdict_of_its_own() -> None:
    reached, missed = result_of([0.5] * 6, [1.0] * 6), result_of([0.6] * 6, [1.0] * 6)

    assert (reached.is_reached, reached.is_aim_reached) == (True, True)
    assert (missed.is_reached, missed.is_aim_reached) == (True, False)


def test_without_a_peer_our_own_figure_is_compared() -> None:
    line = build_line(Script({}).open, peer=None, target=5.0)
    within = Result(line, {OURS: [4.0] * 6, "shown": [1.0] * 6})
    beyond = Result(line, {OURS: [4.0, 4.0, 4.0, 4.0, 4.0, 5.1], "shown": [1.0] * 6})

    assert within.is_reached
    assert beyond.is_reached is False
    assert within.others == ["shown"]


def test_lines_without_a_target_are_not_counted() -> None:
    shown = result_of([9.0] * 6, [1.0] * 6, target=None)

    assert shown.is_reached is None
    assert count_reached([shown, result_of([0.1] * 6, [1.0] * 6), result_of([9.0] * 6, [1.0] * 6)]) == (1, 2)
