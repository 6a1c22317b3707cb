"""Log lines: one per record on standard error, as JSON or as text, with the same keys in both.

`bootstrap` calls `configure` once. Whoever logs about an object passes `extra=about(namespace=…, name=…)`. Loggers of
libraries are kept from flooding the log, and from writing payloads into it.
"""

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

AUDIT_LOGGER = "taskdeletion.audit"
ABOUT = "about"
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", ABOUT}
_OF_KOPF = frozenset({"settings", "k8s_ref", "k8s_skip"})
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)
# At their own debug level these write every request, some of them with its content.
_CHATTY = ("kopf", "kubernetes", "urllib3", "asyncio", "aiohttp", "minio", "redis", "psycopg")


def configure(level: str, format: Literal["json", "text"], stream: TextIO | None = None) -> None:  # noqa: A002 - the setting's name
    """Send all log records from `level` (debug, info, warning, error) on to `stream`, by default standard error.

    Audit lines are written at every level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger(AUDIT_LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def about(**fields: Any) -> dict[str, Any]:
    """The `extra` of a log call. (Given directly, `name` would collide with the record's own attribute.)"""
    return {ABOUT: fields}


class JsonFormatter(logging.Formatter):
    """One JSON object per line, ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return json.dumps(build_fields(record), default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then `key=value`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        fields = build_fields(record)
        exception = fields.pop("exception", None)
        head = [fields.pop("time"), fields.pop("level").upper(), fields.pop("logger"), _one_line(fields.pop("message"))]
        line = " ".join([*head, *(f"{key}={_value(value)}" for key, value in fields.items())])
        return line if exception is None else f"{line}\n{exception}"


def build_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What a line says: time (UTC, RFC 3339), level, logger, message, whatever was passed as `extra`, exception."""
    fields: dict[str, Any] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    for key, value in _extras(record).items():
        fields.setdefault(key, value)
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


def _extras(record: logging.LogRecord) -> Mapping[str, Any]:
    passed = {key: value for key, value in vars(record).items() if key not in _STANDARD and key not in _OF_KOPF}
    reference = getattr(record, "k8s_ref", {})
    named = {key: reference[key] for key in ("namespace", "name", "uid") if key in reference}
    return {**named, **passed, **getattr(record, ABOUT, {})}


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
