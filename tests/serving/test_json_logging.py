"""Each record is one line of JSON, whatever it contains."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from regraft.serving.json_logging import JsonLines, set_up_logging


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("regraft.serving", "uvicorn.error", "asyncio", "python_multipart")]
    before = [(one, one.handlers[:], one.propagate, one.level) for one in loggers]
    yield
    for one, handlers, propagate, level in before:
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def test_a_record_is_one_line_of_ascii_with_its_fields() -> None:
    record = logging.makeLogRecord({
        "created": 0.25, "msecs": 250, "levelname": "INFO", "msg": "a\nb\x1b[31m \x7f ä %s", "args": ("c",),
        "status": 200, "route": object,
    })  # fmt: skip
    line = JsonLines().format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.250Z",
        "level": "info",
        "message": "a\nb\x1b[31m \x7f ä c",
        "status": 200,
        "route": "<class 'object'>",
    }


def test_an_exception_is_part_of_the_line() -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    value = json.loads(JsonLines().format(record))
    assert value["exception"].startswith("Traceback")
    assert value["exception"].endswith("ValueError: a reason")


def test_libraries_log_warnings_only(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("info")
    for name in ("regraft.serving", "uvicorn.error"):
        logging.getLogger(name).info("information of %s", name)
        logging.getLogger(name).warning("warning of %s", name)
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["information of regraft.serving", "warning of regraft.serving", "warning of uvicorn.error"]
