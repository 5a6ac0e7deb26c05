"""Coordination. Keeps S3's time known, where no request tells it by itself.

Only one of the two S3 clients shows the headers of an answer, and the other one does most of the work. So where no
answer has told S3's time for `PERIOD_SECONDS`, one cheap request is made for it.
"""

from __future__ import annotations

from contextlib import suppress

from milena_cache.objects.object_store import OriginFailure
from milena_cache.origin.requests import Origin
from milena_cache.origin.s3.clock import CorrectedClock

PERIOD_SECONDS = 60.0


async def watch_clock(origin: Origin, bucket: str, clock: CorrectedClock) -> None:
    """Ask S3 for its time, for ever: at most once in `PERIOD_SECONDS`."""
    while True:
        await clock.sleep(PERIOD_SECONDS)
        if clock.now() - clock.s3.observed_at >= PERIOD_SECONDS:
            with suppress(OriginFailure):  # it is counted there, and a refusal is dated as well
                await origin.check_bucket(bucket)
