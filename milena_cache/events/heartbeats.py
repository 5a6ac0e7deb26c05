"""Coordination. Writes the heartbeat object where this node owns it, and applies what the heartbeats' events tell.

The object is in the bucket as all others, and so is its event; see `trust`. The node whose slot it is in writes it,
so that there is one writer, and another one if that is lost.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import nan

from milena_cache.events.trust import HEARTBEAT_SECONDS, Trust
from milena_cache.membership.ownership import Ownership
from milena_cache.memory.freshness import Freshness
from milena_cache.objects.object_store import OriginFailure
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# The key of the object, below S3_PREFIX.
KEY = b".milena-heartbeat"
# Seconds between two looks at what is due.
STEP_SECONDS = 1.0


class Heartbeats:
    """The heartbeats of one node.

    `put`: writes the heartbeat object with a value; raises OriginFailure. `freshness`: that of the node's entries,
    which is extended while events arrive in time.

    written, failures: heartbeats that this node has written, or could not write
    """

    def __init__(
        self,
        trust: Trust,
        freshness: Freshness,
        ownership: Ownership,
        put: Callable[[bytes], Awaitable[object]],
        clock: Clock,
    ) -> None:
        self.written = self.failures = 0
        self._trust = trust
        self._freshness = freshness
        self._ownership = ownership
        self._put = put
        self._clock = clock
        self._started = nan

    @property
    def lag(self) -> float:
        """Return the seconds since the newest heartbeat that has arrived was written.

        Before the first: since `watch` has begun; NaN if it has not.
        """
        now = self._clock.now()
        lag = self._trust.lag(now)
        return now - self._started if lag is None else lag

    def received(self, written_at: float) -> None:
        """Apply the event of a heartbeat that S3 has got at `written_at`, seconds since 1970."""
        self._trust.heartbeat(written_at, self._clock.wall(), self._clock.now())
        self._update()

    def _update(self) -> None:
        self._freshness.vouched = self._trust.max_fresh_age(self._clock.now())

    async def watch(self) -> None:
        """Extend the trust in events while they arrive, and end it when they do not, until cancelled."""
        self._started = self._clock.now()
        try:
            while True:
                self._update()
                await self._clock.sleep(STEP_SECONDS)
        finally:
            # Nothing would end the trust any more.
            self._freshness.vouched = 0.0

    async def write_all(self) -> None:
        """Write a heartbeat each HEARTBEAT_SECONDS while the object is this node's, until cancelled."""
        due = self._clock.now()
        while True:
            if self._clock.now() >= due and self._ownership.mine_since(KEY) >= 0:
                due = self._clock.now() + HEARTBEAT_SECONDS
                await self._beat()
            await self._clock.sleep(STEP_SECONDS)

    async def _beat(self) -> None:
        try:
            await self._put(b"written by Milena each minute, to measure how late S3's events are\n")
            self.written += 1
        except OriginFailure as failure:
            self.failures += 1
            log.warning("the heartbeat for S3's events could not be written: %s", failure)
