"""How often long work tells a person that it is going on."""

import sys
import time

import pytest

from dev.progress import Elapsed


@pytest.mark.parametrize(("watched", "expected"), [(True, 4), (False, 1)], ids=["terminal", "log"])
def test_a_log_gets_one_line_a_minute_and_a_terminal_more(
    monkeypatch: pytest.MonkeyPatch, watched: bool, expected: int
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    told: list[str] = []
    elapsed = Elapsed("building", told.append)
    assert told.pop() == "building ..."
    for _ in range(60):
        now[0] += 1
        elapsed.tick()
    assert len(told) == expected
    assert told[-1] == "building ... 60 s"
