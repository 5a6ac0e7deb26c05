"""Coordination. Checks that S3 responds, even while the node has no requests for it.

A node without reads and writes would report that it is healthy while S3 is down. So the bucket is checked when no
request has succeeded for CHECK_SECONDS: two small requests a minute on an idle node, none on a busy one. Only such
a check determines that S3 is down: one object that always fails, without other requests, is no evidence.
"""

from __future__ import annotations

import logging

from milena_cache.objects.object_store import OriginFailure
from milena_cache.origin.requests import Origin
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
# After a failed check. A request that succeeds meanwhile clears the problem at once.
CHECK_AGAIN_SECONDS = 10.0


class S3Watch:
    """The check of `bucket`, the default one. Start it when the bucket has responded once."""

    def __init__(self, store: Origin, bucket: str, clock: Clock) -> None:
        self._store = store
        self._bucket = bucket
        self._clock = clock
        self._started = clock.now()
        self._problem = ""
        self._failed_at = 0.0

    @property
    def _last_success(self) -> float:
        return max(self._started, self._store.last_success)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            now = self._clock.now()
            due = self._last_success + CHECK_SECONDS
            if self._problem:
                due = max(due, self._failed_at + CHECK_AGAIN_SECONDS)
            if now < due:
                await self._clock.sleep(due - now)
                continue
            await self._check()

    async def _check(self) -> None:
        try:
            await self._store.check_bucket(self._bucket)
        except OriginFailure as failure:
            if not self._problem:
                log.warning("S3 does not respond: %s", failure)
            self._problem = str(failure)
        else:
            if self._problem:
                log.info("S3 responds again: bucket %s can be used", self._bucket)
            self._problem = ""
        self._failed_at = self._clock.now()

    def not_ready(self) -> list[str]:
        """Return no reasons: a node without S3 is ready, because it serves its entries."""
        return []

    def degraded(self) -> list[str]:
        """Return why an operator should look at S3; empty when it responds."""
        if not self._problem or self._last_success > self._failed_at:
            return []
        silent = self._clock.now() - self._last_success
        return [f"S3: no request has succeeded for {silent:.0f} s: {self._problem}"]
