"""What a node says of other sizes of its memory, from its reads."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf

import pytest

from milena_cache.memory.freshness import Freshness
from milena_cache.memory.read_samples import ALL_KEYS, MAX_EVENTS
from milena_cache.sampling.curve import SCALES
from milena_cache.sampling.sizing import DAY, HOUR, Prices, Sizing
from tests.cache.node_under_test import NodeUnderTest
from tests.support.fake_clock import FakeClock

FOR_EVER = Freshness(ttl=inf, jitter=0, grace=0, keep=0, stale_if_error=0, negative_ttl=inf)
KEYS = [b"key/%d" % number for number in range(100)]


class BusyClock(FakeClock):
    """Its thread uses `cpu_takes` seconds of processor time between two looks."""

    cpu_takes = 0.0
    _used = 0.0

    def cpu(self) -> float:
        self._used += self.cpu_takes
        return self._used


def node_with(max_entries: int, clock: FakeClock | None = None, freshness: Freshness = FOR_EVER) -> NodeUnderTest:
    node = NodeUnderTest(max_entries=max_entries, freshness=freshness, clock=clock)
    for key in KEYS:
        node.store.objects[node.buckets.resolve("", key).ref] = b"x" * 1000
    return node


async def read_all(node: NodeUnderTest, times: int = 1) -> None:
    for _ in range(times):
        for key in KEYS:
            await node.node.get(node.buckets.resolve("", key), 5.0)


async def test_the_estimates_are_those_of_a_node_of_that_size() -> None:
    """100 keys in turn, and room for 50: an LRU of that size has no hit, and one of twice the size has all."""
    node = node_with(50)
    sizing = node.parts.samples.sizing
    running = asyncio.create_task(sizing.run())
    await node.clock.advance(1.0)
    assert node.memory.samples.threshold == ALL_KEYS
    for _ in range(4):
        await read_all(node)
        await node.clock.advance(0.25)
    await node.clock.advance(98.0)
    estimates = sizing.estimates()
    assert [point.scale for point in estimates.points] == list(SCALES)
    assert [round(point.hit_ratio, 2) for point in estimates.points] == [0, 0, 0, 0.75, 0.75, 0.75]
    assert (estimates.seconds, estimates.reads, estimates.hit_ratio) == (pytest.approx(100, abs=0.1), 400, 0)
    daily = DAY / estimates.seconds
    assert [point.gets for point in estimates.points] == pytest.approx([400 * daily] * 3 + [100 * daily] * 3)
    assert [point.read_bytes for point in estimates.points] == pytest.approx([4e5 * daily] * 3 + [1e5 * daily] * 3)
    assert {(point.max_entries, point.max_bytes) for point in estimates.points} == {
        (50 * scale, node.memory.max_bytes * scale) for scale in SCALES
    }
    assert {point.sample for point in estimates.points} == {1.0}
    prices = node.config.prices
    assert [point.cost for point in estimates.points] == pytest.approx(
        [point.gets / 1000 * prices.get for point in estimates.points]
    )
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_hits_of_the_node_are_hits_of_larger_memories_and_may_be_misses_of_smaller_ones() -> None:
    node = node_with(200)
    sizing = node.parts.samples.sizing
    node.memory.samples.threshold = ALL_KEYS
    await read_all(node, 3)
    while sizing.step():
        pass
    estimates = sizing.estimates()
    assert (estimates.reads, estimates.hit_ratio) == (300, pytest.approx(2 / 3))
    assert [round(point.hit_ratio, 2) for point in estimates.points] == [0, 0.67, 0.67, 0.67, 0.67, 0.67]


async def test_reads_on_behalf_of_writes_count_as_none_and_a_write_makes_later_reads_hits() -> None:
    node = node_with(200)
    sizing = node.parts.samples.sizing
    node.memory.samples.threshold = ALL_KEYS
    await node.node.uncounted.get(node.buckets.resolve("", KEYS[0]), 5.0)
    node.memory.samples.stored(b"written", node.memory.peek(KEYS[0]) or pytest.fail("not there"))
    node.memory.samples.read(b"written", node.memory.peek(KEYS[0]) or pytest.fail("not there"))
    while sizing.step():
        pass
    assert [each.misses for each in sizing.curve.miniatures] == [0] * len(SCALES)


async def test_requests_that_depend_on_no_size_and_puts_are_part_of_the_cost() -> None:
    node = node_with(200)
    node.memory.samples.threshold = ALL_KEYS
    old = node.parts.samples.sizing
    counts = node.parts.origin.counts
    sizing = Sizing(node.memory, old.curve, old._traffic, Prices(0.4, 5.0, 100.0), node.parts.clock)
    await read_all(node)
    for _ in range(50):
        counts.request("head", "200", 0.1)
        counts.request("put", "200", 0.1)
        counts.request("delete", "204", 0.1)
    while sizing.step():
        pass
    await node.clock.advance(DAY)
    estimates = sizing.estimates()
    assert [(round(point.gets), round(point.puts)) for point in estimates.points] == [(150, 50)] * len(SCALES)
    expected = 150 * 0.0004 + 50 * 0.005 + 100 * 1000 / 1e9 * 100
    assert [point.cost for point in estimates.points] == pytest.approx([expected] * len(SCALES))


async def test_without_time_for_it_the_sample_becomes_smaller() -> None:
    clock = BusyClock()
    node = node_with(200, clock)
    sizing = node.parts.samples.sizing
    running = asyncio.create_task(sizing.run())
    await clock.advance(1.0)
    clock.cpu_takes = 0.02
    for _ in range(20):
        await read_all(node)
        await clock.advance(0.2)
    assert sizing.curve.threshold < ALL_KEYS / 2
    assert node.memory.samples.threshold == sizing.curve.threshold
    clock.cpu_takes = 0.0
    smaller = sizing.curve.threshold
    await read_all(node)
    await clock.advance(1.0)
    assert sizing.curve.threshold == smaller
    assert node.memory.samples.events == []
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_the_estimates_are_of_the_last_day_without_the_first_hour() -> None:
    node = node_with(200)
    sizing = node.parts.samples.sizing
    node.memory.samples.threshold = ALL_KEYS
    await read_all(node)
    for hour in range(1, 40):
        await node.clock.advance(HOUR)
        sizing.step()
        seconds = sizing.estimates().seconds / HOUR
        assert seconds == pytest.approx(hour if hour < 2 else min(hour - 1, 24), abs=1.01)
        assert seconds >= 1
    assert sizing.estimates().reads == 0
    assert [point.hit_ratio for point in sizing.estimates().points] == [1.0] * len(SCALES)


async def test_a_sample_with_more_events_than_there_is_room_for_becomes_as_much_smaller_at_once() -> None:
    node = node_with(200)
    samples, sizing = node.memory.samples, node.parts.samples.sizing
    samples.threshold = sizing.curve.threshold
    await read_all(node)
    sizing.step()
    assert samples.threshold == ALL_KEYS
    while samples.lost < 15 * MAX_EVENTS:
        await read_all(node)
    sizing.step()
    assert ALL_KEYS // 32 < samples.threshold <= ALL_KEYS // 16
    await node.stop()
