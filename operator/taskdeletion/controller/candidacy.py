"""The thread that stands for election, and then stays elected: carries out what `domain.election` decides.

Made and asked by `bootstrap`. What a lease is, and how a process ends, is handed in. It must wait for nothing but the
lease: whatever it did besides would shorten the tenure.
"""

import logging
import threading
from collections.abc import Callable
from typing import NoReturn, Protocol

from taskdeletion.controller.tenure import Tenure
from taskdeletion.domain.election import (
    Claim,
    Election,
    Lease,
    LeaseChanged,
    LeaseUnknown,
    Look,
    Lost,
    Renew,
    Step,
    Timing,
    Wait,
)

log = logging.getLogger(__name__)


class Leases(Protocol):
    """Where the lease is kept. Every method may raise LeaseUnknown, those that write LeaseChanged."""

    def read(self) -> Lease | None: ...
    def claim(self, over: Lease | None) -> Lease: ...
    def renew(self, lease: Lease) -> Lease: ...
    def release(self, lease: Lease) -> None: ...


class Timer(Protocol):
    """Ends the process at a time, if nobody else does."""

    def set(self, at: float) -> None: ...
    def stop(self) -> None: ...


class Candidacy:
    """One process's part in the election. Thread-safe."""

    def __init__(
        self,
        identity: str,
        timing: Timing,
        leases: Leases,
        *,
        timer: Timer,
        clock: Callable[[], float],
        end: Callable[[str], NoReturn],
    ) -> None:
        """`end`: ends the process at once, with a message, and never returns."""
        self.tenure = Tenure(timing.margin_seconds, clock, end)
        self._timing = timing
        self._election = Election(identity, timing)
        self._leases = leases
        self._timer = timer
        self._clock = clock
        self._end = end
        self._problem: str | None = "the lease was not looked at yet"
        self._patient_until = self._turned_at = clock()
        self._is_leading = False
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)

    def wait(self) -> bool:
        """Stand for election until this process leads (True) or was withdrawn (False). Once only."""
        with self._changed:
            if not self._is_over:
                self._thread.start()
            self._changed.wait_for(lambda: self._is_leading or self._is_over)
            return not self._is_over

    def withdraw(self) -> None:
        """Take part no more, unless this process leads already. Does not block."""
        with self._changed:
            if not self._is_leading:
                self._is_over = True
                self._changed.notify_all()

    def resign(self) -> None:
        """Give the lease back, behind the last effect. Where that fails it runs out by itself. Idempotent."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        self.tenure.close()
        self._timer.stop()
        lease = self._election.resign()
        if lease is None:
            return
        try:
            self._leases.release(lease)
        except (LeaseChanged, LeaseUnknown) as error:
            log.warning("the lease could not be given back, and runs out by itself: %s", error)

    @property
    def is_leading(self) -> bool:
        """Whether this process was elected."""
        return self._is_leading

    def find_problem(self) -> str | None:
        """Why this process could not take over if the leader died now. A lost answer or two is no news."""
        problem = self._problem
        return problem if problem is not None and self._clock() >= self._patient_until else None

    def find_dead(self, limit_seconds: float) -> str | None:
        """Why this process has to be started anew."""
        silent = self._clock() - self._turned_at
        return f"the election has not gone on for {silent:.0f} s" if silent > limit_seconds else None

    # --- the thread -------------------------------------------------------------------------------------------------
    def _run(self) -> None:
        try:
            while not self._is_over:
                self._turned_at = self._clock()
                self._take(self._election.step(self._turned_at))
        except Exception:  # without this thread there is no lease, and without a lease no process
            log.exception("the election ended unexpectedly")
            self._end("the election ended unexpectedly")

    def _take(self, step: Step) -> None:
        if isinstance(step, Wait):
            with self._changed:
                self._changed.wait_for(lambda: self._is_over, step.seconds)
        elif isinstance(step, Lost):
            self._end(f"this process leads no more: {step.message}")
        else:
            self._ask(step)

    def _ask(self, step: Look | Claim | Renew) -> None:
        sent_at = self._clock()
        try:
            if isinstance(step, Look):
                self._election.saw(self._leases.read(), self._clock())
            elif isinstance(step, Claim):
                self._win(self._leases.claim(step.over), sent_at)
            else:
                self._win(self._leases.renew(step.lease), sent_at)
        except LeaseChanged:
            self._election.refused(self._clock())
        except LeaseUnknown as error:
            self._note_failure(str(error))
            return
        self._problem, self._patient_until = None, self._clock() + self._timing.lease_seconds

    def _win(self, lease: Lease, sent_at: float) -> None:
        self._election.won(lease, sent_at)
        self._timer.set(sent_at + self._timing.kill_seconds)  # first: no effect without it
        self.tenure.extend(sent_at + self._timing.tenure_seconds)
        if not self._is_leading:
            with self._changed:
                self._is_leading = True
                self._changed.notify_all()

    def _note_failure(self, problem: str) -> None:
        self._election.failed(self._clock())
        if problem != self._problem:
            log.warning("the lease cannot be %s: %s", "renewed" if self._is_leading else "looked at", problem)
        self._problem = problem
