"""Coordination. Callers that call as fast as they are answered, for a while, and note how long each call took.

Of the figures, `calls` counts the warm-up too, the others do not.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from bench.case import Samples
from bench.summary import percentile

# The share of the time that is spent before, unmeasured: connections open, caches and branch predictors warm.
WARM_UP = 0.15


def one_after_another(call: Callable[[], object], seconds: float) -> Samples:
    """One caller."""
    return with_threads(call, 1, seconds)


def with_threads(call: Callable[[], object], threads: int, seconds: float) -> Samples:
    """`threads` callers, each in a thread of its own."""

    def caller(stop: float) -> list[float]:
        latencies = []
        while (started := time.perf_counter()) < stop:
            call()
            latencies.append(time.perf_counter() - started)
        return latencies

    with ThreadPoolExecutor(threads) as pool:

        def period(length: float) -> tuple[list[float], float]:
            started = time.perf_counter()
            futures = [pool.submit(caller, started + length) for _ in range(threads)]
            return [took for future in futures for took in future.result()], time.perf_counter() - started

        warm_up, _ = period(seconds * WARM_UP)
        gc.collect()
        return _samples(warm_up, *period(seconds))


async def with_callers(call: Callable[[], Awaitable[object]], callers: int, seconds: float) -> Samples:
    """`callers` callers, each a task."""

    async def caller(stop: float) -> list[float]:
        latencies = []
        while (started := time.perf_counter()) < stop:
            await call()
            latencies.append(time.perf_counter() - started)
        return latencies

    async def period(length: float) -> tuple[list[float], float]:
        started = time.perf_counter()
        each = await asyncio.gather(*(caller(started + length) for _ in range(callers)))
        return [took for latencies in each for took in latencies], time.perf_counter() - started

    warm_up, _ = await period(seconds * WARM_UP)
    gc.collect()
    return _samples(warm_up, *await period(seconds))


def _samples(warm_up: list[float], latencies: list[float], seconds: float) -> Samples:
    latencies.sort()
    return {
        "calls": float(len(warm_up) + len(latencies)),
        "per_s": len(latencies) / seconds,
        "p50_us": percentile(latencies, 0.5) * 1e6,
        "p99_us": percentile(latencies, 0.99) * 1e6,
    }
