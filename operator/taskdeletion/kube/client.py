"""Requests to the API server as plain JSON: login, time limits, retries, and answers with the server's own time.

Used by the modules of `kube` only. It knows HTTP and Kubernetes' Status, not our kinds. Every caller sends requests
that may be sent twice (reads, writes with a precondition, creations under a name chosen here): all of them are retried.
"""

# ruff: noqa: N818 - an exception is named for what is the case; `except ObjectGone` reads as it is meant

import json
import logging
import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.parse import quote, urlencode

import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.config.incluster_config import SERVICE_HOST_ENV_NAME, SERVICE_TOKEN_FILENAME

from taskdeletion.domain.leadership import ALONE, Leadership

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
USER_AGENT = "task-deletion-operator"
CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 30.0
TIMEOUT = urllib3.Timeout(connect=CONNECT_TIMEOUT_SECONDS, read=READ_TIMEOUT_SECONDS)
ATTEMPTS = 4
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
LOGIN_FRESH_SECONDS = 1.0
# No further attempt begins after this: a worker reports an outage rather than sitting it out.
RETRY_BUDGET_SECONDS = 30.0
RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})

log = logging.getLogger(__name__)
#: Told of every attempt of a request: method, HTTP status (None: no answer), seconds.
Watcher = Callable[[str, int | None, float], object]


class KubeUnavailable(Exception):
    """The API server cannot be reached or cannot serve now. It passes by itself: try again later."""


class KubeForbidden(Exception):
    """The API server knows no such user (401) or the user lacks a right (403). The text is the server's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KubeRejected(Exception):
    """Any other refusal (4xx), with the server's reason and text."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A 2xx answer: the JSON document, and the server's clock (UTC, whole seconds) when it was written."""

    body: dict[str, Any]
    server_time: datetime


class Api:
    """A logged-in connection pool. Safe for many threads."""

    def __init__(
        self,
        client: ApiClient,
        *,
        timeout: urllib3.Timeout = TIMEOUT,
        leadership: Leadership = ALONE,
        watcher: Watcher | None = None,
    ) -> None:
        """`leadership`: asked before every attempt of a request that changes something. `watcher`: told of each."""
        self._client = client
        self._timeout = timeout
        self._leadership = leadership
        self._watcher = watcher
        self._login: tuple[float, dict[str, str]] = (float("-inf"), {})

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = JSON,
        attempts: int = ATTEMPTS,
    ) -> Answer:
        """Send one request, again while it is worth it; `path` is quoted already (see `quoted`).

        Raises KubeUnavailable, KubeForbidden or KubeRejected (404 and 409 among them).
        """
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": JSON, "Content-Type": content_type, "User-Agent": USER_AGENT}
        content = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        give_up_at = monotonic() + RETRY_BUDGET_SECONDS
        for delay_seconds in _delays(attempts):
            if method != "GET":
                self._leadership.require()
            try:
                return self._send(method, url, headers=headers, content=content)
            except _Retriable as problem:
                wait_seconds = problem.choose_delay(delay_seconds)
                if wait_seconds is None or monotonic() + wait_seconds > give_up_at:
                    raise KubeUnavailable(f"{method} {path}: {problem}") from problem
                log.debug("API server: %s; trying again in %.1f s", problem, wait_seconds)
                sleep(wait_seconds)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Close the pooled connections."""
        self._client.close()  # type: ignore[no-untyped-call]  # the client library is typed in part

    def _send(self, method: str, url: str, *, headers: Mapping[str, str], content: bytes | None) -> Answer:
        # The library's pool, with all that it was told of TLS and proxies, but without its own way of sending: that
        # walks through every value of a document to find objects to convert, and costs as much as the exchange itself.
        pool = self._client.rest_client.pool_manager
        sent_at, status = monotonic(), None
        try:
            response = pool.urlopen(
                method,
                url,
                body=content,
                headers={**headers, **self._log_in()},
                timeout=self._timeout,
                retries=False,  # retried here, where the whole answer and the time spent are known
                redirect=False,
            )
            status = response.status
        # OSError and ConfigException: the token file is being replaced.
        except (urllib3.exceptions.HTTPError, OSError, ConfigException) as error:
            raise _Retriable(f"cannot reach the API server: {_last_line(error)}") from error
        finally:
            if self._watcher is not None:
                self._watcher(method, status, monotonic() - sent_at)
        return _read_answer(response.status, response.headers, response.data)

    def _log_in(self) -> dict[str, str]:
        """The headers of the log-in. Asked for anew once a second: a token file is rotated long before it expires."""
        asked_at, known = self._login
        if monotonic() - asked_at < LOGIN_FRESH_SECONDS:
            return known
        now = monotonic()
        found: dict[str, str] = {}
        self._client.update_params_for_auth(found, [], ["BearerToken"], "", "", None)
        self._login = (now, found)  # of two threads that ask at once either is right
        return found


def connect(
    *,
    pool_size: int,
    timeout_seconds: float | None = None,
    leadership: Leadership = ALONE,
    watcher: Watcher | None = None,
) -> Api:
    """Log in with the pod's service account, else with KUBECONFIG or the default kubeconfig.

    `timeout_seconds`: for one attempt as a whole, where the usual limits are too long. The others: see Api.
    Sends nothing yet. The token file is read again as it is rotated. Raises KubeForbidden when there is no login.
    """
    configuration = Configuration()
    try:
        if SERVICE_HOST_ENV_NAME in os.environ and Path(SERVICE_TOKEN_FILENAME).is_file():
            _load_service_account(configuration)
        else:
            _load_kubeconfig(configuration)
    except ConfigException as error:
        message = f"no way to log in to Kubernetes: {error}; run in a pod with a service account, or set KUBECONFIG"
        raise KubeForbidden(401, message) from error
    configuration.connection_pool_maxsize = pool_size
    configuration.keep_alive = True
    timeout = TIMEOUT if timeout_seconds is None else urllib3.Timeout(total=timeout_seconds)
    return Api(ApiClient(configuration), timeout=timeout, leadership=leadership, watcher=watcher)


def _load_service_account(configuration: Configuration) -> None:
    load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # typed in part


def _load_kubeconfig(configuration: Configuration) -> None:
    # Named here, because the library reads KUBECONFIG only once, when it is imported.
    path = os.environ.get("KUBECONFIG") or None
    load_kube_config(config_file=path, client_configuration=configuration)  # type: ignore[no-untyped-call]  # typed in part


def quoted(*parts: str) -> str:
    """The parts joined to a path, such as /api/v1/namespaces/n; a name can never reach another path."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


class _Retriable(Exception):
    """One attempt failed in a way that may pass; `after_seconds` is what Retry-After asked for."""

    def __init__(self, message: str, after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self._after_seconds = after_seconds

    def choose_delay(self, delay_seconds: float | None) -> float | None:
        """Seconds until the next attempt: the planned delay or what the server asks for; None: no further attempt."""
        if delay_seconds is None or self._after_seconds > LONGEST_DELAY_SECONDS:
            return None
        return max(delay_seconds, self._after_seconds)


def _delays(attempts: int, jitter: Callable[[float, float], float] = random.uniform) -> Iterator[float | None]:
    """The delay behind each attempt: growing, spread so that many clients do not return together; None at the end."""
    for attempt in range(attempts - 1):
        ceiling = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**attempt)
        yield jitter(ceiling / 2, ceiling)
    yield None


def _read_answer(status: int, headers: Mapping[str, str], content: bytes) -> Answer:
    if 200 <= status < 300:
        return _read_success(headers, content)
    reason, message = _read_refusal(status, content)
    if status in RETRIED_STATUSES:
        raise _Retriable(f"the API server answered {status}: {message}", _retry_after_seconds(headers))
    if status in {401, 403}:
        raise KubeForbidden(status, message)
    if status == 404 and reason != "NotFound":
        # Not our object is missing but the whole path: the server is starting, or its CRDs are not there (yet).
        raise KubeUnavailable("the API server does not serve this kind (yet): are the CRDs installed?")
    raise KubeRejected(status, reason, message)


def _read_success(headers: Mapping[str, str], content: bytes) -> Answer:
    try:
        body = json.loads(content)
        server_time = parsedate_to_datetime(headers["Date"]).astimezone(UTC)
    except (KeyError, ValueError) as error:
        raise _Retriable("the answer is not from an API server: no JSON, or no Date header") from error
    if not isinstance(body, dict):
        raise _Retriable("the answer is not from an API server: no JSON object")
    return Answer(body, server_time)


def _read_refusal(status: int, content: bytes) -> tuple[str, str]:
    """Reason and message of a metav1.Status; an empty reason where the answer is something else."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or body.get("kind") != "Status":
        return "", content[:200].decode(errors="replace").strip() or f"HTTP {status}"
    return str(body.get("reason", "")), str(body.get("message", ""))


def _retry_after_seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _last_line(error: Exception) -> str:
    """The line that says what is wrong; empty texts exist."""
    return (str(error).splitlines() or [type(error).__name__])[-1]
