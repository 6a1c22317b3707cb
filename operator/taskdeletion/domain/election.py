"""Who leads: the decisions of one process in an election by lease (ADR 0013). Pure: times are handed in.

Driven by `controller.candidacy`, which carries out each step and tells what came of it. All times are seconds by one
clock of this process; what another process wrote is never read as a time.
"""

import math
from dataclasses import dataclass

_LOST_LEASE = "the lease was deleted"


@dataclass(frozen=True, slots=True)
class Timing:
    """The times of an election, as parts of the lease (ADR 0013 has the table). In seconds."""

    lease_seconds: float

    @property
    def look_seconds(self) -> float:
        """Between two looks of a process that stands by, and before a renewal that failed is tried again."""
        return 0.1 * self.lease_seconds

    @property
    def renew_seconds(self) -> float:
        """Between two renewals, and what a request about the lease may take."""
        return 0.2 * self.lease_seconds

    @property
    def margin_seconds(self) -> float:
        """What has to be left of a tenure for an effect to begin."""
        return 0.2 * self.lease_seconds

    @property
    def tenure_seconds(self) -> float:
        """How long a process leads after it sent a renewal that succeeded."""
        return 0.8 * self.lease_seconds

    @property
    def kill_seconds(self) -> float:
        """When, after that moment, it must not even be there any more. Before anybody else may take the lease."""
        return 0.85 * self.lease_seconds


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease as it is stored. `holder`: empty where nobody has it. `beat`: another with each renewal; no time.

    `seconds`: for how long the holder wants it left alone. `version`: what the next write has to name.
    """

    version: str
    holder: str
    beat: str
    seconds: float
    transitions: int

    @property
    def sign_of_life(self) -> tuple[str, str, int]:
        """What stays the same while the holder is silent; the version also changes when others label the object."""
        return self.holder, self.beat, self.transitions


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """Read the lease, and tell `saw`."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Take the lease from `over`, or create it where that is None; tell `won` or `refused`."""

    over: Lease | None


@dataclass(frozen=True, slots=True)
class Renew:
    """Renew the lease; tell `won` or `refused`."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Lost:
    """The process leads no more, and must end."""

    message: str


Step = Wait | Look | Claim | Renew | Lost


class Election:
    """One process in the election: first it stands by, then it leads, until it resigns or has lost. Not thread-safe.

    Whatever a step asked for, `failed` tells that nothing is known of how it ended.
    """

    def __init__(self, identity: str, timing: Timing) -> None:
        """`identity`: of this process alone; the next one on the same machine has another."""
        self._identity = identity
        self._timing = timing
        self._next_at = -math.inf
        self._seen: Lease | None = None
        self._seen_at = math.inf  # since when the holder has been silent
        self._may_claim = False
        self._held: Lease | None = None
        self._since = -math.inf  # when the latest renewal that succeeded was sent
        self._is_unsure = False
        self._lost: str | None = None

    @property
    def is_leading(self) -> bool:
        """Whether this process holds the lease, as far as it knows."""
        return self._held is not None and self._lost is None

    @property
    def since(self) -> float:
        """When the tenure that runs began: tenure and kill are counted from here."""
        return self._since

    # --- what to do -------------------------------------------------------------------------------------------------
    def step(self, now: float) -> Step:
        """What to do now."""
        if self._lost is None and self._held is not None and now >= self._until:
            self._lost = f"the lease was not renewed for {now - self._since:.1f} s"
        if self._lost is not None:
            return Lost(self._lost)
        if self._may_claim:
            return Claim(self._seen)
        if now < self._next_at:
            return Wait(min(self._next_at, self._until if self._held else math.inf) - now)
        return Look() if self._held is None or self._is_unsure else Renew(self._held)

    def resign(self) -> Lease | None:
        """Take part no more. The lease that is to be given back, where this process has one."""
        held = self._held if self._lost is None else None
        self._held, self._may_claim, self._lost = None, False, self._lost or "it was given back"
        return held

    # --- what came of it --------------------------------------------------------------------------------------------
    def saw(self, lease: Lease | None, now: float) -> None:
        """The lease was read: `now` is from after that. None: there is none."""
        if self._held is not None:
            self._verify(lease, now)
            return
        if math.isinf(self._seen_at) or _sign_of(lease) != _sign_of(self._seen):
            self._seen_at = now
        self._seen = lease
        free_at = self._free_at(lease, now)
        self._may_claim = now >= free_at
        self._next_at = min(now + self._timing.look_seconds, free_at)

    def won(self, lease: Lease, sent_at: float) -> None:
        """The claim or renewal that was sent at that time succeeded."""
        self._held, self._since = lease, sent_at
        self._may_claim = self._is_unsure = False
        self._next_at = sent_at + self._timing.renew_seconds

    def refused(self, now: float) -> None:
        """Somebody else wrote first: look who it was, at once where this process leads."""
        self._may_claim = False
        self._is_unsure = self._held is not None
        self._next_at = now if self._is_unsure else now + self._timing.look_seconds

    def failed(self, now: float) -> None:
        """No answer came; what was asked for may have happened, and counts for nothing."""
        self._may_claim = False
        self._next_at = now + self._timing.look_seconds

    @property
    def _until(self) -> float:
        return self._since + self._timing.tenure_seconds

    def _free_at(self, lease: Lease | None, now: float) -> float:
        """When the lease may be taken. One that is not there had a holder, for all we know."""
        if lease is not None and lease.holder in ("", self._identity):
            return now
        asked_for = lease.seconds if lease is not None else 0.0
        return self._seen_at + max(asked_for, self._timing.lease_seconds)

    def _verify(self, lease: Lease | None, now: float) -> None:
        """A write of the leader was refused: by its own earlier try, a label, or another holder."""
        self._is_unsure = False
        if lease is not None and lease.holder == self._identity:
            self._held, self._next_at = lease, now
        else:
            self._lost = _LOST_LEASE if lease is None else f"{lease.holder or 'nobody'} holds the lease now"


def _sign_of(lease: Lease | None) -> tuple[str, str, int] | None:
    return None if lease is None else lease.sign_of_life


class LeaseChanged(Exception):  # noqa: N818 - it says what is the case
    """The lease is not as it was read: somebody wrote it, created it or deleted it."""


class LeaseUnknown(Exception):  # noqa: N818 - it says what is the case
    """The request about the lease had no answer that says what came of it, or may not be made. The text says why."""
