"""Heartbeats are written by one node, and make entries fresh for longer while they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from milena_cache.events.heartbeats import KEY, Heartbeats
from milena_cache.events.trust import CLOCK_SECONDS, HEARTBEAT_SECONDS, MAX_LAG_SECONDS, Trust
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from tests.cache.node_under_test import FRESHNESS, NodeUnderTest
from tests.cache.servers.resp.server_under_test import ME, ring
from tests.support.fake_clock import FakeClock, run_ready_tasks

OTHER = "127.0.0.1:50061"
TTL = 1000.0


class Harness:
    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.freshness = replace(FRESHNESS)
        self.ownership = Ownership(ME)
        self.writes: list[float] = []
        self.failing = False
        self.heartbeats = Heartbeats(Trust(TTL), self.freshness, self.ownership, self.put, self.clock)

    async def put(self, value: bytes) -> None:
        if self.failing:
            raise OriginFailure(Fault.DENIED, "put", Ref("b", KEY.decode()), "AccessDenied", "403")
        self.writes.append(self.clock.now())

    @contextmanager
    def running(self) -> Iterator[None]:
        tasks = [asyncio.ensure_future(self.heartbeats.watch()), asyncio.ensure_future(self.heartbeats.write_all())]
        yield
        for task in tasks:
            task.cancel()

    def arrives(self) -> None:
        self.heartbeats.received(self.clock.wall() - 1.0)


async def test_the_owner_of_the_object_writes_it_each_minute() -> None:
    h = Harness()
    with h.running():
        await h.clock.advance(5.0)
        assert h.writes == []  # no ring is known
        h.ownership.update(ring(ME))
        await h.clock.advance(2 * HEARTBEAT_SECONDS + 2)
        assert len(h.writes) == 3
        h.ownership.update(ring(OTHER, epoch=2))
        await h.clock.advance(5 * HEARTBEAT_SECONDS)
        assert len(h.writes) == 3
    assert h.heartbeats.written == 3


async def test_a_heartbeat_that_cannot_be_written_is_tried_again_with_the_next_one() -> None:
    h = Harness()
    h.failing = True
    h.ownership.update(ring(ME))
    with h.running():
        await h.clock.advance(HEARTBEAT_SECONDS + 2)
        assert h.heartbeats.failures == 2
        h.failing = False
        await h.clock.advance(HEARTBEAT_SECONDS)
        assert len(h.writes) == 1


async def test_entries_are_fresh_for_longer_while_heartbeats_arrive_and_no_longer_than_that() -> None:
    h = Harness()
    assert h.heartbeats.lag != h.heartbeats.lag  # not a number
    with h.running():
        await h.clock.advance(30.0)
        assert h.heartbeats.lag == 30.0
        for _ in range(10):
            h.arrives()
            await h.clock.advance(HEARTBEAT_SECONDS)
        assert h.freshness.fresh_for(b"k") == pytest.approx(10 * HEARTBEAT_SECONDS + 1 - CLOCK_SECONDS, abs=2)
        await h.clock.advance(MAX_LAG_SECONDS + 1)
        assert h.freshness.fresh_for(b"k") == FRESHNESS.ttl
        assert h.heartbeats.lag > HEARTBEAT_SECONDS + MAX_LAG_SECONDS


async def test_what_ends_the_trust_ends_it_when_it_ends_itself() -> None:
    h = Harness()
    with h.running():
        h.arrives()
        await h.clock.advance(2 * HEARTBEAT_SECONDS)
        assert h.freshness.vouched > 0
    await run_ready_tasks()
    assert h.freshness.vouched == 0.0


async def test_an_entry_from_before_the_first_heartbeat_is_read_again_when_it_is_old() -> None:
    """What an outage of the queue has swallowed is not trusted afterwards."""
    t = NodeUnderTest()
    h = Harness(t.clock)
    h.heartbeats = Heartbeats(Trust(TTL), t.parts.freshness, h.ownership, h.put, t.clock)
    t.in_s3("before", b"v")
    t.in_s3("after", b"v")
    await t.get("before")
    with h.running():
        await t.clock.advance(60.0)
        h.arrives()
        await t.clock.advance(CLOCK_SECONDS + 5)
        await t.get("after")
        for _ in range(3):
            h.arrives()
            await t.clock.advance(HEARTBEAT_SECONDS)
        assert await t.outcome("after") == ("hit", b"v")  # older than TTL_SECONDS
        assert (await t.outcome("before"))[0] != "hit"
