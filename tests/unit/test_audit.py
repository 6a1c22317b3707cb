import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal

import pytest

from taskdeletion.observe.audit import AuditRecord, write_audit
from taskdeletion.observe.logging import AUDIT_LOGGER, JsonFormatter, TextFormatter

RECORD = AuditRecord(
    namespace="pipelines",
    name="free-july",
    uid="0b6f",
    store="default",
    task_id="task_20250702_173932",
    force=False,
    delete_database_records=True,
    dry_run=False,
    outcome="PartiallyFailed",
    reason="Unavailable",
    files=15,
    bytes=2_621_440,
    redis_keys=4,
    records=3,
    at_least=True,
    attempts=2,
    started_at=datetime(2026, 7, 2, 21, 45, 30, 999, tzinfo=UTC),
    completed_at=datetime(2026, 7, 2, 23, 46, tzinfo=timezone(timedelta(hours=2))),
)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger(AUDIT_LOGGER)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def use_format(name: Literal["json", "text"]) -> None:
    (handler,) = logging.getLogger(AUDIT_LOGGER).handlers
    handler.setFormatter(JsonFormatter() if name == "json" else TextFormatter())


def test_an_audit_record_is_one_line_with_all_its_fields(stream: io.StringIO) -> None:
    use_format("json")
    write_audit(RECORD)

    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    del line["time"]
    assert line == {
        "level": "info",
        "logger": "taskdeletion.audit",
        "message": "audit",
        "namespace": "pipelines",
        "name": "free-july",
        "uid": "0b6f",
        "requester": "unknown",
        "store": "default",
        "task_id": "task_20250702_173932",
        "force": False,
        "delete_database_records": True,
        "dry_run": False,
        "outcome": "PartiallyFailed",
        "reason": "Unavailable",
        "files": 15,
        "bytes": 2_621_440,
        "redis_keys": 4,
        "objects": 0,
        "records": 3,
        "at_least": True,
        "attempts": 2,
        "started_at": "2026-07-02T21:45:30Z",
        "completed_at": "2026-07-02T21:46:00Z",
    }


@pytest.mark.parametrize("format", ["json", "text"])
def test_no_value_can_begin_a_second_line(stream: io.StringIO, format: Literal["json", "text"]) -> None:  # noqa: A002
    use_format(format)
    write_audit(
        AuditRecord(
            namespace="n",
            name="a",
            uid="u",
            requester="eve\n2026-01-01 INFO taskdeletion.audit audit task_id=forged",
            store="s",
            task_id="t\r\n\x0b\x0c\x1c\x85\u2028x",
            force=True,
            delete_database_records=False,
            dry_run=True,
            outcome="WouldDelete",
        )
    )

    assert len(stream.getvalue().splitlines()) == 1
    assert stream.getvalue().endswith("\n")


def test_an_audit_line_is_written_when_only_errors_are_logged(stream: io.StringIO) -> None:
    logging.getLogger("taskdeletion").setLevel(logging.ERROR)
    try:
        write_audit(RECORD)
    finally:
        logging.getLogger("taskdeletion").setLevel(logging.NOTSET)

    assert stream.getvalue() == "audit\n"
