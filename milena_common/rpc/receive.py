"""Coordination. Receives the large request of a gRPC call, when the process has room for it.

The bytes are taken from the process's budget before the first one is received: gRPC itself collects a message of
any size in memory before it hands it over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from milena_common.api.errors import DeadlineExceeded, InvalidRequest, Overloaded
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, ENVELOPE_BYTES, SMALL_BYTES, CallBytes
from milena_common.process.facts import resident_bytes
from milena_common.process.heap import trim_heap
from milena_common.rpc.options import REQUEST_BYTES, SMALLEST_FRAME_LIMIT
from milena_common.runtime.deadlines import inner, time_for_room

# Requests above this size are received after a pause, and the memory that the allocator retains is released.
LARGE_BYTES = 4 * 2**20
PAUSE_SECONDS = 0.005
# Seconds between two checks of the process's size while a request of unknown size arrives. Over a fast network some
# ten megabytes arrive in that time.
WATCH_SECONDS = 0.01


class Context(Protocol):
    """The part of gRPC's context of a call that is used here."""

    def invocation_metadata(self) -> Any: ...
    def read(self) -> Awaitable[Any]: ...


class Receive:
    """Receives a call's request, at most `max_bytes` long, when `budget` has room for it.

    A caller sends the size of its request in the metadata. Without that the largest size is assumed, up to three
    quarters of the budget, until the request has arrived; so such requests are received one at a time.
    """

    def __init__(self, budget: ByteBudget, max_bytes: int, timeout: float) -> None:
        """`timeout`: seconds to receive a request whose caller has no deadline."""
        self._budget = budget
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._unknown = min(COPIES * max_bytes, budget.limit - budget.limit // 4)

    async def __call__(self, context: Context, remaining: float | None) -> bytes:
        """Return the serialized request.

        Raises InvalidRequest if the announced size is too large, Overloaded if there is no room in time,
        DeadlineExceeded if it does not arrive in time.
        """
        announced = announced_bytes(context.invocation_metadata() or ())
        if announced is not None and announced > self._max_bytes:
            raise InvalidRequest(
                f"request: has {announced} bytes; allowed are at most {self._max_bytes} (MAX_VALUE_BYTES and "
                f"{ENVELOPE_BYTES} for the other fields)"
            )
        timeout = self._timeout if remaining is None else remaining
        deadline = asyncio.get_running_loop().time() + inner(timeout)
        held = CallBytes(self._budget)
        await held.take(self._unknown if announced is None else COPIES * announced, time_for_room(timeout))
        if announced is not None and announced > LARGE_BYTES:
            # gRPC starts one call per iteration of the event loop, and an iteration that copies a large value takes
            # tens of milliseconds. Without a pause the last of many simultaneous calls would start too late.
            await asyncio.sleep(PAUSE_SECONDS)
        growth = Growth(COPIES * max(self._max_bytes, SMALLEST_FRAME_LIMIT)) if announced is None else None
        try:
            async with asyncio.timeout_at(deadline) as scope:
                if growth is not None:
                    growth.watch(scope)
                received = await context.read()
        except TimeoutError:
            if growth is not None and growth.exceeded:
                raise too_much(
                    f"allowed are {self._max_bytes} bytes (MAX_VALUE_BYTES and {ENVELOPE_BYTES} for the other "
                    f"fields), announced as {REQUEST_BYTES} in the metadata"
                ) from None
            raise DeadlineExceeded(f"the request did not arrive within {timeout:.3g} s") from None
        finally:
            if growth is not None:
                growth.end_watch()
        if not isinstance(received, bytes):
            raise InvalidRequest("request: the call ended without one")
        if len(received) > LARGE_BYTES:
            # gRPC collected it in pieces of some kilobytes. They are free now, but the allocator would retain them
            # besides the copies that follow, and the budget counts only those.
            trim_heap()
        held.set_total(COPIES * len(received) if len(received) > SMALL_BYTES else 0)
        return received


class Growth:
    """Ends the receiving of a message of unknown size when the process grows by more than the largest one takes.

    gRPC collects a message of any size before it checks the size, so nothing else would end a request of gigabytes.
    Most requests arrive before the first check, and cost no more than its timer. `exceeded` tells why the `scope`
    has expired; another request may have caused the growth.
    """

    def __init__(self, max_growth: int) -> None:
        self.exceeded = False
        self._max_growth = max_growth
        self._limit = 0  # bytes of the process, from the first check on

    def watch(self, scope: asyncio.Timeout) -> None:
        """Begin; `scope` is entered already."""
        self._scope = scope
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(WATCH_SECONDS, self._check)

    def _check(self) -> None:
        size = resident_bytes()
        self._limit = self._limit or size + self._max_growth
        if size > self._limit:
            self.exceeded = True
            self._scope.reschedule(self._loop.time())
        else:
            self._timer = self._loop.call_later(WATCH_SECONDS, self._check)

    def end_watch(self) -> None:
        self._timer.cancel()


def too_much(allowed: str) -> Overloaded:
    """Return the error for a process that grew too much while a message arrived."""
    return Overloaded(f"the request is too large, or too much else arrives: {allowed}")


def announced_bytes(metadata: Iterable[tuple[str, str | bytes]]) -> int | None:
    """Return the size in bytes that the caller announced for the request; None if it announced no valid number."""
    for name, text in metadata:
        if name == REQUEST_BYTES:
            return int(text) if len(text) < 16 and text.isdigit() else None
    return None
