"""Shell. AUDIT_LOG: one line of JSON for each login, rejection, action of an operator and reload.

A thread writes, so that a slow disk delays no request; the queue before it is bounded, and what does not fit is
counted and lost. SIGHUP has the file opened again, for log rotation. Keys are hashed unless AUDIT_KEYS is `plain`;
values, passwords and tokens are never written.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from milena_common.access.settings import OFF, STDOUT, AccessSettings
from milena_common.api.errors import ConfigError

log = logging.getLogger(__name__)

MAX_QUEUED: Final = 10_000
MAX_TEXT: Final = 1024
# Hexadecimal digits of a key's hash.
KEY_DIGITS: Final = 16


class AuditLog:
    """The audit log of a process; `wall` returns seconds since 1970.

    to_file: True if it is written to a file
    dropped: events that were lost because the queue was full, or writing failed
    """

    def __init__(self, settings: AccessSettings, wall: Callable[[], float]) -> None:
        """Open the log. Raises ConfigError."""
        self.enabled = settings.audit_log != OFF
        self.to_file = settings.audit_log not in (OFF, STDOUT)
        self.dropped = 0
        self._name = "" if settings.audit_log in (OFF, STDOUT) else settings.audit_log
        self._plain_keys = settings.audit_plain_keys
        self._wall = wall
        self._queue: deque[str] = deque()
        self._ready = threading.Condition()
        self._reopen = False
        self._stopping = False
        self._file = self._opened() if self._name else sys.stdout.fileno() if self.enabled else -1
        self._thread = threading.Thread(target=self._write_queued, name="milena audit log", daemon=True)
        if self.enabled:
            self._thread.start()

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """Record an event; never waits and never raises."""
        if not self.enabled:
            return
        shown = {name: self._shown(name, value) for name, value in fields.items()}
        time = datetime.fromtimestamp(self._wall(), UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": time, "event": event, **shown})
        with self._ready:
            if len(self._queue) >= MAX_QUEUED:
                self.dropped += 1
                return
            self._queue.append(line)
            self._ready.notify()

    def reopen(self) -> None:
        """Have the file opened again, since it was renamed."""
        with self._ready:
            self._reopen = True
            self._ready.notify()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is queued, within `timeout` seconds, and stop."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        if self.enabled:
            self._thread.join(timeout)

    def _shown(self, name: str, value: Any) -> Any:
        if name == "key" and not self._plain_keys:
            return "sha256:" + sha256(str(value).encode(errors="replace")).hexdigest()[:KEY_DIGITS]
        return value if isinstance(value, bool | int | float) else str(value)[:MAX_TEXT]

    def _opened(self) -> int:
        try:
            return os.open(self._name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise ConfigError([f"AUDIT_LOG: {self._name!r} cannot be opened: {error.strerror}"]) from None

    def _write_queued(self) -> None:
        while True:
            with self._ready:
                while not (self._queue or self._reopen or self._stopping):
                    self._ready.wait()
                lines, reopen, stopping = list(self._queue), self._reopen, self._stopping
                self._queue.clear()
                self._reopen = False
            if lines:
                self._write("".join(f"{line}\n" for line in lines).encode(), len(lines))
            if reopen and self._name:
                self._open_again()
            if stopping:
                return

    def _open_again(self) -> None:
        try:
            opened = self._opened()
        except ConfigError as error:
            log.error("the audit log goes on in the file that it had: %s", error)
            return
        os.close(self._file)
        self._file = opened

    def _write(self, data: bytes, number: int) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
        except OSError as error:
            self.dropped += number
            log.error("the audit log cannot be written, events are lost: %s", error.strerror)
