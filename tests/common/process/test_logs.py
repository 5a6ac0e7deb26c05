"""Log lines: one an event, in both formats."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from milena_common.process import logs


@pytest.fixture
def _root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    # `set_up` closes the handlers that it replaces; the test runner's stay.
    root.handlers[:] = []
    yield
    root.handlers[:], root.level = before


@pytest.mark.usefixtures("_root_logger_restored")
def test_json_is_one_object_a_line_also_with_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "json")
    log = logging.getLogger("milena_test")
    log.debug("too fine")
    log.info("Join node=%s\nLeave", "ü")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        log.exception("went wrong")
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("info", "milena_test", "Join node=ü\nLeave")
    assert "ZeroDivisionError" in second["exc_info"]


@pytest.mark.usefixtures("_root_logger_restored")
def test_text_is_time_level_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", "text")
    logging.getLogger("milena_test").debug("Join node=a:1")
    logging.getLogger("botocore").info("noise")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(" debug   Join node=a:1")


@pytest.mark.usefixtures("_root_logger_restored")
def test_a_message_is_one_line_of_text_and_a_traceback_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "text")
    log = logging.getLogger("milena_test")
    log.info("key %s", "a\n2026-01-01 00:00:00,000 ERROR   forged\u2028\x1b[2J")
    try:
        raise ZeroDivisionError("b\n2026-01-01 00:00:00,000 ERROR   forged")
    except ZeroDivisionError:
        log.exception("went wrong")
    first, second, *traceback = capsys.readouterr().out.splitlines()
    assert first.endswith(r"info    key a\n2026-01-01 00:00:00,000 ERROR   forged\u2028\x1b[2J")
    assert second.endswith("error   went wrong")
    assert traceback
    assert all(line.startswith("    ") for line in traceback)
