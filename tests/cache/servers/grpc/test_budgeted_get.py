"""Get over gRPC: which replies wait for room in the budget of bytes in flight."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.api.errors import Overloaded
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES
from tests.cache.servers.resp.server_under_test import ServerUnderTest
from tests.support.waiting import eventually

SMALL, LARGE = bytes(SMALL_BYTES), bytes(SMALL_BYTES + 1)


async def get_within(harness: ServerUnderTest, key: bytes, remaining: float | None = None) -> pb.GetResponse:
    """Call Get in a task of its own, as gRPC does."""
    _, _, get = harness.servers.grpc_methods["Get"]
    task = asyncio.create_task(get(pb.GetRequest(key=key), remaining))  # type: ignore[arg-type]
    return pb.GetResponse.FromString(await task)


async def server(**values: bytes) -> ServerUnderTest:
    """Return a server whose node has `values` in memory."""
    harness = ServerUnderTest()
    for key, value in values.items():
        harness.t.store.objects[harness.t.buckets.resolve("", key.encode()).ref] = value
        await get_within(harness, key.encode())
    return harness


async def test_a_small_value_in_memory_needs_no_room() -> None:
    harness = await server(small=SMALL)
    harness.budget.add(harness.budget.limit)
    reply = await get_within(harness, b"small", 1.0)
    assert (reply.value, reply.outcome) == (SMALL, "hit")
    assert harness.budget.rejected == 0


async def test_a_large_value_in_memory_waits_for_room_and_is_rejected_without() -> None:
    harness = await server(large=LARGE)
    full = harness.budget.limit
    harness.budget.add(full)
    with pytest.raises(Overloaded):
        await get_within(harness, b"large", 0.01)
    waiting = asyncio.create_task(get_within(harness, b"large", 5.0))
    await eventually(lambda: harness.budget.queued == 1)
    assert harness.budget.queued_bytes == COPIES * len(LARGE)
    harness.budget.release(full)
    reply = await waiting
    assert (reply.value, reply.outcome) == (LARGE, "hit")


async def test_each_get_is_counted_once_whatever_its_outcome() -> None:
    harness = await server(small=SMALL, large=LARGE)
    await get_within(harness, b"small")
    await get_within(harness, b"large")
    outcomes = harness.t.node.reads.outcomes
    assert (outcomes["miss"], outcomes["hit"]) == (2, 2)
