"""What native libraries write to descriptor 2: one escaped record a line, bounded."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from milena_common.process.native_log import MAX_LINE_BYTES, parse
from milena_common.runtime.log_limiter import MAX_LINES

PROGRAM = """
import logging, os, sys
from milena_common.process.native_log import NativeLog
logging.basicConfig(stream=sys.stdout, level=logging.DEBUG, format="%(levelname)s|%(name)s|%(message)s")
native = NativeLog()
native.start()
{body}
native.close()
os.write(2, b"outside\\n")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, timeout=30, check=True
    )


def test_lines_become_records_and_the_descriptor_is_given_back() -> None:
    done = run("os.write(2, b'one\\ntwo\\x1b[2J\\nthe rest')")
    assert done.stdout.splitlines() == [
        "WARNING|native|one",
        r"WARNING|native|two\x1b[2J",
        "WARNING|native|the rest",
    ]
    assert done.stderr == "outside\n"


def test_what_python_says_itself_stays_on_standard_error() -> None:
    done = run("print('a traceback', file=sys.stderr)")
    assert done.stderr == "a traceback\noutside\n"
    assert done.stdout == ""


def test_a_flood_is_bounded_and_stops_nothing() -> None:
    body = """
for _ in range(20000):
    try:
        os.write(2, b"x" * 99 + b"\\n")
    except BlockingIOError:
        pass
"""
    assert len(run(body).stdout.splitlines()) == MAX_LINES


@pytest.mark.parametrize(
    ("line", "level", "text"),
    [
        (
            b"I1129 00:04:54.190273   11858 chttp2_transport.cc:1369] Got goaway",
            logging.INFO,
            "chttp2_transport.cc:1369] Got goaway",
        ),
        (b"E1129 00:04:54.190273 11858 a.cc:1] broken\x00", logging.ERROR, r"a.cc:1] broken\x00"),
        (b"thread panicked\r", logging.WARNING, "thread panicked"),
        (b"\xff", logging.WARNING, r"\xff"),
        (b"y" * (MAX_LINE_BYTES + 1), logging.WARNING, "y" * MAX_LINE_BYTES),
    ],
)
def test_a_line_keeps_its_severity_and_is_printable(line: bytes, level: int, text: str) -> None:
    assert parse(line) == (level, text)
    assert text.isprintable()
