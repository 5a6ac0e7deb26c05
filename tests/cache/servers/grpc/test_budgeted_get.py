"""Get over gRPC: which answers wait for room in the budget of bytes in flight."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.api.errors import Overloaded
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES
from tests.cache.servers.resp.rig import ServerUnderTest
from tests.support.waiting import eventually

SMALL, LARGE = bytes(SMALL_BYTES), bytes(SMALL_BYTES + 1)


async def get_within(rig: ServerUnderTest, key: bytes, remaining: float | None = None) -> pb.GetResponse:
    """Call Get in a task of its own, as gRPC does."""
    _, _, get = rig.servers.grpc_methods["Get"]
    task = asyncio.create_task(get(pb.GetRequest(key=key), remaining))  # type: ignore[arg-type]
    return pb.GetResponse.FromString(await task)


async def door(**values: bytes) -> ServerUnderTest:
    """Return a door whose node has `values` in memory."""
    rig = ServerUnderTest()
    for key, value in values.items():
        rig.t.store.objects[rig.t.buckets.resolve("", key.encode()).ref] = value
        await get_within(rig, key.encode())
    return rig


async def test_a_small_value_in_memory_needs_no_room() -> None:
    rig = await door(small=SMALL)
    rig.budget.add(rig.budget.limit)
    answer = await get_within(rig, b"small", 1.0)
    assert (answer.value, answer.outcome) == (SMALL, "hit")
    assert rig.budget.rejected == 0


async def test_a_large_value_in_memory_waits_for_room_and_is_rejected_without() -> None:
    rig = await door(large=LARGE)
    full = rig.budget.limit
    rig.budget.add(full)
    with pytest.raises(Overloaded):
        await get_within(rig, b"large", 0.01)
    waiting = asyncio.create_task(get_within(rig, b"large", 5.0))
    await eventually(lambda: rig.budget.queued == 1)
    assert rig.budget.queued_bytes == COPIES * len(LARGE)
    rig.budget.release(full)
    answer = await waiting
    assert (answer.value, answer.outcome) == (LARGE, "hit")


async def test_each_get_is_counted_once_however_it_is_answered() -> None:
    rig = await door(small=SMALL, large=LARGE)
    await get_within(rig, b"small")
    await get_within(rig, b"large")
    outcomes = rig.t.node.reads.outcomes
    assert (outcomes["miss"], outcomes["hit"]) == (2, 2)
