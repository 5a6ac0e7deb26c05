"""Coordination. Reads of blocks by one node: from memory, from a request in flight, from S3, in this order.

Blocks that are missing in a row, GROUP_BLOCKS at most, take one ranged GET, with the ETag as its condition. Each is
fetched once, however many reads need it: a read waits for the blocks that another one has requested. A read has at
most MAX_RUNS requests in flight. They run in tasks of the node's own: a reader that gives up cancels nothing, and
what it has requested is kept.

What is read ahead takes a request for each block, all of them at once: many small requests have the rate of as many
connections. Blocks that were read ahead and that nothing has read yet are bounded by a share of the memory, so that
readers who stop, or are many, do not fill it with what nothing reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from milena_cache.blocks.block_memory import AHEAD_SHARE, BlockMemory
from milena_cache.blocks.layout import GROUP_BLOCKS, Block, BlockValue, Version, blocks_of, bytes_of, part_of_blocks
from milena_cache.objects.etags import same_etag
from milena_cache.objects.object_store import Fault, OriginFailure, Readable, Stored
from milena_common.api.ahead import MAX_BLOCKS
from milena_common.api.byte_range import ByteRange
from milena_common.api.errors import OriginUnavailable
from milena_common.runtime.clock import Clock

# Requests to S3 that one read may have in flight.
MAX_RUNS = 4


class Replaced(Exception):
    """S3 has another version of the object by now, or none."""


class Piece(NamedTuple):
    """The bytes of a range.

    fetched: how many of its blocks came from S3 for this read
    waited: True if it waited for S3, if only for the blocks of another read
    """

    value: bytes
    fetched: int
    waited: bool


class BlockReads:
    """The blocks of one node.

    block_bytes: BLOCK_BYTES
    hits: blocks that reads found in memory
    joined: blocks for which a read waited that another one had requested
    fetched: blocks that S3 returned
    requests: ranged GETs that were sent for them, retries not counted
    ahead: blocks that were requested before any read needed them
    ahead_joined: those of them for which a read waited before they had come
    """

    def __init__(self, store: Readable, memory: BlockMemory, block_bytes: int, clock: Clock) -> None:
        self.memory = memory
        self.block_bytes = block_bytes
        self.hits = self.joined = self.fetched = self.requests = 0
        self.ahead = self.ahead_joined = 0
        self._store = store
        self._clock = clock
        self._in_flight: dict[Block, asyncio.Future[BlockValue]] = {}
        self._ahead: set[Block] = set()  # those in flight for which no read waits yet
        self._tasks: set[asyncio.Task[None]] = set()

    def find_range(self, version: Version, part: ByteRange) -> bytes | None:
        """Return the bytes of `part` if memory has all its blocks, else None. Never awaits."""
        blocks = blocks_of(version, part, self.block_bytes)
        if not all(block in self.memory for block in blocks):
            return None
        values = [value for block in blocks if (value := self.memory.get(block)) is not None]
        self.hits += len(values)
        return self._part(blocks, values, part)

    def _part(self, blocks: list[Block], values: list[BlockValue], part: ByteRange) -> bytes:
        """Return the bytes of `part`, of which `values` are the `blocks`."""
        value = part_of_blocks(values, part, self.block_bytes)
        if len(blocks) == 1 and len(value) == len(values[0]) and not isinstance(values[0], bytes):
            # The next reader of this block alone gets it without a copy.
            self.memory.keep_copy(blocks[0], value)
        return value

    def keeps(self, version: Version, part: ByteRange) -> bool:
        """True: without other nodes all blocks are this one's."""
        return True

    async def read_range(self, version: Version, part: ByteRange, timeout: float) -> Piece:
        """Return the bytes of `part`, within `timeout` seconds.

        `part` is within the object, and has at least one byte. Raises Replaced; and OriginUnavailable, AccessDenied
        or FailedPrecondition with S3's message.
        """
        deadline = self._clock.now() + timeout
        places = asyncio.Semaphore(MAX_RUNS)
        # The values are held from here on: a block that is evicted before the last one has come is not read again.
        values: list[BlockValue | asyncio.Future[BlockValue]] = []
        missing: list[Block] = []
        fetched = 0
        blocks = blocks_of(version, part, self.block_bytes)
        for block in blocks:
            value = self.memory.get(block)
            pending = None if value is not None else self._in_flight.get(block)
            if value is not None or pending is not None or len(missing) == GROUP_BLOCKS:
                self._fetch(version, missing, places)
                missing = []
            if value is not None:
                self.hits += 1
                values.append(value)
                continue
            if block in self._ahead:
                self._ahead.discard(block)
                self.ahead_joined += 1
            if pending is None:
                pending = self._in_flight[block] = asyncio.get_running_loop().create_future()
                missing.append(block)
                fetched += 1
            else:
                self.joined += 1
            values.append(pending)
        self._fetch(version, missing, places)
        got = [
            await self._result(version, value, deadline) if isinstance(value, asyncio.Future) else value
            for value in values
        ]
        waited = any(isinstance(value, asyncio.Future) for value in values)
        return Piece(self._part(blocks, got, part), fetched, waited)

    def read_ahead(self, version: Version, part: ByteRange) -> None:
        """Begin to read the blocks of `part` that are missing, as far as there is room for what is read ahead."""
        limit = int(self.memory.max_bytes * AHEAD_SHARE)
        places = asyncio.Semaphore(MAX_BLOCKS)
        for block in blocks_of(version, part, self.block_bytes):
            if block in self.memory or block in self._in_flight:
                continue
            if (len(self.memory.ahead) + len(self._ahead) + 1) * self.block_bytes > limit:
                return
            self._in_flight[block] = asyncio.get_running_loop().create_future()
            self._ahead.add(block)
            self.ahead += 1
            self._fetch(version, (block,), places)

    async def _result(self, version: Version, pending: asyncio.Future[BlockValue], deadline: float) -> BlockValue:
        remaining = max(0.0, deadline - self._clock.now())
        await asyncio.wait({pending}, timeout=remaining)  # not `wait_for`: it would cancel it for other reads
        if not pending.done():
            raise OriginUnavailable(f"S3 get of {version.target.ref}: no response within the read's timeout")
        try:
            return pending.result()
        except OriginFailure as failure:
            raise failure.as_error() from None

    def _fetch(self, version: Version, blocks: Sequence[Block], places: asyncio.Semaphore) -> None:
        """Begin to read `blocks`, which are in a row and registered as in flight."""
        if blocks:
            task = asyncio.get_running_loop().create_task(self._fetch_run(version, blocks, places))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fetch_run(self, version: Version, blocks: Sequence[Block], places: asyncio.Semaphore) -> None:
        try:
            async with places:
                value = await self._request(version, bytes_of(blocks[0], len(blocks), self.block_bytes))
        except BaseException as error:
            for block in blocks:
                self._ahead.discard(block)
                pending = self._in_flight.pop(block)
                if isinstance(error, asyncio.CancelledError):
                    pending.cancel()
                else:
                    pending.set_exception(error)
                    pending.exception()  # marks it as retrieved: all its readers may have timed out
            if not isinstance(error, Exception):
                raise
            return
        self.fetched += len(blocks)
        for at, block in enumerate(blocks):
            # Copies: a view of one block would keep the others of its request in memory.
            one = value if len(blocks) == 1 else bytes(value[at * self.block_bytes : (at + 1) * self.block_bytes])
            if self.memory.store(block, one) and block in self._ahead:
                self.memory.ahead.add(block)
            self._ahead.discard(block)
            self._in_flight.pop(block).set_result(one)

    async def _request(self, version: Version, part: ByteRange) -> BlockValue:
        """Return bytes of S3's object if it is that version. Raises Replaced, OriginFailure, Overloaded."""
        target, etag, size = version
        self.requests += 1
        try:
            got = await self._store.get(target.ref, byte_range=part, if_match=etag, max_bytes=part.length)
        except OriginFailure as failure:
            if failure.fault is Fault.CHANGED:
                raise Replaced from None
            raise
        # Not every store honours the condition of a GET.
        if not isinstance(got, Stored) or got.size != size or not same_etag(got.etag, etag):
            raise Replaced
        value = got.content
        if len(value) != part.length:
            raise OriginUnavailable(
                f"S3 get of {target.ref}: {len(value)} bytes in place of the {part.length} that were requested"
            )
        return value

    async def cancel_all(self) -> None:
        """Cancel the requests in flight, at the end of the process."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
