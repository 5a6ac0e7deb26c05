"""Coordination. The receiving side of moves: takes dirty writes of slots that are to come, and then the slots.

What arrives before the slots do is not uploaded: only their owner uploads. If the move is aborted it is dropped,
since the owner has it, or S3, if the owner has left; if this node becomes the owner because the other one was lost,
it is kept, and each write is compared with S3 before it is served.

All commands may be repeated: writes are merged by version, and slots that were taken are not taken again. A command
for a move that the newest ring does not have is rejected, so that an owner with an older ring hands nothing over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from milena_cache.handover.frames import HandedOver, Range, ranges_of
from milena_cache.handover.merging import Merging
from milena_cache.handover.plan import Move
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.group_commit import Journal
from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.membership.slot_epochs import SlotEpochs
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_common.api.errors import FailedPrecondition, TryAgain
from milena_common.cluster.slots import slot_of
from milena_common.runtime.clock import Clock, monotonic_ms

log = logging.getLogger(__name__)

# How long a command waits for the journal, in seconds; less than its sender waits.
MERGE_SECONDS = 1.5
RETRY_SECONDS = 0.1
# Seconds for which requests for slots wait here since their owner has announced that it will release them.
EXPECTED_SECONDS = 0.25
# Slots whose writes are queued for upload in one iteration of the event loop; a slot may have a hundred.
REQUEUED_AT_ONCE = 32


class _Taking(NamedTuple):
    """A release: its move, the epoch of the owner's ring and its newest version, and the slots, in both forms."""

    move: Move
    ring_epoch: int
    newest: Version
    ranges: Sequence[Range]
    slots: set[int]


class Destination:
    """What one node receives.

    on_change: called when slots were taken, for what depends on the slots that are served
    taken: number of slots that were taken
    """

    def __init__(
        self,
        ownership: Ownership,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        writeback: WriteBack,
        journal: Journal[DirtyEntry],
        merging: Merging,
        tombstones: Tombstones,
        clock: Clock,
    ) -> None:
        self._clock = clock
        self.on_change: Callable[[Sequence[Range]], None] = lambda ranges: None
        self.taken = 0
        self._ownership = ownership
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._writeback = writeback
        self._journal = journal
        self._merging = merging
        self._tombstones = tombstones
        self._moves: dict[Move, set[int]] = {}
        # By move and slot the keys that were received of slots that are not this node's yet, with their versions.
        self._received: dict[Move, dict[int, dict[bytes, Version]]] = {}
        self._serials: dict[Move, int] = {}
        self._locks: dict[Move, asyncio.Lock] = {}
        self._announced: dict[Move, Sequence[Range]] = {}
        self._expected_until = 0.0
        self._expiry: asyncio.TimerHandle | None = None

    # ---- the ring

    def update_moves(self, receiving: dict[Move, set[int]]) -> None:
        """Drop what was received for moves that the new ring does not have, unless their owner was lost.

        An owner that has left had everything in S3, so that what it had sent before may be superseded: (1) it sends
        a put, and this node is paused; (2) it deletes the key, uploads that, and leaves; (3) the slot is this
        node's, which would upload the put.
        """
        self._moves = receiving
        if receiving:
            # The owners' versions have no later epoch: it is on disk before they release slots.
            self._journal.learned(Version(self._ownership.epoch, 0))
        for move in [move for move in self._serials if move not in receiving]:
            del self._serials[move]
            self._locks.pop(move, None)
        for move in [move for move in self._announced if move not in receiving]:
            del self._announced[move]
        self._update_expected()
        slot_map = self._ownership.slot_map
        lost = {node.address for node in slot_map.missing}
        for move, by_slot in list(self._received.items()):
            left = receiving.get(move, set())
            for slot in [slot for slot in by_slot if slot not in left]:
                keys = by_slot.pop(slot)
                if move.owner in lost and slot_map.target(slot).address == self._ownership.me:
                    continue
                for key, version in keys.items():
                    entry = self._dirty.get(key)
                    if entry is not None and entry.version == version and not entry.upload.uploading:
                        self._dirty_writes.retire(entry)
            if move not in receiving:
                del self._received[move]
        self._writeback.requeue_held_back()

    def holds_back(self, slot: int) -> bool:
        """Return True if keys of `slot` must not be uploaded, because another node owns it still."""
        return self._ownership.since[slot] == ELSEWHERE and any(slot in slots for slots in self._moves.values())

    def has_received(self, key: bytes) -> bool:
        """Return True if the owner has sent a write of `key`, of a slot that is not this node's yet."""
        slot = slot_of(key)
        return any(key in by_slot.get(slot, ()) for by_slot in self._received.values())

    # ---- commands of the owner

    async def receive(
        self, owner: str, epoch: int, ring_epoch: int, serial: int, writes: Sequence[HandedOver]
    ) -> int:
        """Merge dirty writes of moving slots, and return how many there were.

        `ring_epoch`: of the ring by which the owner sends them. `serial` grows with each command of a move. Raises
        FailedPrecondition if the newest ring does not have the move, TryAgain if this node has an older ring than
        the owner, and as `Merging.merge` does.
        """
        slots = {slot_of(write.record.cache_key) for write in writes}
        move = self._move(owner, epoch, ring_epoch, slots)
        async with self._in_order(move, serial):
            if any(self._ownership.since[slot] == epoch for slot in slots):
                raise FailedPrecondition("this node serves the slots already")
            received: dict[int, dict[bytes, Version]] = {}
            for write in writes:
                key = write.record.cache_key
                received.setdefault(slot_of(key), {})[key] = write.record.version
            by_slot = self._received.setdefault(move, {})
            for slot, keys in received.items():
                by_slot.setdefault(slot, {}).update(keys)
            try:
                await self._merging.merge(writes, epoch, MERGE_SECONDS)
            finally:
                if move not in self._moves:
                    # The ring has changed: what was merged after that was not dropped with the rest.
                    self._received[move] = received
                    self.update_moves(self._moves)
        if move not in self._moves:
            raise FailedPrecondition(f"the ring with epoch {self._ownership.epoch} does not have the move any more")
        return len(writes)

    def announce(self, owner: str, epoch: int, ring_epoch: int, ranges: Sequence[Range]) -> int:
        """Have requests for the slots of `ranges` wait here: their owner is about to release them, and redirects.

        It replaces what the owner has announced before, and holds for EXPECTED_SECONDS. Returns this node's
        monotonic time in milliseconds. Raises as `receive` does.

        Without it: (1) the owner releases a slot, and redirects a request; (2) this node reads the request before
        the release, and redirects it to the owner, which the ring has; (3) the client gives up after some of these.
        """
        slots = {slot for first, last in ranges for slot in range(first, last + 1)}
        self._announced[self._move(owner, epoch, ring_epoch, slots)] = ranges
        self._update_expected()
        loop = asyncio.get_running_loop()
        self._expected_until = loop.time() + EXPECTED_SECONDS
        if self._expiry is None:
            self._expiry = loop.call_at(self._expected_until, self._expire)
        return monotonic_ms(self._clock)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        self._expiry = None
        if loop.time() < self._expected_until:
            self._expiry = loop.call_at(self._expected_until, self._expire)
            return
        self._announced.clear()
        self._update_expected()

    def _update_expected(self) -> None:
        expected = SlotEpochs()
        for ranges in self._announced.values():
            for first, last in ranges:
                expected.add(first, last, 1)
        self._ownership.expected.assign(expected)

    def take_slots(
        self,
        owner: str,
        epoch: int,
        ring_epoch: int,
        serial: int,
        newest: Version,
        ranges: Sequence[Range],
        floor: Version | None = None,
    ) -> list[int] | Coroutine[Any, Any, list[int]]:
        """Serve the slots of `ranges`, which their owner has stopped and has sent all writes of.

        Returns how many they are, and since when they are served, in this node's monotonic milliseconds. `newest`:
        the greatest version that the owner has given to any write. `floor`: see `tombstones`. Raises as `receive`
        does. Nearly always it returns at once: no node serves the slots, and each further iteration of a busy event
        loop before the reply would make that longer.
        """
        slots = {slot for first, last in ranges for slot in range(first, last + 1)}
        since = self._ownership.since
        if all(since[slot] == epoch for slot in slots):
            return [len(slots), monotonic_ms(self._clock)]  # the reply to an earlier release was lost
        move = self._move(owner, epoch, ring_epoch, slots)
        taking = _Taking(move, ring_epoch, newest, ranges, slots)
        lock = self._locks.get(move)
        if (lock is not None and lock.locked()) or floor is not None or not self._is_covered(newest):
            return self._take_later(taking, serial, floor)
        self._count(move, serial)
        return self._take(taking)

    def _is_covered(self, newest: Version) -> bool:
        """Return True if later versions of this node will be greater than `newest`, also after a restart."""
        self._journal.learned(newest)
        return self._journal.versions.is_covered(newest)

    async def _take_later(self, taking: _Taking, serial: int, floor: Version | None) -> list[int]:
        async with self._in_order(taking.move, serial):
            if floor is not None:
                self._tombstones.raise_floor(floor)
            # The writes were durable before they were confirmed. A sync that is not necessary, under load that of
            # a whole commit and of the one before it, would be most of the time for which the slots are stopped.
            if floor is not None or not self._is_covered(taking.newest):
                await self._journal.sync_barrier()
        # The ring may have changed during the await: `Ownership.take_slots` raises then, and nothing has happened.
        self._move(taking.move.owner, taking.move.epoch, taking.ring_epoch, taking.slots)
        return self._take(taking)

    def _take(self, taking: _Taking) -> list[int]:
        move, _, _, ranges, slots = taking
        self._ownership.take_slots(ranges, move.epoch)
        received = self._received.get(move, {})
        for slot in slots:
            received.pop(slot, None)
        self.taken += len(slots)
        self.on_change(ranges)
        asyncio.get_running_loop().call_soon(self._requeue, sorted(slots))
        return [len(slots), monotonic_ms(self._clock)]

    def _requeue(self, slots: Sequence[int]) -> None:
        """Have the writes of `slots` uploaded. The reply to the release, for which requests wait, does not wait."""
        self._writeback.requeue_held_back(slots[:REQUEUED_AT_ONCE])
        if len(slots) > REQUEUED_AT_ONCE:
            asyncio.get_running_loop().call_soon(self._requeue, slots[REQUEUED_AT_ONCE:])

    @asynccontextmanager
    async def _in_order(self, move: Move, serial: int) -> AsyncIterator[None]:
        """Carry out the commands of a move one after the other. Raises FailedPrecondition for one that is late.

        The interleaving that this avoids: (1) the owner sends a write, and gets no reply on a connection that is
        stuck; (2) it sends the write on another one, and that it is gone, since S3 has a later one; (3) the first
        command arrives, and the write would be back.
        """
        lock = self._locks.setdefault(move, asyncio.Lock())
        async with lock:
            self._count(move, serial)
            yield

    def _count(self, move: Move, serial: int) -> None:
        if serial <= self._serials.get(move, 0):
            raise FailedPrecondition("a later command of the move was carried out already")
        self._serials[move] = serial

    def _move(self, owner: str, epoch: int, ring_epoch: int, slots: set[int]) -> Move:
        known = self._ownership.epoch
        if any(self._ownership.has_abandoned(first, last, epoch) for first, last in ranges_of(slots)):
            raise FailedPrecondition(f"the router has abandoned the moves of epoch {epoch} to this node")
        for move, moving in self._moves.items():
            if move.owner == owner and move.epoch == epoch and slots <= moving:
                return move
        if known < ring_epoch:
            raise TryAgain(
                f"this node has the ring with epoch {known}, and not yet that with {ring_epoch}", RETRY_SECONDS
            )
        raise FailedPrecondition(
            f"the ring with epoch {known} does not move these slots from {owner} to this node since epoch {epoch}"
        )
