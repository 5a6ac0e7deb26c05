"""Coordination. Keeps S3's time of day known while no other request reveals it.

Only boto3 exposes response headers, and obstore makes most requests. So if no response has had S3's time for
`PERIOD_SECONDS`, one cheap request is made.
"""

from __future__ import annotations

from contextlib import suppress

from milena_cache.objects.object_store import OriginFailure
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock

PERIOD_SECONDS = 60.0


async def watch_clock(origin: Origin, bucket: str, clock: CorrectedClock) -> None:
    """Request S3's time until cancelled, at most once in `PERIOD_SECONDS`."""
    while True:
        await clock.sleep(PERIOD_SECONDS)
        if clock.now() - clock.s3.observed_at >= PERIOD_SECONDS:
            with suppress(OriginFailure):  # counted by `origin`, and errors have a date as well
                await origin.check_bucket(bucket)
