"""Coordination. Receives the large request of a gRPC call, when the process has room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, Protocol

from milena_common.api.errors import DeadlineExceeded, InvalidRequest, Overloaded
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, ENVELOPE_BYTES, CallBytes
from milena_common.process.facts import resident_bytes
from milena_common.process.heap import trim_heap
from milena_common.rpc.options import REQUEST_BYTES, SMALLEST_FRAME_LIMIT
from milena_common.runtime.deadlines import inner, time_for_room

# Requests above this size are received after a pause, and what the allocator keeps of them is given back.
LARGE_BYTES = 4 * 2**20
PAUSE_SECONDS = 0.005
# How often the size of the process is looked at while a request of unknown size arrives. Over a fast network some
# ten megabytes arrive in that time.
WATCH_SECONDS = 0.01


class Context(Protocol):
    """What is used of gRPC's context of a call."""

    def invocation_metadata(self) -> Any: ...
    def read(self) -> Awaitable[Any]: ...


class Receive:
    """Receives a call's request, at most `max_bytes` long, when `budget` has room for it.

    A caller says in the metadata how long its request is. Without that the longest one is assumed, up to three
    quarters of the budget, until the request is here; so of such requests one is received at a time.
    """

    def __init__(self, budget: ByteBudget, max_bytes: int, timeout: float) -> None:
        """`timeout`: seconds for a request to arrive whose caller gives no deadline."""
        self._budget = budget
        self._max_bytes = max_bytes
        self._timeout = timeout
        self._unknown = min(COPIES * max_bytes, budget.limit - budget.limit // 4)

    async def __call__(self, context: Context, remaining: float | None) -> bytes:
        """The serialized request.

        Raises InvalidRequest if it is announced as too long, Overloaded if there is no room in time,
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
            # gRPC begins one call in a turn of the event loop, and a turn that copies a large value takes tens of
            # milliseconds. Without a pause the last of many calls that come together would be begun too late.
            await asyncio.sleep(PAUSE_SECONDS)
        try:
            async with asyncio.timeout_at(deadline):
                received = await (context.read() if announced is not None else self._watched(context))
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not arrive within {timeout:.3g} s") from None
        if not isinstance(received, bytes):
            raise InvalidRequest("request: the call ended without one")
        if len(received) > LARGE_BYTES:
            # gRPC gathered it in pieces of some kilobytes. They are free now, but would stay in the process
            # beside the copies that follow, and those are all that the budget counts.
            trim_heap()
        held.set_total(COPIES * len(received))
        return received

    async def _watched(self, context: Context) -> object:
        """Receive a request of unknown size, and give it up when the process grows by more than the largest takes.

        gRPC gathers a message of any size before it looks at it, so nothing else would end a request of gigabytes.
        Raises Overloaded, since it may have been another request that grew.
        """
        reading = asyncio.ensure_future(context.read())
        try:
            limit = resident_bytes() + COPIES * max(self._max_bytes, SMALLEST_FRAME_LIMIT)
            while not (await asyncio.wait((reading,), timeout=WATCH_SECONDS))[0]:
                if resident_bytes() > limit:
                    raise Overloaded(
                        f"the request is too large, or too much else arrives: allowed are {self._max_bytes} bytes "
                        f"(MAX_VALUE_BYTES and {ENVELOPE_BYTES} for the other fields), said beforehand as "
                        f"{REQUEST_BYTES} in the metadata"
                    )
            return reading.result()
        finally:
            reading.cancel()


def announced_bytes(metadata: Iterable[tuple[str, str | bytes]]) -> int | None:
    """How many bytes the request has, as its caller says; None if it does not say it, or not as a number."""
    for name, text in metadata:
        if name == REQUEST_BYTES:
            return int(text) if len(text) < 16 and text.isdigit() else None
    return None
