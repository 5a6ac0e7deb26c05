"""Shell. Redirects what native libraries write to standard error into the process's own log.

gRPC's core writes its diagnostics straight to file descriptor 2, past Python's logging, and quotes what peers send:
the debug text of an HTTP/2 GOAWAY may have line breaks, and so whole log lines forged by the peer. So descriptor 2
is a pipe here, and a thread logs each line that it reads, escaped and with its severity.

**Bounds.** As many lines per period as `LogLimiter` allows, the rest is counted; MAX_LINE_BYTES of a line. The
writing end of the pipe does not block: a library that writes faster than the pipe is read loses lines, and does not
block the process.

**Not redirected.** `sys.stderr` and `faulthandler` keep the real standard error: what Python writes while the
process dies must not depend on a thread of that process.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import re
import sys
import threading
import time

from milena_common.process.logs import escape
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger("native")

MAX_LINE_BYTES = 2000
# Seconds that `close` waits for lines that were written and not logged yet.
CLOSE_SECONDS = 1.0

# The prefix of absl's log lines, gRPC's among them: severity, date, time, thread, file and line.
_PREFIX = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ (?=\S+:\d+\] )")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


class NativeLog:
    """The capture of descriptor 2, from `start` to `close`."""

    def __init__(self) -> None:
        self._limiter = LogLimiter()
        self._real = -1
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start to log what is written to descriptor 2."""
        sys.stderr.flush()
        self._real = os.dup(2)
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.dup2(writing, 2, inheritable=True)
        os.close(writing)
        sys.stderr = os.fdopen(os.dup(self._real), "w", buffering=1, errors="backslashreplace")
        faulthandler.enable(self._real)
        self._thread = threading.Thread(target=self._read, args=(reading,), name="native-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Restore descriptor 2, and log what was written before."""
        if self._thread is None:
            return
        os.dup2(self._real, 2)  # closes the last writing end of the pipe, which ends the thread
        self._thread.join(CLOSE_SECONDS)
        self._thread = None

    def _read(self, descriptor: int) -> None:
        rest = b""
        while True:
            data = os.read(descriptor, 65536)
            *lines, rest = (rest + data).split(b"\n")
            if rest and (not data or len(rest) > MAX_LINE_BYTES):
                lines.append(rest)
                rest = b""
            for line in filter(None, lines):
                self._log(line)
            if not data:
                os.close(descriptor)
                return

    def _log(self, line: bytes) -> None:
        if self._limiter.allow(time.monotonic()):
            level, text = parse(line)
            log.log(level, "%s%s", text, self._limiter.suppressed())


def parse(line: bytes) -> tuple[int, str]:
    """Return the level of a native log line, and its text with unprintable characters escaped."""
    text = line[:MAX_LINE_BYTES].decode(errors="backslashreplace").rstrip("\r")
    match = _PREFIX.match(text)
    if match:
        return _LEVELS[match[1]], escape(text[match.end() :])
    return logging.WARNING, escape(text)
