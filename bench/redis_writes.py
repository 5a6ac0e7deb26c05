"""Shell. Writes to a Redis server.

    python -m bench.redis_writes CLIENT HOST:PORT CALLERS SECONDS

CLIENT is `py`, redis-py's asyncio client on Python's own event loop, as most programs have it; `py_uvloop`, the
same on uvloop; or `pipelined`, all callers on one connection, on uvloop.
"""

from __future__ import annotations

import secrets
import sys

from bench.case import Figures
from bench.child import tell
from bench.load import with_callers
from bench.new_objects import new_objects
from bench.resp_pipeline import connect
from milena_common.addresses import parse_address


async def redis_py(address: str, callers: int, seconds: float) -> Figures:
    from redis.asyncio import Redis  # without it the other one still works

    new_object = new_objects(secrets.token_hex(4))
    at = parse_address(address)
    async with Redis(host=at.host, port=at.port) as client:

        async def call() -> None:
            key, value = new_object()
            await client.set(key, value)

        return _without_calls(await with_callers(call, callers, seconds))


async def pipelined(address: str, callers: int, seconds: float) -> Figures:
    new_object = new_objects(secrets.token_hex(4))
    at = parse_address(address)
    pipeline = await connect(at.host, at.port)

    async def call() -> None:
        await pipeline.set(*new_object())

    figures = await with_callers(call, callers, seconds)
    pipeline.close()
    return _without_calls(figures)


def _without_calls(figures: Figures) -> Figures:
    return {name: value for name, value in figures.items() if name != "calls"}


if __name__ == "__main__":
    client = sys.argv[1]
    work = pipelined if client == "pipelined" else redis_py
    tell(work(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])), fast=client != "py")
