"""Shell. Waiting, within bounds, for something that another process does and does not announce."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def wait_until(what: str, attempt: Callable[[], _T | None], timeout: float, pause: float = 0.02) -> _T:
    """Call `attempt` every `pause` seconds until its result is true, and return that.

    Raises TimeoutError naming `what` after `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while not (result := attempt()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(pause)
    return result


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Return when `condition` holds, which other tasks bring about. Raises TimeoutError after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
