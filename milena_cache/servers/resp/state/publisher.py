"""Coordination. Sends the messages that clients of this node publish to the other nodes, for their subscribers.

At most once, as in Redis Cluster: what cannot be sent is dropped and counted. Messages to one node keep their
order: they are sent in batches, the next one when the last has its reply, and those that come meanwhile wait, at
most MAX_QUEUED_BYTES for each node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from milena_cache.membership.ownership import Ownership
from milena_common.api.errors import MilenaError
from milena_common.resp.encoding import command

# Bytes of messages that wait for one node.
MAX_QUEUED_BYTES: Final = 8 * 2**20
# Messages, and their bytes, of one batch.
MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 2**20
TIMEOUT_SECONDS: Final = 2.0
# Bytes that a message takes beyond its own.
MESSAGE_OVERHEAD: Final = 64


class Links(Protocol):
    """The connections to other nodes, by the addresses of their RESP servers."""

    def request(self, address: str, sent: bytes, timeout: float) -> Awaitable[Any]:
        """Return the reply to an encoded command. Raises MilenaError."""


class _Queue:
    """The messages that wait for one node: kind, channel and payload of each, one after the other."""

    __slots__ = ("bytes", "messages", "task")

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.bytes = 0
        self.task: asyncio.Task[None] | None = None


class Publisher:
    """The messages of one node to the others.

    sent, dropped: messages that a node has confirmed, and that were dropped; once for each node
    """

    def __init__(self, ownership: Ownership, links: Links) -> None:
        self._ownership = ownership
        self._links = links
        self._queues: dict[str, _Queue] = {}
        self.sent = 0
        self.dropped = 0

    def publish(self, channel: bytes, payload: bytes, *, shard: bool = False) -> None:
        """Send a message to every other node of the ring."""
        ownership = self._ownership
        for node in ownership.slot_map.nodes:
            if node.address != ownership.me and node.resp_address:
                self._add(node.resp_address, b"s" if shard else b"c", channel, payload)

    def _add(self, address: str, kind: bytes, channel: bytes, payload: bytes) -> None:
        queue = self._queues.get(address)
        if queue is None:
            queue = self._queues[address] = _Queue()
        size = len(channel) + len(payload) + MESSAGE_OVERHEAD
        if queue.bytes + size > MAX_QUEUED_BYTES:
            self.dropped += 1
            return
        queue.bytes += size
        queue.messages += (kind, channel, payload)
        if queue.task is None:
            queue.task = asyncio.get_running_loop().create_task(self._send(address, queue))

    async def _send(self, address: str, queue: _Queue) -> None:
        """Send what waits for the node, batch by batch."""
        try:
            while queue.messages:
                batch = _first_batch(queue.messages)
                del queue.messages[: len(batch)]
                number = len(batch) // 3
                try:
                    await self._links.request(address, command(b"MILENA.PUBLISH", *batch), TIMEOUT_SECONDS)
                    self.sent += number
                except MilenaError:
                    self.dropped += number  # some may have arrived: they are not sent again
                queue.bytes -= sum(map(len, batch)) - number + number * MESSAGE_OVERHEAD
        finally:
            queue.task = None
            if self._queues.get(address) is queue and not queue.messages:
                del self._queues[address]

    async def close(self) -> None:
        """Drop what waits."""
        tasks = [queue.task for queue in self._queues.values() if queue.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _first_batch(messages: list[bytes]) -> list[bytes]:
    size = 0
    for at in range(0, min(len(messages), 3 * MAX_BATCH), 3):
        size += len(messages[at + 1]) + len(messages[at + 2])
        if size > MAX_BATCH_BYTES and at:
            return messages[:at]
    return messages[: 3 * MAX_BATCH]
