"""Vets the URL of a catalog's Secret: TCP hosts, a user and a database, nothing that reads the operator's own files.

Called where a connection is set up. Pure. No message here may hold a value of the URL: every part can hide a password.
"""

import re
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from taskdeletion.api import reasons
from taskdeletion.domain.faults import Fault

SCHEMES: Final = ("postgresql://", "postgres://")
REQUIRED: Final = {"host": "host", "user": "user", "dbname": "database"}
ALLOWED: Final = frozenset(
    {
        *REQUIRED,
        "port",
        "password",
        "sslmode",
        "channel_binding",
        "application_name",
        "connect_timeout",
        "target_session_attrs",
        "load_balance_hosts",
    }
)
MAX_CONNECT_SECONDS: Final = 60
_HOST = re.compile(r"[0-9A-Za-z_.:%-]+")
_NUMBER = re.compile(r"[0-9]{1,5}")


def parse_url(url: str) -> dict[str, str]:
    """The connection parameters that `url` gives, by libpq's names.

    Raises Fault (waiting, SecretValueInvalid) for everything else than postgresql://user:password@host:port/database,
    with one or several hosts and the parameters of ALLOWED.
    """
    if not url.startswith(SCHEMES):
        raise invalid_url("it has to begin with postgresql://")
    parameters = _parse(url)
    for name in sorted(parameters.keys() - ALLOWED):
        raise invalid_url(f"the parameter {name} is not allowed")
    for name, word in REQUIRED.items():
        if not parameters.get(name):
            raise invalid_url(f"it names no {word}")
    _check_addresses(parameters)
    _check_connect_timeout(parameters)
    return parameters


def invalid_url(why: str) -> Fault:
    """The fault for a URL that cannot be used; `why` holds no value of it."""
    expected = "postgresql://user:password@host:port/database, special characters percent-encoded"
    return Fault("waiting", reasons.SECRET_VALUE_INVALID, f"url: {why}; expected {expected}")


def _parse(url: str) -> dict[str, str]:
    try:
        found = conninfo_to_dict(url)
    except (psycopg.Error, UnicodeError):
        raise invalid_url("it cannot be parsed, or has an unknown parameter") from None
    return {name: str(value) for name, value in found.items() if value is not None}


def _check_addresses(parameters: dict[str, str]) -> None:
    hosts = parameters["host"].split(",")
    # libpq takes '/' and '@' at the beginning for a Unix socket; neither is in a host name.
    if not all(_HOST.fullmatch(host) for host in hosts):
        raise invalid_url("a host is empty or not a host name (a path to a socket is refused)")
    ports = parameters.get("port", "5432").split(",")
    if len(ports) not in (1, len(hosts)) or not all(_is_port(port) for port in ports):
        raise invalid_url("a port is not a number from 1 to 65535, or there are more ports than hosts")


def _is_port(text: str) -> bool:
    return text == "" or (_NUMBER.fullmatch(text) is not None and 0 < int(text) < 65536)


def _check_connect_timeout(parameters: dict[str, str]) -> None:
    text = parameters.get("connect_timeout")
    if text is not None and not (_NUMBER.fullmatch(text) and 0 < int(text) <= MAX_CONNECT_SECONDS):
        raise invalid_url(f"connect_timeout is not a number from 1 to {MAX_CONNECT_SECONDS} (seconds)")
