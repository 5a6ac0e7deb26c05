"""What a node does with the messages of the queue."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence

import pytest

from milena_cache.events.consumer import IDLE_SECONDS, MAX_BATCHES, Consumer, ConsumerCounts, retry_seconds
from milena_cache.events.delivery import Delivery
from milena_cache.events.message import ObjectEvent
from milena_cache.events.queue import Message, QueueFailure
from tests.support.fake_clock import FakeClock, run_ready_tasks


def message(number: int, receives: int = 1) -> Message:
    about = {"bucket": {"name": "b"}, "object": {"key": str(number), "eTag": "e"}}
    body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": about}]})
    return Message(body, f"r{number}", receives)


class FakeQueue:
    """`batches` are received one after the other; with none left it fails, or waits."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.batches: list[Sequence[Message]] = []
        self.failing = False
        self.waits = 20.0
        self.requests = 0
        self.deleted: list[str] = []
        self.postponed: list[tuple[str, int]] = []

    async def receive(self) -> Sequence[Message]:
        self.requests += 1
        if self.failing:
            raise QueueFailure("no")
        if self.batches:
            return self.batches.pop(0)
        await self.clock.sleep(self.waits)
        return ()

    async def delete(self, receipts: Sequence[str]) -> None:
        if self.failing:
            raise QueueFailure("no")
        self.deleted += receipts

    async def postpone(self, messages: Sequence[tuple[str, int]]) -> None:
        self.postponed += messages


class FakeDelivery(Delivery):
    """Delivers what is not about keys in `lost`, when `gate` is set."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.got: list[str] = []
        self.waiting = 0
        self.last_error = None

    async def deliver(self, messages: Sequence[Sequence[ObjectEvent]]) -> Sequence[bool]:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        keys = [[event.key for event in events] for events in messages]
        self.got += [key for each in keys for key in each]
        return [not self.lost.intersection(each) for each in keys]


class Harness:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.queue, self.delivery = FakeQueue(self.clock), FakeDelivery()
        self.consumer = Consumer(self.queue, self.delivery, ConsumerCounts(), self.clock, lambda: 1.0)
        self.counts = self.consumer.counts
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self.task = asyncio.create_task(self.consumer.run())
        await run_ready_tasks()

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await run_ready_tasks()


@pytest.fixture
async def h() -> Harness:
    return Harness()


async def test_what_was_delivered_is_deleted_and_the_rest_comes_again_later(h: Harness) -> None:
    h.queue.batches = [[message(1), message(2, receives=3)], [message(3)]]
    h.delivery.lost = {"2"}
    await h.run()
    assert sorted(h.delivery.got) == ["1", "2", "3"]
    assert sorted(h.queue.deleted) == ["r1", "r3"]
    assert h.queue.postponed == [("r2", 4)]
    assert (h.counts.received, h.counts.delivered, h.counts.postponed) == (3, 2, 1)
    await h.stop()


async def test_nothing_is_deleted_before_it_was_delivered(h: Harness) -> None:
    h.queue.batches = [[message(1)]]
    h.delivery.gate.clear()
    await h.run()
    await h.clock.advance(25.0)
    assert h.queue.deleted == []
    h.delivery.gate.set()
    await run_ready_tasks()
    assert h.queue.deleted == ["r1"]
    await h.stop()


async def test_batches_that_are_delivered_are_bounded(h: Harness) -> None:
    h.queue.batches = [[message(number)] for number in range(20)]
    h.delivery.gate.clear()
    await h.run()
    assert h.delivery.waiting == MAX_BATCHES
    assert h.queue.requests == MAX_BATCHES
    h.delivery.gate.set()
    for _ in range(10):
        await run_ready_tasks()
    assert len(h.queue.deleted) == 20
    await h.stop()


async def test_what_is_unreadable_is_deleted_and_logged(h: Harness, caplog: pytest.LogCaptureFixture) -> None:
    h.queue.batches = [[Message("hello", "r0", 1), message(1)]]
    with caplog.at_level(logging.ERROR):
        await h.run()
    assert h.queue.deleted == ["r0", "r1"]
    assert h.counts.unreadable == 1
    assert "hello" in caplog.text
    await h.stop()


async def test_a_queue_that_fails_gets_fewer_and_fewer_requests(h: Harness) -> None:
    h.queue.failing = True
    await h.run()
    await h.clock.advance(300.0)
    assert 10 <= h.queue.requests <= 20
    assert h.counts.failures == h.queue.requests
    h.queue.failing = False
    h.queue.batches = [[message(1)]]
    await h.clock.advance(31.0)
    assert h.queue.deleted == ["r1"]
    await h.stop()


async def test_a_queue_that_returns_nothing_at_once_is_no_busy_loop(h: Harness) -> None:
    h.queue.waits = 0.0
    await h.run()
    await h.clock.advance(10 * IDLE_SECONDS)
    assert h.queue.requests <= 12
    await h.stop()


async def test_a_delete_that_fails_is_no_end(h: Harness) -> None:
    h.delivery.gate.clear()
    h.queue.batches = [[message(1)]]
    await h.run()
    h.queue.failing = True
    h.delivery.gate.set()
    await run_ready_tasks()
    assert h.counts.failures == 1
    h.queue.failing = False
    h.queue.batches = [[message(1, receives=2)]]
    await h.clock.advance(60.0)
    assert h.queue.deleted == ["r1"]
    await h.stop()


async def test_a_node_that_stops_leaves_what_it_has_not_delivered(h: Harness) -> None:
    h.queue.batches = [[message(1)]]
    h.delivery.gate.clear()
    await h.run()
    await h.stop()
    h.delivery.gate.set()
    await run_ready_tasks()
    assert h.queue.deleted == []


def test_the_delay_of_another_attempt_doubles_up_to_a_minute() -> None:
    assert [retry_seconds(receives) for receives in (0, 1, 2, 3, 6, 7, 1000)] == [1, 1, 2, 4, 32, 60, 60]
