"""The health server: GET /healthz (is the process alive?) and GET /readyz (can it work?) for the kubelet.

`bootstrap` starts it and hands in what is to be asked. It answers 200 "ok" or 503 with the problem, and knows nothing
else.
"""

import logging
from collections.abc import Callable
from functools import partial

from taskdeletion.observe.serving import Page, PageServer

#: Returns what is wrong, or None.
Check = Callable[[], str | None]

log = logging.getLogger(__name__)


class HealthServer(PageServer):
    """Serves the two checks on `address` (host, port; port 0: any free one) from threads of its own."""

    def __init__(self, address: tuple[str, int], liveness: Check, readiness: Check) -> None:
        super().__init__(
            address, {"/healthz": partial(_answer, liveness), "/readyz": partial(_answer, readiness)}, name="health"
        )


def _answer(check: Check) -> Page:
    problem = _ask(check)
    return Page(200 if problem is None else 503, (problem or "ok").encode())


def _ask(check: Check) -> str | None:
    try:
        return check()
    # A check that cannot tell means "not well", and the kubelet must hear that: without an answer it would only guess.
    except Exception as error:
        log.warning("a health check failed", exc_info=True)
        return f"the check itself failed: {type(error).__name__}"
