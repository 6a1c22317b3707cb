import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest

from taskdeletion.observe.logging import AUDIT_LOGGER, about, configure

LOGGERS = ("kopf", "kubernetes", "urllib3", "asyncio", "aiohttp", "minio", "redis", "psycopg", AUDIT_LOGGER)
log = logging.getLogger("taskdeletion.test")


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def read_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_has_the_fixed_keys_and_what_it_is_about(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    log.info("claimed %d", 3, extra=about(namespace="n", name="free-july", uid="u", task_id="t", reason="Retrying"))

    (line,) = read_lines(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "level": "info",
        "logger": "taskdeletion.test",
        "message": "claimed 3",
        "namespace": "n",
        "name": "free-july",
        "uid": "u",
        "task_id": "t",
        "reason": "Retrying",
    }


def test_a_text_line_has_the_same_keys(stream: io.StringIO) -> None:
    configure("info", "text", stream)
    log.warning("it waits", extra=about(name="free-july", task_id="t 1", count=2, done=False))

    assert re.fullmatch(
        r'\S+Z WARNING taskdeletion\.test it waits name=free-july task_id="t 1" count=2 done=false\n', stream.getvalue()
    )


def test_plain_extras_and_those_of_kopf_are_kept_but_cannot_replace_the_fixed_keys(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    reference = {"apiVersion": "v", "kind": "TaskDeletion", "name": "a", "namespace": "n", "uid": "u"}
    log.info("x", extra={"k8s_ref": reference, "settings": object(), "reason": "Absent", "level": "none"})

    (line,) = read_lines(stream)
    assert {**line, "time": ""} == {
        "time": "",
        "level": "info",
        "logger": "taskdeletion.test",
        "message": "x",
        "name": "a",
        "namespace": "n",
        "uid": "u",
        "reason": "Absent",
    }


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_message_can_never_begin_a_line_of_its_own(stream: io.StringIO, format: Literal["json", "text"]) -> None:  # noqa: A002
    configure("info", format, stream)
    log.info("first\nsecond\r\u2028", extra=about(task_id="a\nb\u2028c"))

    assert len(stream.getvalue().splitlines()) == 1


def test_an_exception_is_part_of_the_json_line_and_follows_the_text_line(stream: io.StringIO) -> None:
    for format in ("json", "text"):  # noqa: A001
        configure("info", format, stream)
        try:
            int("broken")
        except ValueError:
            log.exception("failed")

    json_line, text_line, *traceback = stream.getvalue().splitlines()
    assert json.loads(json_line)["exception"].endswith("literal for int() with base 10: 'broken'")
    assert text_line.endswith("ERROR taskdeletion.test failed")
    assert traceback[-1].startswith("ValueError: ")


def test_values_that_json_does_not_know_are_written_as_text(stream: io.StringIO) -> None:
    configure("info", "json", stream)
    log.info("x", extra=about(path={1, 2}))

    assert read_lines(stream)[0]["path"] == "{1, 2}"


def test_libraries_do_not_write_their_requests_even_at_debug(stream: io.StringIO) -> None:
    configure("debug", "json", stream)
    for name in ("kubernetes.client.rest", "urllib3.connectionpool", "kopf.objects"):
        logging.getLogger(name).debug("response body")
        logging.getLogger(name).info("handler succeeded")
        logging.getLogger(name).warning("trouble")
    log.debug("ours")

    assert [line["message"] for line in read_lines(stream)] == ["trouble", "trouble", "trouble", "ours"]


def test_the_level_is_a_lower_bound_for_libraries_too(stream: io.StringIO) -> None:
    configure("error", "json", stream)
    logging.getLogger("kopf").warning("trouble")
    log.warning("ours")

    assert stream.getvalue() == ""
