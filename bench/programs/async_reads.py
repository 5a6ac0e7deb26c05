"""Shell. Reads by asyncio clients, many callers on one client.

    python -m bench.programs.async_reads CLIENT HOST:PORT WORK CALLERS SECONDS

CLIENT is `milena`, HOST:PORT being the router, or `redis_py`, HOST:PORT being a Redis server; on Python's own event
loop, or with the suffix `_uvloop` on uvloop. WORK is `hot`, keys in memory; `cold`, keys that were never read; or
`mixed`, one cold key among nine hot ones, with samples of the hot ones only. `cpu_us` is the client's processor
time for each read.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import count, cycle

from bench.case import Samples
from bench.child import run_and_print
from bench.summary import percentile
from bench.workload.hot_keys import HOT_KEYS
from bench.workload.load import with_callers
from milena_client import AsyncMilena
from milena_common.network.addresses import parse_address

_ONE_IN = 10

Get = Callable[[str], Awaitable[bytes | str | None]]


async def milena(address: str, work: str, callers: int, seconds: float) -> Samples:
    async with AsyncMilena(address) as client:
        return await _WORK[work](client.get, callers, seconds)


async def redis_py(address: str, work: str, callers: int, seconds: float) -> Samples:
    from redis.asyncio import Redis  # imported here: redis-py is optional

    at = parse_address(address)
    async with Redis(host=at.host, port=at.port) as client:
        return await _WORK[work](client.get, callers, seconds)


async def _hot(get: Get, callers: int, seconds: float) -> Samples:
    for key in HOT_KEYS:
        assert await get(key) is not None
    keys = cycle(HOT_KEYS)
    cpu = time.process_time()
    samples = await with_callers(lambda: get(next(keys)), callers, seconds)
    return {**samples, "cpu_us": (time.process_time() - cpu) / samples["calls"] * 1e6}


async def _cold(get: Get, callers: int, seconds: float) -> Samples:
    keys = _new_keys()
    assert await get(keys()) is not None
    return await with_callers(lambda: get(keys()), callers, seconds)


async def _mixed(get: Get, callers: int, seconds: float) -> Samples:
    for key in HOT_KEYS:
        assert await get(key) is not None
    keys, new_key, order = cycle(HOT_KEYS), _new_keys(), cycle(range(_ONE_IN))
    latencies: list[float] = []

    async def call() -> None:
        if next(order):
            started = time.perf_counter()
            await get(next(keys))
            latencies.append(time.perf_counter() - started)
        else:
            await get(new_key())

    samples = await with_callers(call, callers, seconds)
    latencies.sort()
    hits = {f"p{n}_us": percentile(latencies, n / 100) * 1e6 for n in (50, 99)}
    return {**samples, **hits}


def _new_keys() -> Callable[[], str]:
    numbers, series = count(), secrets.token_hex(4)
    return lambda: f"cold/{series}/{next(numbers)}"


_WORK = {"hot": _hot, "cold": _cold, "mixed": _mixed}


if __name__ == "__main__":
    client, suffix, _ = sys.argv[1].partition("_uvloop")
    read = {"milena": milena, "redis_py": redis_py}[client]
    run_and_print(read(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])), fast=bool(suffix))
