"""The thread around an election: what it asks of the lease, in which order it arms, and how it ends."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import NoReturn

import pytest

from dev.pipeline import wait_until
from taskdeletion.controller.candidacy import Candidacy
from taskdeletion.domain.election import Lease, LeaseChanged, LeaseUnknown, Timing
from taskdeletion.domain.leadership import NotLeading

TIMING = Timing(0.5)
PATIENCE_SECONDS = 10


class Store:
    """One lease with versions, as an API server keeps it, for several processes of the test."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.lock = threading.Lock()
        self.is_away = False
        self.renewals = 0


class Leases:
    """The store as one process sees it."""

    def __init__(self, store: Store, identity: str) -> None:
        self._store = store
        self._identity = identity

    def read(self) -> Lease | None:
        self._answer()
        return self._store.lease

    def claim(self, over: Lease | None) -> Lease:
        transitions = over.transitions + 1 if over else 0
        return self._write(over, Lease("0", self._identity, "", TIMING.lease_seconds, transitions))

    def renew(self, lease: Lease) -> Lease:
        self._store.renewals += 1
        return self._write(lease, lease)

    def release(self, lease: Lease) -> None:
        self._write(lease, replace(lease, holder=""))

    def _answer(self) -> None:
        if self._store.is_away:
            raise LeaseUnknown("nobody answers")

    def _write(self, before: Lease | None, after: Lease) -> Lease:
        self._answer()
        with self._store.lock:
            known = self._store.lease
            if (known and known.version) != (before and before.version):
                raise LeaseChanged("changed")
            version = str(int(known.version) + 1 if known else 1)
            self._store.lease = replace(after, version=version, beat=version)
            return self._store.lease


class Timer:
    def __init__(self) -> None:
        self.times: list[float] = []
        self.is_stopped = False

    def set(self, at: float) -> None:
        self.times.append(at)

    def stop(self) -> None:
        self.is_stopped = True


#: A process that is gone is a thread here that ends by SystemExit, which no `except Exception` keeps.
ends_a_process = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Process:
    """A candidate, and what became of its process."""

    def __init__(self, store: Store, identity: str) -> None:
        self.timer = Timer()
        self.endings: list[str] = []
        self.led: bool | None = None
        self.candidacy = Candidacy(
            identity, TIMING, Leases(store, identity), timer=self.timer, clock=time.monotonic, end=self._end
        )
        self._thread = threading.Thread(target=self._stand, daemon=True)

    def _stand(self) -> None:
        self.led = self.candidacy.wait()

    def _end(self, message: str) -> NoReturn:
        self.endings.append(message)
        raise SystemExit

    def start(self) -> "Process":
        self._thread.start()
        return self

    def wait_to_lead(self) -> "Process":
        wait_until(lambda: self.candidacy.is_leading, seconds=PATIENCE_SECONDS, what="leadership")
        return self


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def processes(store: Store) -> Iterator[list[Process]]:
    made = [Process(store, name) for name in ("a", "b")]
    yield made
    for process in made:
        process.candidacy.resign()


def test_of_two_one_leads_and_goes_on_renewing(store: Store, processes: list[Process]) -> None:
    first, second = (process.start() for process in processes)
    wait_until(lambda: store.renewals > 3, seconds=PATIENCE_SECONDS, what="renewals")

    assert [first.candidacy.is_leading, second.candidacy.is_leading].count(True) == 1
    assert first.endings + second.endings == []


def test_the_timer_that_kills_is_set_before_an_effect_may_begin_and_moves_on(
    store: Store, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = processes[0]
    armed: list[int] = []
    extend = process.candidacy.tenure.extend

    def note(until: float) -> None:
        armed.append(len(process.timer.times))
        assert process.timer.times[-1] > until
        extend(until)

    monkeypatch.setattr(process.candidacy.tenure, "extend", note)
    process.start().wait_to_lead()
    wait_until(lambda: len(armed) > 2, seconds=PATIENCE_SECONDS, what="renewals")

    assert armed[:3] == [1, 2, 3]
    assert process.timer.times == sorted(process.timer.times)
    assert process.candidacy.tenure.require() is False


def test_who_resigns_gives_the_lease_back_and_the_other_leads_long_before_it_would_have_run_out(
    store: Store, processes: list[Process]
) -> None:
    first = processes[0].start().wait_to_lead()
    second = processes[1].start()
    first.candidacy.resign()
    given_back = time.monotonic()
    second.wait_to_lead()

    assert time.monotonic() - given_back < TIMING.lease_seconds
    assert first.timer.is_stopped
    assert first.endings == []
    with pytest.raises(NotLeading):
        first.candidacy.tenure.require()


@ends_a_process
def test_a_lease_that_cannot_be_renewed_ends_the_process(store: Store, processes: list[Process]) -> None:
    process = processes[0].start().wait_to_lead()
    store.is_away = True
    wait_until(lambda: process.endings, seconds=PATIENCE_SECONDS, what="the end")

    assert "not renewed" in process.endings[0]


@ends_a_process
def test_a_lease_that_another_took_ends_the_process(store: Store, processes: list[Process]) -> None:
    process = processes[0].start().wait_to_lead()
    with store.lock:
        store.lease = Lease("1000", "thief", "x", TIMING.lease_seconds, 9)
    wait_until(lambda: process.endings, seconds=PATIENCE_SECONDS, what="the end")

    assert "thief" in process.endings[0]


@ends_a_process
def test_an_error_that_nobody_foresaw_ends_the_process(
    store: Store, processes: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = processes[0].start().wait_to_lead()
    monkeypatch.setattr(Leases, "renew", lambda *_: 1 / 0)
    wait_until(lambda: process.endings, seconds=PATIENCE_SECONDS, what="the end")

    assert "unexpectedly" in process.endings[0]


def test_who_is_told_to_stop_while_it_stands_by_stops_at_once_and_leaves_the_lease_alone(
    store: Store, processes: list[Process]
) -> None:
    processes[0].start().wait_to_lead()
    second = processes[1].start()
    second.candidacy.withdraw()
    wait_until(lambda: second.led is False, seconds=PATIENCE_SECONDS, what="the withdrawal")
    second.candidacy.resign()

    assert store.lease is not None
    assert store.lease.holder == "a"


def test_who_leads_is_not_withdrawn(store: Store, processes: list[Process]) -> None:
    process = processes[0].start().wait_to_lead()
    process.candidacy.withdraw()
    before = store.renewals
    wait_until(lambda: store.renewals > before + 1, seconds=PATIENCE_SECONDS, what="renewals")

    assert process.led is True


@ends_a_process
def test_a_standby_is_fine_once_it_saw_the_lease_and_not_when_it_has_not_for_the_length_of_one(
    store: Store, processes: list[Process]
) -> None:
    processes[0].start().wait_to_lead()
    second = processes[1]
    assert second.candidacy.find_problem() == "the lease was not looked at yet"
    second.start()
    wait_until(lambda: second.candidacy.find_problem() is None, seconds=PATIENCE_SECONDS, what="a look")
    store.is_away = True
    wait_until(second.candidacy.find_problem, seconds=PATIENCE_SECONDS, what="a problem")

    assert second.candidacy.find_problem() == "nobody answers"
    assert second.endings == []
    assert second.candidacy.find_dead(PATIENCE_SECONDS) is None


def test_an_election_that_goes_on_no_more_is_dead(store: Store, processes: list[Process]) -> None:
    process = processes[0]
    wait_until(lambda: process.candidacy.find_dead(0.01), seconds=PATIENCE_SECONDS, what="silence")

    assert process.candidacy.find_dead(PATIENCE_SECONDS) is None
