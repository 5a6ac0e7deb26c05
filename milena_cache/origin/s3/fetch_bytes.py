"""Coordination. A value that is read from S3 takes its bytes from the process's budget before they are received.

S3 says the size in the headers, and the body is not read before there is room for it. The bytes are held by the
task that fetches, until its result is handed over.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes

# The part of an attempt's time that a body may wait for room; the rest is for receiving it.
WAITING_SHARE = 0.5
# The limit of a budget that bounds nothing.
UNBOUNDED = 2**62


@asynccontextmanager
async def fetch_bytes(budget: ByteBudget, size: int, timeout: float) -> AsyncGenerator[None, None]:
    """Take the bytes of a value of `size` bytes for the running task, whose attempt has `timeout` seconds.

    They are given back at once if the attempt fails, since the task may make another. Values of at most SMALL_BYTES
    are not counted: S3_CONCURRENCY bounds them. Raises Overloaded.
    """
    if size <= SMALL_BYTES:
        yield
        return
    held = CallBytes(budget)
    await held.take(COPIES * size, timeout * WAITING_SHARE)
    try:
        yield
    except BaseException:
        held.set_total(0)
        raise
