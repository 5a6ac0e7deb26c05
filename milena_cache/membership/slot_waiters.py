"""Coordination. Requests for slots that no node serves for a moment wait here until that changes.

While a slot is handed over its owner has stopped it, and the destination does not serve it yet: some milliseconds.
A request that comes in that gap would get an error that its client has to repeat; so it waits up to GAP_SECONDS and
is then carried out here, or redirected to the new owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from milena_common.api.errors import TryAgain
from milena_common.runtime.clock import Clock

GAP_SECONDS = 0.1
# Requests that wait at the same time, each with its arguments in memory; further ones get TryAgain at once.
MAX_WAITING = 10_000


class SlotWaiters:
    """The requests of one node that wait. `changed` is to be called when the slots that it serves have changed."""

    def __init__(self, clock: Clock) -> None:
        self.waiting = 0
        self._clock = clock
        self._next: asyncio.Event | None = None

    def changed(self) -> None:
        """Wake the requests that wait."""
        if self._next is not None:
            self._next.set()
            self._next = None

    async def repeat(self, begin: Callable[[], Any | Awaitable[Any]], error: TryAgain) -> Any:
        """Call `begin`, which has raised `error`, again after each change until it raises TryAgain no more.

        Returns its result, awaited if it is awaitable. Raises the last TryAgain after GAP_SECONDS, and what else
        `begin` raises.
        """
        if self.waiting >= MAX_WAITING:
            raise error
        self.waiting += 1
        until = self._clock.now() + GAP_SECONDS
        try:
            while (left := until - self._clock.now()) > 0:
                await self._change_within(left)
                try:
                    result = begin()
                    return await result if isinstance(result, Awaitable) else result
                except TryAgain as again:
                    error = again
        finally:
            self.waiting -= 1
        raise error

    async def _change_within(self, seconds: float) -> None:
        if self._next is None:
            self._next = asyncio.Event()
        change = asyncio.ensure_future(self._next.wait())
        over = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await asyncio.wait((change, over), return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
            over.cancel()
