"""Coordination. Receives invalidations for the near cache of a client with an event loop.

The event loop reads the connections of the calls continuously, so reads are tracked on these connections themselves
(CLIENT TRACKING ON), and the node's pushes come between the replies, in the order of its changes. In addition each
node is pinged periodically: a value is returned only while every node has replied recently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from milena_client.core.invalidations import apply_push
from milena_client.core.near_cache import BOUND_SECONDS, PING_SECONDS, NearCache
from milena_common.api.errors import MilenaError
from milena_common.resp.encoding import command
from milena_common.resp.link import RespLink
from milena_common.resp.stream import RespStream
from milena_common.runtime.clock import Clock

FOLLOW: Final = command(b"CLIENT", b"TRACKING", b"ON")
_PING: Final = command(b"PING")


class AsyncNearCacheFeed:
    """Receives the events of one client's connections, and keeps its near cache `near` correct."""

    def __init__(self, near: NearCache, clock: Clock) -> None:
        self._near = near
        self._clock = clock
        self._links: set[RespLink] = set()
        self._pinging: dict[RespLink, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def opened(self, link: RespLink, sent_at: float) -> None:
        """Add a new connection, whose handshake, tracking included, was sent at `sent_at`, monotonic seconds."""
        self._links.add(link)
        self._near.confirmed(link, sent_at)
        if self._task is None:
            self._task = asyncio.create_task(self._ping_all())

    def lost(self, link: RespLink) -> None:
        """Remove the connection of `link`, which has ended, and clear the near cache."""
        self._links.discard(link)
        self._near.lost(link)

    def nodes_gone(self, gone: Iterable[RespLink]) -> None:
        """Clear the near cache for a new ring, which has the nodes of `gone` no longer."""
        # Links of nodes that left are removed although their connections are still open: they are not pinged any
        # more, and a source without pings would keep every value from being returned.
        for link in gone:
            self.lost(link)
        self._near.clear()

    def pushed(self, message: list[Any]) -> None:
        """Apply a push of a node."""
        apply_push(message, self._near)

    async def _ping_all(self) -> None:
        while True:
            await self._clock.sleep(PING_SECONDS)
            for link in self._links:
                if link not in self._pinging and link.stream is not None:
                    self._pinging[link] = asyncio.create_task(self._ping(link, link.stream))

    async def _ping(self, link: RespLink, stream: RespStream) -> None:
        sent_at = self._near.now()
        try:
            await stream.call(_PING, BOUND_SECONDS)
            # (1) The reply arrives, and the connection ends in the same iteration of the loop; (2) `lost` removes
            # the link; (3) this task runs. Confirming the link now would make it a source again, of which no reply
            # will ever come: no value would be returned any more.
            if link in self._links:
                self._near.confirmed(link, sent_at)
        except MilenaError:
            pass  # no value is returned until the node replies again
        finally:
            del self._pinging[link]

    def close(self) -> None:
        """Stop pinging, and clear the near cache."""
        for task in (self._task, *self._pinging.values()):
            if task is not None:
                task.cancel()
        self._near.clear()
