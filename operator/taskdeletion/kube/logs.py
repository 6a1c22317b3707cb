"""Reads the log of a pod, which is no JSON, through the API server. Used by `kube.jobs`.

A log that its node does not hand out is none: what was done is found out in another way.
"""

from collections.abc import Mapping
from time import sleep
from typing import Final

import urllib3

from taskdeletion.kube.client import RETRIED_STATUSES, USER_AGENT, Api, KubeForbidden, KubeUnavailable

#: Between attempts to get it.
_LOG_DELAYS_SECONDS: Final = (0.5, 1.0, 2.0)


class LogApi(Api):
    """An API connection that can also read what is no JSON."""

    def read_text(self, path: str, query: Mapping[str, str | int]) -> str | None:
        """The text at this path; None where there is none (any more), or its node does not hand it out.

        Raises KubeUnavailable, KubeForbidden.
        """
        for delay_seconds in (*_LOG_DELAYS_SECONDS, None):
            status, text = self._get_text(path, query)
            if status in {401, 403}:
                raise KubeForbidden(status, text)
            if status not in RETRIED_STATUSES or delay_seconds is None:
                return text if status == 200 else None
            sleep(delay_seconds)
        raise AssertionError("the last attempt returns")

    def _get_text(self, path: str, query: Mapping[str, str | int]) -> tuple[int, str]:
        try:
            response = self._client.rest_client.pool_manager.request(
                "GET",
                self._client.configuration.host + path,
                fields={name: str(value) for name, value in query.items()},
                headers={"Accept": "*/*", "User-Agent": USER_AGENT, **self._log_in()},
                timeout=self._timeout,
                retries=False,
                redirect=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise KubeUnavailable(f"GET {path}: cannot reach the API server: {error}") from error
        return response.status, response.data.decode(errors="replace")
