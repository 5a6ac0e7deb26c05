"""Coordination. Reports why a command takes long: a rate limit, or retries. Once each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

from google.protobuf.message import Message

from milena_common.api.errors import MilenaError, Overloaded, RateLimited, Unavailable
from milena_common.rpc.transport import Transport

Say = Callable[[str], None]

# Failures of one call after which the next pause is about a second.
REPEATED = 5


class _Mine(threading.local):
    """The request of a thread's last call that failed, and how often it did."""

    request: Message | None = None
    failures = 0


class ReportingTransport:
    """A `Transport` that passes everything on to `inner` and says once each what slows its calls down. Thread-safe.

    A failure is worth a line only if it repeats: the first one of a hiccup is tried again before anyone notices.
    """

    def __init__(self, inner: Transport, say: Say) -> None:
        self._inner = inner
        self._say = say
        self._lock = threading.Lock()
        self._limited = False
        self._repeating = False
        self._mine = _Mine()

    def call(self, method: str, request: Message, timeout: float) -> Message:
        try:
            response = self._inner.call(method, request, timeout)
        except MilenaError as error:
            self._failed(request, error)
            raise
        return response

    def start(self, method: str, request: Message, timeout: float) -> Future[Message]:
        return self._inner.start(method, request, timeout)

    def _failed(self, request: Message, error: MilenaError) -> None:
        mine = self._mine
        # A call that is tried again comes with the same request, in the same thread.
        mine.failures = mine.failures + 1 if mine.request is request else 1
        mine.request = request
        with self._lock:
            if isinstance(error, RateLimited):
                if self._limited:
                    return
                self._limited = True
                line = f"{error}; waiting for it (RATE_LIMIT of the router and of the nodes)"
            elif isinstance(error, Unavailable | Overloaded):
                if self._repeating or mine.failures < REPEATED:
                    return
                self._repeating = True
                line = f"{error}; still trying"
            else:
                return
        self._say(line)

    def close(self) -> None:
        self._inner.close()
