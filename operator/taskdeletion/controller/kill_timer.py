"""A timer of the kernel that kills this process at a time, whatever the process does then: also while it is stopped.

Used by `controller.candidacy`, which moves the time on while the process leads. Linux only. The first process of a
container cannot be killed from inside (`handlers.child`).
"""

import ctypes
import os
import signal
import time
from typing import Final

#: Goes on while the machine sleeps.
CLOCK: Final = time.CLOCK_BOOTTIME
_NOTIFY_BY_SIGNAL: Final = 0
_ABSOLUTE: Final = 1
_NANOSECONDS: Final = 1_000_000_000


def clock() -> float:
    """Seconds since the machine booted, sleep included."""
    return time.clock_gettime(CLOCK)


class _Event(ctypes.Structure):
    """`struct sigevent`, padded to the 64 bytes that it has everywhere."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    """`struct itimerspec`; all zero stops the timer."""

    _fields_ = (("interval", _Time), ("value", _Time))


class KillTimer:
    """Not set at first. Not inherited by a child. Raises OSError where the kernel has no such timer."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Event(signo=signal.SIGKILL, notify=_NOTIFY_BY_SIGNAL)
        self._require(self._libc.timer_create(CLOCK, ctypes.byref(event), ctypes.byref(self._timer)))

    def set(self, at: float) -> None:
        """Kill the process at that time, by `clock`, and not at an earlier one that was set before."""
        nanoseconds = max(1, round(at * _NANOSECONDS))
        self._settle(_Time(*divmod(nanoseconds, _NANOSECONDS)))

    def stop(self) -> None:
        """Kill nobody."""
        self._settle(_Time(0, 0))

    def _settle(self, value: _Time) -> None:
        setting = _Setting(_Time(0, 0), value)
        self._require(self._libc.timer_settime(self._timer, _ABSOLUTE, ctypes.byref(setting), None))

    @staticmethod
    def _require(answer: int) -> None:
        if answer != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"leader election needs a timer of the kernel: {os.strerror(number)}")
