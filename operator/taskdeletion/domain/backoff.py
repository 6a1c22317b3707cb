"""How long to wait before the next attempt or the next look. Pure: the caller brings the randomness."""

FIRST_DELAY_SECONDS = 5.0
LONGEST_DELAY_SECONDS = 300.0
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 30.0


def delay_before_attempt(attempts: int, jitter: float) -> float:
    """Seconds after `attempts` failed attempts (>= 1): 5, 10, 20 … 300, times 0.8 to 1.2 (`jitter` in [0, 1))."""
    delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(attempts - 1, 16), LONGEST_DELAY_SECONDS)
    return delay * (0.8 + 0.4 * jitter)


def delay_while_waiting(looks: int, jitter: float) -> float:
    """Seconds before an unavailable dependency is looked at again after `looks` looks (>= 1): 1, 2, 4 … 30."""
    delay = min(FIRST_WAIT_SECONDS * 2.0 ** min(looks - 1, 16), LONGEST_WAIT_SECONDS)
    return delay * (0.8 + 0.4 * jitter)
