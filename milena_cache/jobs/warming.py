"""Coordination. Reads objects into memory before they are requested, as far as they fit without evicting anything.

Reads for warming take WARM_SHARE of S3_CONCURRENCY at most, so that those of callers go on; a read counts until S3
has responded, also when the call that began it has ended. They begin while the memory, with what is being read, is
filled up to FULL_SHARE; what comes then is kept if it evicts nothing (`Node.start_warming`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from milena_cache.memory.single_flight import SharedCall
from milena_cache.objects.entry import ENTRY_OVERHEAD, cost_of
from milena_cache.objects.names import Object
from milena_cache.objects.object_store import OriginFailure, TooLarge
from milena_cache.reads.reader import FetchResult, Node

WARM_SHARE: Final = 0.25
FULL_SHARE: Final = 0.9
# Seconds after which a part begins no more reads, so that its caller sees progress.
BEGIN_SECONDS: Final = 2.0
# Objects that were found in memory between two steps of the event loop.
PRESENT_AT_ONCE: Final = 256


class WarmTarget(NamedTuple):
    """An object to be read.

    key: as the caller has named it
    owned_since: the ring epoch since which this node owns it
    size: in bytes, as S3 has listed it; 0: unknown
    """

    key: bytes
    target: Object
    owned_since: int
    size: int


class Warmed:
    """The result of a part, by object.

    warmed: read and kept, or in a dry run to be read; value_bytes: of their values
    present: in memory, being read, or not in S3 yet
    too_large: not kept as a whole
    absent: not in S3
    no_room: not read, or not kept, since memory is full
    failed: the read failed; error: how one of them did
    left: the keys that nothing was done about in the time
    memory_bytes: that those of `warmed` take in memory
    room_bytes, room_entries: what the memory took more before the part
    """

    def __init__(self) -> None:
        self.warmed = self.present = self.too_large = self.absent = self.no_room = self.failed = 0
        self.value_bytes = self.memory_bytes = self.room_bytes = self.room_entries = 0
        self.error = ""
        self.left: list[bytes] = []


class Warming:
    """Reads for warming of one node, at most a share of `concurrency`, S3_CONCURRENCY, at a time."""

    def __init__(self, node: Node, concurrency: int) -> None:
        self.max_reads = max(1, int(concurrency * WARM_SHARE))
        self._node = node
        self._memory = node.memory
        self._places = asyncio.Semaphore(self.max_reads)
        self._reserved_bytes = 0  # of what is being read, and their number
        self._reserved = 0

    async def warm(self, objects: Sequence[WarmTarget], timeout: float, *, dry_run: bool) -> Warmed:
        """Read the objects that are not in memory, within `timeout` seconds.

        A caller that gives up cancels no read that has begun.
        """
        done = Warmed()
        now = self._node.clock.now
        end = now() + timeout
        begin_until = now() + min(BEGIN_SECONDS, timeout / 2)
        calls: list[tuple[WarmTarget, SharedCall[FetchResult]]] = []
        room_bytes, room_entries = self._room()
        done.room_bytes, done.room_entries = max(0, room_bytes), max(0, room_entries)
        for number, item in enumerate(objects):
            if number % PRESENT_AT_ONCE == PRESENT_AT_ONCE - 1:
                await asyncio.sleep(0)
            cost = len(item.target.cache_key) + item.size + ENTRY_OVERHEAD
            if self._node.has_current(item.target, item.owned_since):
                done.present += 1
            elif item.size > self._node.max_whole_bytes or self._memory.is_large(cost):
                done.too_large += 1
            elif dry_run:
                if done.memory_bytes + cost <= room_bytes and done.warmed < room_entries:
                    done.memory_bytes += cost
                    done.warmed += 1
                    done.value_bytes += item.size
                else:
                    done.no_room += 1
            elif not self._has_room(cost):
                done.no_room += 1
            elif not await self._place(begin_until - now()):
                done.left.append(item.key)
            elif not self._has_room(cost):
                self._places.release()
                done.no_room += 1
            elif (call := self._begin(item, cost)) is None:
                self._places.release()
                done.present += 1
            else:
                calls.append((item, call))
        if calls:
            await asyncio.wait([call.outcome for _, call in calls], timeout=max(0.0, end - now()))
        for item, call in calls:
            self._count(done, item, call)
        return done

    def _room(self) -> tuple[int, int]:
        """Return how many bytes and entries fit beside those that are in memory or being read; below 0 if none."""
        memory = self._memory
        return (
            int(FULL_SHARE * memory.max_bytes) - memory.bytes - self._reserved_bytes,
            int(FULL_SHARE * memory.max_entries) - len(memory) - self._reserved,
        )

    def _has_room(self, cost: int) -> bool:
        room_bytes, room_entries = self._room()
        return cost <= room_bytes and room_entries > 0

    async def _place(self, seconds: float) -> bool:
        """Take a place among the reads; False if there is none within that time."""
        if seconds <= 0:
            return False
        if not self._places.locked():
            await self._places.acquire()
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._places.acquire()
        except TimeoutError:
            return False
        return True

    def _begin(self, item: WarmTarget, cost: int) -> SharedCall[FetchResult] | None:
        call = self._node.start_warming(item.target, item.owned_since)
        if call is None:
            return None
        self._reserved_bytes += cost
        self._reserved += 1

        def finished(_: object) -> None:
            self._reserved_bytes -= cost
            self._reserved -= 1
            self._places.release()

        call.outcome.add_done_callback(finished)
        return call

    def _count(self, done: Warmed, item: WarmTarget, call: SharedCall[FetchResult]) -> None:
        if not call.outcome.done() or call.outcome.cancelled():
            done.left.append(item.key)
            return
        error = call.outcome.exception()
        if isinstance(error, TooLarge):
            done.too_large += 1
        elif error is not None:
            done.failed += 1
            done.error = done.error or str(error.as_error() if isinstance(error, OriginFailure) else error)
        else:
            outcome, entry = call.outcome.result()
            if entry.value is None:
                done.absent += 1
            elif outcome != "bypass":
                done.warmed += 1
                done.value_bytes += entry.size
                done.memory_bytes += cost_of(item.target.cache_key, entry)
            elif self._memory.is_large(cost_of(item.target.cache_key, entry)):
                done.too_large += 1
            else:
                done.no_room += 1
