"""Coordination. Takes the bytes of a value from the process's budget before they are received from S3.

The headers have the size, and the body is not read before there is room for it. The fetching task holds the bytes
until its result has been passed on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes

# The share of an attempt's timeout that a body may wait for room; the rest is for receiving it.
WAITING_SHARE = 0.5
# The limit of an unbounded budget.
UNBOUNDED = 2**62


@asynccontextmanager
async def fetch_bytes(budget: ByteBudget, size: int, timeout: float) -> AsyncGenerator[None, None]:
    """Take the bytes of a value of `size` bytes for the running task, whose attempt has `timeout` seconds.

    They are released at once if the attempt fails, since the task may make another. Values of at most SMALL_BYTES
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
