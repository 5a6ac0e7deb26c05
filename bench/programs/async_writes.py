"""Shell. Writes by asyncio clients, many callers on one client.

    python -m bench.programs.async_writes CLIENT HOST:PORT CALLERS SECONDS

CLIENT is `redis_py`, redis-py on Python's own event loop, as most programs have it; `redis_py_uvloop`, the same on
uvloop; `redis_pipelined`, all callers on one connection, on uvloop; or `milena_uvloop`, Milena's client, HOST:PORT
being the router, which acknowledges what its journal has on disk.
"""

from __future__ import annotations

import secrets
import sys

from bench.case import Samples
from bench.child import run_and_print
from bench.peers.resp_pipeline import connect
from bench.workload.load import with_callers
from bench.workload.new_objects import new_objects
from milena_client import AsyncMilena
from milena_common.api.durability import BACK
from milena_common.network.addresses import parse_address


async def redis_py(address: str, callers: int, seconds: float) -> Samples:
    from redis.asyncio import Redis  # imported here: redis-py is optional

    new_object = new_objects(secrets.token_hex(4))
    at = parse_address(address)
    async with Redis(host=at.host, port=at.port) as client:

        async def call() -> None:
            key, value = new_object()
            await client.set(key, value)

        return _without_calls(await with_callers(call, callers, seconds))


async def milena(address: str, callers: int, seconds: float) -> Samples:
    new_object = new_objects(secrets.token_hex(4))
    async with AsyncMilena(address) as client:

        async def call() -> None:
            await client.set(*new_object(), durability=BACK)

        return _without_calls(await with_callers(call, callers, seconds))


async def redis_pipelined(address: str, callers: int, seconds: float) -> Samples:
    new_object = new_objects(secrets.token_hex(4))
    at = parse_address(address)
    pipeline = await connect(at.host, at.port)

    async def call() -> None:
        await pipeline.set(*new_object())

    samples = await with_callers(call, callers, seconds)
    pipeline.close()
    return _without_calls(samples)


def _without_calls(samples: Samples) -> Samples:
    return {name: value for name, value in samples.items() if name != "calls"}


if __name__ == "__main__":
    client = sys.argv[1]
    write = {"milena": milena, "redis_py": redis_py, "redis_pipelined": redis_pipelined}[
        client.removesuffix("_uvloop")
    ]
    run_and_print(write(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])), fast=client != "redis_py")
