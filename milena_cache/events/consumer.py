"""Coordination. Reads one node's share of the queue, has the changes delivered, and deletes what was delivered.

At most MAX_BATCHES batches are delivered at a time, and one more is requested: 50 messages, of a megabyte at most
each, as SQS has them (those of S3 are smaller than 64 KiB). What was not delivered is received again, by any node,
after a delay that doubles with each time. A node that stops leaves what it has received to the queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from milena_cache.events.delivery import Delivery
from milena_cache.events.message import ObjectEvent, Unreadable, events_of
from milena_cache.events.queue import Message, Queue, QueueFailure
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock
from milena_common.runtime.log_limiter import LogLimiter

log = logging.getLogger(__name__)

# Batches that are delivered at a time.
MAX_BATCHES = 4
# Between requests to a queue that fails.
BACKOFF = Backoff(first=0.5, max_delay=30.0)
# A queue that returns nothing should take its time for it; one that does not is asked once in so many seconds.
IDLE_SECONDS = 1.0
# Seconds until a message that was not delivered may be received again: twice as many each time, up to the second.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1, 60


def retry_seconds(receives: int) -> int:
    """Return after how many seconds a message that has been received so often may be received again."""
    return min(MAX_RETRY_SECONDS, RETRY_SECONDS << min(max(receives, 1) - 1, 16))


@dataclass(slots=True)
class ConsumerCounts:
    """What metrics tell of the queue; all 0 without one.

    received: messages
    delivered: those of them that all nodes have applied
    postponed: those that wait in the queue for another attempt
    unreadable: those that are no events of S3: deleted, since no attempt would change that
    failures: requests to the queue that failed
    """

    received: int = 0
    delivered: int = 0
    postponed: int = 0
    unreadable: int = 0
    failures: int = 0


class Consumer:
    """The reader of one node."""

    def __init__(
        self, queue: Queue, delivery: Delivery, counts: ConsumerCounts, clock: Clock, rng: Callable[[], float]
    ) -> None:
        self.counts = counts
        self._queue = queue
        self._delivery = delivery
        self._clock = clock
        self._rng = rng
        self._places = asyncio.Semaphore(MAX_BATCHES)
        self._tasks: set[asyncio.Task[None]] = set()
        self._limiter = LogLimiter()
        self._in_a_row = 0

    async def run(self) -> None:
        """Read until cancelled."""
        try:
            while True:
                async with self._places:
                    pass  # a batch that is received now can be delivered at once
                began = self._clock.now()
                try:
                    messages = await self._queue.receive()
                except QueueFailure as failure:
                    self._failed("received nothing from", failure)
                    self._in_a_row += 1
                    await self._clock.sleep(BACKOFF.delay(self._in_a_row, self._rng))
                    continue
                self._in_a_row = 0
                if messages:
                    self.counts.received += len(messages)
                    await self._places.acquire()
                    task = asyncio.get_running_loop().create_task(self._process(messages))
                    self._tasks.add(task)
                    task.add_done_callback(self._done)
                elif self._clock.now() - began < IDLE_SECONDS:
                    await self._clock.sleep(IDLE_SECONDS)
        finally:
            for task in self._tasks:
                task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._places.release()

    def _failed(self, what: str, failure: QueueFailure) -> None:
        self.counts.failures += 1
        if self._limiter.allow(self._clock.now()):
            log.warning("%s the queue of S3's events: %s%s", what, failure, self._limiter.suppressed())

    async def _process(self, messages: Sequence[Message]) -> None:
        """Deliver a batch; delete what was delivered, and what never can be."""
        read: list[Sequence[ObjectEvent]] = []
        for message in messages:
            try:
                read.append(events_of(message.body))
            except Unreadable as error:
                read.append(())
                self.counts.unreadable += 1
                if self._limiter.allow(self._clock.now()):
                    log.error(
                        "a message of the queue of S3's events is deleted unread: %s: %.200r%s",
                        error,
                        message.body,
                        self._limiter.suppressed(),
                    )
        delivered = await self._delivery.deliver(read)
        done = [message.receipt for message, ok in zip(messages, delivered, strict=True) if ok]
        left = [
            (message.receipt, retry_seconds(message.receives))
            for message, ok in zip(messages, delivered, strict=True)
            if not ok
        ]
        self.counts.delivered += len(done)
        self.counts.postponed += len(left)
        if left and self._limiter.allow(self._clock.now()):
            log.warning(
                "%d messages of S3's events stay in the queue: %s%s",
                len(left),
                self._delivery.last_error,
                self._limiter.suppressed(),
            )
        try:
            if done:
                await self._queue.delete(done)
            if left:
                await self._queue.postpone(left)
        except QueueFailure as failure:
            # Harmless: they are received, and applied, once more.
            self._failed("nothing was deleted in", failure)
