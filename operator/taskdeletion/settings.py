"""The operator's settings: read once from `TASKDELETION_*` variables, frozen, handed down by `bootstrap`.

The name of a variable is the prefix and the field in upper case. No instance lives in this module, and nothing else
reads these variables. What is wrong is refused at the start, with the variable's name and what to do about it.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PREFIX = "TASKDELETION_"
DEVELOPMENT_PREFIX = "TASKDELETION_DEV_"
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
# Kubernetes puts such variables into every pod beside a Service whose name begins with "taskdeletion".
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
SERVICE_LINK_NAME = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
SERVICE_LINK_VALUE = re.compile(r"(tcp|udp|sctp)://.*")


class SettingsError(Exception):
    """A variable that cannot be used; the text names it and says what to write instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator process runs with."""

    #: Namespaces to serve; empty: all of the cluster.
    namespaces: tuple[str, ...] = ()
    #: Where claims are mounted: `<volumes_root>/<namespace>/<claimName>`.
    volumes_root: Path = Path("/volumes")
    #: Whether a claim's directory must be a mount point (false only for development).
    require_mount: bool = True
    #: TaskDeletions that are worked on side by side.
    workers: int = 8
    #: How many of them may belong to one store.
    store_threads: int = 4
    #: Threads that empty the directories of one store, where its file system is slow.
    directory_threads: int = 64
    #: Threads that help to empty directories, of all stores together.
    directory_helpers: int = 128
    #: Batches of objects on their way at the same time, of all stores together.
    object_batches: int = 32
    #: Host and port of the health server; port 0: any; None: no health server.
    health_address: tuple[str, int] | None = ("0.0.0.0", 8080)  # noqa: S104 - probes come from the node
    #: Host and port of the metrics; port 0: any; None: they are not served.
    metrics_address: tuple[str, int] | None = ("0.0.0.0", 8081)  # noqa: S104 - Prometheus comes from another pod
    log_level: str = "info"
    log_format: Literal["json", "text"] = "json"
    probe_interval_seconds: float = 60
    #: How often every object is looked at again without any event.
    resync_seconds: float = 600
    #: How long a shutdown waits for the work at hand.
    shutdown_seconds: float = 20
    #: Name of the ValidatingAdmissionPolicy, and of its binding, that has to be in force for what it guards (ADR 0016);
    #: "": none was asked for.
    admission_policy: str = ""
    #: What policy and binding have to be, as SHA-256 (`domain.admission`).
    admission_digest: str = ""
    #: Whether several processes elect one that works (ADR 0013); else this one works, and has to be the only one.
    leader_election: bool = False
    #: Where their Lease is; needed for the election.
    lease_namespace: str = ""
    lease_name: str = "task-deletion-operator"
    #: How long after its last sign of life a leader is taken for dead.
    lease_seconds: int = 10

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "Settings":
        """Read the settings from `env`. Raises SettingsError for the first variable that is unknown or wrong."""
        given: dict[str, Any] = {}
        for name in sorted(env):
            if _is_setting(name, env[name]):
                given[name.removeprefix(PREFIX).lower()] = _parse(name, env[name])
        settings = cls(**given)
        if settings.leader_election and not settings.lease_namespace:
            raise SettingsError(
                f"{PREFIX}LEADER_ELECTION=true needs {PREFIX}LEASE_NAMESPACE: the namespace that the operator runs in"
            )
        if bool(settings.admission_policy) != bool(settings.admission_digest):
            raise SettingsError(f"{PREFIX}ADMISSION_POLICY and {PREFIX}ADMISSION_DIGEST go together: set both, or none")
        return settings


def _is_setting(name: str, text: str) -> bool:
    if not name.startswith(PREFIX) or name.startswith(DEVELOPMENT_PREFIX):
        return False
    return not SERVICE_LINK_NAME.fullmatch(name) and not SERVICE_LINK_VALUE.fullmatch(text)


def _parse(name: str, text: str) -> Any:
    parser = _PARSERS.get(name)
    if parser is None:
        raise SettingsError(f"{name} is not a setting: {_advice(name)}")
    try:
        return parser(text.strip())
    except ValueError as error:
        raise SettingsError(f"{name}={text!r} cannot be used: {error}") from error


def _advice(name: str) -> str:
    known = [variable.removeprefix(PREFIX) for variable in _PARSERS]
    close = difflib.get_close_matches(name.removeprefix(PREFIX).upper(), known, n=1)
    if close:
        return f"did you mean {PREFIX}{close[0]}? Rename or remove it"
    return f"remove it; the settings are {', '.join(_PARSERS)}"


def _namespaces(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    names = [part.strip() for part in text.split(",")]
    wrong = [name for name in names if NAMESPACE.fullmatch(name) is None]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no namespace; write names separated by commas, or nothing for all of them")
    return tuple(dict.fromkeys(names))


def _namespace(text: str) -> str:
    if text and NAMESPACE.fullmatch(text) is None:
        raise ValueError("write the name of a namespace")
    return text


def _object_name(text: str) -> str:
    if len(text) > 253 or OBJECT_NAME.fullmatch(text) is None:
        raise ValueError("write the name of an object: lower-case letters, digits, '-' and '.'")
    return text


def _optional_name(text: str) -> str:
    return _object_name(text) if text else ""


def _optional_digest(text: str) -> str:
    if text and re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise ValueError("write a SHA-256 in 64 hexadecimal digits, in lower case")
    return text


def _absolute_path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute():
        raise ValueError("write an absolute path such as /volumes")
    return path


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError("write true or false")
    return text.lower() == "true"


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"[0-9]{1,9}", text) is None or not low <= int(text) <= high:
            raise ValueError(f"write a whole number from {low} to {high}")
        return int(text)

    return parse


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is None or not low <= float(text) <= high:
            raise ValueError(f"write a number of seconds from {low:g} to {high:g}, without a unit")
        return float(text)

    return parse


def _address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and re.fullmatch(r"[0-9]{1,5}", port)) or int(port) > 65535:
        raise ValueError("write host:port such as 0.0.0.0:8080 or [::]:8080 (port 0: any), or nothing to switch it off")
    return host, int(port)


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"write one of {', '.join(choices)}")
        return text.lower()

    return parse


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    PREFIX + "NAMESPACES": _namespaces,
    PREFIX + "VOLUMES_ROOT": _absolute_path,
    PREFIX + "REQUIRE_MOUNT": _boolean,
    PREFIX + "WORKERS": _integer(1, 256),
    PREFIX + "STORE_THREADS": _integer(1, 64),
    PREFIX + "DIRECTORY_THREADS": _integer(1, 256),
    PREFIX + "DIRECTORY_HELPERS": _integer(0, 1024),
    PREFIX + "OBJECT_BATCHES": _integer(1, 1024),
    PREFIX + "HEALTH_ADDRESS": _address,
    PREFIX + "METRICS_ADDRESS": _address,
    PREFIX + "LOG_LEVEL": _one_of("debug", "info", "warning", "error"),
    PREFIX + "LOG_FORMAT": _one_of("json", "text"),
    PREFIX + "PROBE_INTERVAL_SECONDS": _seconds(1, 86_400),
    PREFIX + "RESYNC_SECONDS": _seconds(1, 86_400),
    PREFIX + "SHUTDOWN_SECONDS": _seconds(0, 3_600),
    PREFIX + "ADMISSION_POLICY": _optional_name,
    PREFIX + "ADMISSION_DIGEST": _optional_digest,
    PREFIX + "LEADER_ELECTION": _boolean,
    PREFIX + "LEASE_NAMESPACE": _namespace,
    PREFIX + "LEASE_NAME": _object_name,
    PREFIX + "LEASE_SECONDS": _integer(5, 60),
}
