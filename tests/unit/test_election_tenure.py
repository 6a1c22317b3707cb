"""Whether an effect may begin: with time left at once, with too little after a renewal, with none never."""

import threading
from typing import NoReturn

import pytest

from dev.pipeline import wait_until
from taskdeletion.controller.tenure import Tenure
from taskdeletion.domain.leadership import ALONE, NotLeading

PATIENCE_SECONDS = 10


class EndedError(Exception):
    """The process would be gone."""


class Process:
    """A tenure with a clock of the test, in a process that ends by an exception."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tenure = Tenure(2.0, lambda: self.now, self._end)

    def _end(self, message: str) -> NoReturn:
        raise EndedError(message)


class Asking:
    """A thread that wants to begin an effect."""

    def __init__(self, tenure: Tenure) -> None:
        self.answer: bool | Exception | None = None
        self._tenure = tenure
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def _ask(self) -> None:
        try:
            self.answer = self._tenure.require()
        except (EndedError, NotLeading) as error:
            self.answer = error

    def join(self) -> "bool | Exception | None":
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.answer

    @property
    def is_waiting(self) -> bool:
        return self._thread.is_alive() and bool(self._tenure._changed._waiters)  # type: ignore[attr-defined]


def test_with_enough_time_left_an_effect_begins_at_once() -> None:
    process = Process()
    process.tenure.extend(108.0)
    process.now = 106.0

    assert process.tenure.require() is False


def test_with_too_little_left_it_begins_after_the_renewal_and_says_that_time_has_passed() -> None:
    process = Process()
    process.tenure.extend(108.0)
    process.now = 106.5
    asking = Asking(process.tenure)
    wait_until(lambda: asking.is_waiting, seconds=PATIENCE_SECONDS, what="the wait for a renewal")
    assert asking.answer is None
    process.tenure.extend(114.0)

    assert asking.join() is True


def test_behind_the_end_no_effect_begins_and_the_process_is_ended_by_whoever_asks() -> None:
    process = Process()
    process.tenure.extend(108.0)
    process.now = 108.0

    with pytest.raises(EndedError):
        process.tenure.require()


def test_an_effect_that_waits_while_the_tenure_ends_ends_the_process() -> None:
    process = Process()
    process.tenure.extend(100.3)  # waits 0.3 s of real time
    asking = Asking(process.tenure)
    wait_until(lambda: asking.is_waiting, seconds=PATIENCE_SECONDS, what="the wait for a renewal")
    process.now = 101.0

    assert isinstance(asking.join(), EndedError)


def test_before_the_first_election_no_effect_begins() -> None:
    with pytest.raises(NotLeading):
        Process().tenure.require()


def test_behind_the_end_by_choice_no_effect_begins_and_the_process_goes_on() -> None:
    process = Process()
    process.tenure.extend(108.0)
    process.tenure.close()

    with pytest.raises(NotLeading):
        process.tenure.require()


def test_an_effect_that_waits_when_the_lease_is_given_back_is_told_so() -> None:
    process = Process()
    process.tenure.extend(101.0)
    asking = Asking(process.tenure)
    wait_until(lambda: asking.is_waiting, seconds=PATIENCE_SECONDS, what="the wait for a renewal")
    process.tenure.close()

    assert isinstance(asking.join(), NotLeading)


def test_a_process_that_is_alone_never_waits() -> None:
    assert ALONE.require() is False
