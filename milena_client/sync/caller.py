# Made from milena_client/aio/caller.py by scripts/sync-client: change that file, and run the script.
"""Coordination. Runs operations over a transport: makes the attempts and the pauses that `core.calls` decides.

Clients and admin clients make every call through it, except the reads of the fast path. It decides nothing itself,
and handles no error.
"""

from __future__ import annotations

from typing import TypeVar

from milena_client.core.calls import Call, FailedAttempt, Retries
from milena_client.core.operations import Operation
from milena_common.api.errors import MilenaError
from milena_common.rpc.transport import Transport
from milena_common.runtime.blocking_clock import BlockingClock

A = TypeVar("A")


class Caller:
    """Runs operations in the calling thread. Thread-safe."""

    __slots__ = ("clock", "retries", "transport")

    def __init__(self, transport: Transport, retries: Retries, clock: BlockingClock) -> None:
        self.transport = transport
        self.retries = retries
        self.clock = clock

    def run(self, operation: Operation[A], timeout: float | None = None, first: FailedAttempt | None = None) -> A:
        """Return the result of `operation` within `timeout` seconds (None: the client's). Raises MilenaError.

        With `first` it begins with what follows that attempt.
        """
        clock = self.clock
        call = Call(operation, self.retries, timeout, clock.now(), first)
        while True:
            if call.pause:
                clock.sleep(call.pause)
            try:
                response = self.transport.call(operation.method, operation.request, call.remaining(clock.now()))
            except MilenaError as error:
                call.attempt_failed(error, clock.now())
            else:
                return call.succeeded(response)
