"""Shell. The handlers of gRPC streams that carry one object in pieces, see `milena_common.rpc.pieces`.

They are calls, and not streams that last: a process that stops gives them its grace. A caller that sends no piece
for STALL_SECONDS is given up. One that takes none is not: a status waits behind the bytes that its connection has
yet to take, and gRPC has crashed where a write in progress was given up. So both kinds have a share of the bytes in
flight, beyond which further ones are rejected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Final

import grpc

from milena_common.api.errors import DeadlineExceeded
from milena_common.api.uploads import MAX_STEP_BYTES
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, CallBytes
from milena_common.metrics.call_counts import OperationCounts
from milena_common.rpc.calls import (
    Allowed,
    Caller,
    Calls,
    Message,
    Streams,
    parse,
    reject,
    remaining_seconds,
    write,
)
from milena_common.rpc.pieces import PIECE_BYTES, ReadMethod, WriteMethod
from milena_common.rpc.receive import Growth, too_much
from milena_common.runtime.deadlines import time_for_room

STALL_SECONDS: Final = 60.0
# Readers and writers at a time, and the shares of the bytes in flight that their pieces may have. Writers need room
# for the sessions too in which their pieces are collected.
MAX_READERS: Final = 1024
READERS_SHARE: Final = 1 / 2
MAX_WRITERS: Final = 64
WRITERS_SHARE: Final = 1 / 8
# By how much the process may grow while a message of a writer arrives: gRPC collects one of any size.
MAX_GROWTH_BYTES: Final = 64 * 2**20


def max_readers(budget: ByteBudget) -> int:
    """Return how many readers there may be at a time."""
    return max(1, min(MAX_READERS, int(budget.limit * READERS_SHARE) // (COPIES * PIECE_BYTES)))


def max_writers(budget: ByteBudget) -> int:
    """Return how many writers there may be at a time."""
    return max(1, min(MAX_WRITERS, int(budget.limit * WRITERS_SHARE) // (COPIES * MAX_STEP_BYTES)))


def read_handler(
    method: ReadMethod,
    request: type[Message],
    counts: OperationCounts,
    calls: Calls,
    readers: Streams,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler of a method with one request and a stream of pieces."""

    async def response(received: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        started = time.perf_counter()
        counts.requests += 1
        responded = False
        calls.begin()
        try:
            if check is not None:
                check()
            parsed = parse(request, received)
            allowed = None if caller is None else caller.authorize(parsed, context)
            with readers:
                async with aclosing(method(parsed, remaining_seconds(context))) as pieces:
                    async for piece in pieces:
                        if not responded:
                            # The time to the first piece is recorded: the rest is the reader's own.
                            counts.durations.observe(time.perf_counter() - started)
                            responded = True
                        if caller is not None and allowed is not None:
                            caller.finished(allowed, 0, piece)
                        await write(context, piece)
                        del piece
            return
        except asyncio.CancelledError:
            counts.count_error("cancelled")
            raise
        except Exception as error:
            problem = error
        finally:
            calls.end()
            if not responded:
                counts.durations.observe(time.perf_counter() - started)
        reject(problem, context, counts)

    return grpc.unary_stream_rpc_method_handler(response)


def write_handler(
    method: WriteMethod,
    request: type[Message],
    counts: OperationCounts,
    calls: Calls,
    writers: Streams,
    budget: ByteBudget,
    check: Callable[[], None] | None,
    caller: Caller | None,
) -> grpc.RpcMethodHandler[Any, Any]:
    """Return the handler of a method with a stream of pieces and one response."""

    async def response(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        started = time.perf_counter()
        counts.requests += 1
        allowed: Allowed | None = None

        async def next_message() -> Any:
            nonlocal allowed
            received = await _received(context)
            if received is None:
                return None
            parsed = parse(request, received)
            if caller is not None:
                if allowed is None:
                    allowed = caller.authorize(parsed, context)
                caller.finished(allowed, len(received), b"")
            return parsed

        calls.begin()
        try:
            if check is not None:
                check()
            with writers:
                remaining = remaining_seconds(context)
                await CallBytes(budget).take(COPIES * MAX_STEP_BYTES, time_for_room(remaining))
                return await method(next_message, remaining_seconds(context))
        except asyncio.CancelledError:
            counts.count_error("cancelled")
            raise
        except Exception as error:
            problem = error
        finally:
            calls.end()
            counts.durations.observe(time.perf_counter() - started)
        reject(problem, context, counts)
        return b""  # sent as it is; clients ignore the message of a failed call

    return grpc.stream_unary_rpc_method_handler(response)


async def _received(context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
    """Return the next message, None at the end of the stream. Raises DeadlineExceeded."""
    growth = Growth(MAX_GROWTH_BYTES)
    try:
        async with asyncio.timeout(STALL_SECONDS) as scope:
            growth.watch(scope)
            received: Any = await context.read()
    except TimeoutError:
        if growth.exceeded:
            raise too_much(f"a message may have {MAX_STEP_BYTES} bytes") from None
        raise DeadlineExceeded(f"the writer sent nothing for {STALL_SECONDS:g} s") from None
    finally:
        growth.end_watch()
    return received if isinstance(received, bytes) else None
