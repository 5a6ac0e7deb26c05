"""Coordination. Hears from the nodes which keys have changed, for the near cache of a client with an event loop.

The connections that carry the calls are always read, so what they read is followed on them (CLIENT TRACKING
ON), and the node's pushes come between the answers, in their order. All that is needed beside is to ask each
node from time to time whether it is there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from milena_client.core.invalidations import apply
from milena_client.core.near_cache import BOUND_SECONDS, PING_SECONDS, NearCache
from milena_common.api.errors import MilenaError
from milena_common.resp.encoding import command
from milena_common.resp.link import RespLink
from milena_common.resp.stream import RespStream
from milena_common.runtime.clock import Clock

FOLLOW: Final = command(b"CLIENT", b"TRACKING", b"ON")
_PING: Final = command(b"PING")


class NearLinks:
    """The connections of one client that `near` depends on."""

    def __init__(self, near: NearCache, clock: Clock) -> None:
        self._near = near
        self._clock = clock
        self._links: set[RespLink] = set()
        self._asking: dict[RespLink, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def opened(self, link: RespLink, asked_at: float) -> None:
        """A connection is there; the node answered what was asked at `asked_at`, monotonic seconds."""
        self._links.add(link)
        self._near.confirmed(link, asked_at)
        if self._task is None:
            self._task = asyncio.create_task(self._ask_for_ever())

    def lost(self, link: RespLink) -> None:
        """It is over."""
        self._links.discard(link)
        self._near.lost(link)

    def ring_changed(self, gone: Iterable[RespLink]) -> None:
        """There is a new ring, without those that are `gone`."""
        for link in gone:
            self.lost(link)
        self._near.clear()

    def pushed(self, message: list[Any]) -> None:
        apply(message, self._near)

    async def _ask_for_ever(self) -> None:
        while True:
            await self._clock.sleep(PING_SECONDS)
            for link in self._links:
                if link not in self._asking and link.stream is not None:
                    self._asking[link] = asyncio.create_task(self._ask(link, link.stream))

    async def _ask(self, link: RespLink, stream: RespStream) -> None:
        asked_at = self._near.now()
        try:
            await stream.call(_PING, BOUND_SECONDS)
            if link in self._links:
                self._near.confirmed(link, asked_at)
        except MilenaError:
            pass  # nothing is told until the node answers
        finally:
            del self._asking[link]

    def close(self) -> None:
        """Ask no more."""
        for task in (self._task, *self._asking.values()):
            if task is not None:
                task.cancel()
        self._near.clear()
