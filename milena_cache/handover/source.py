"""Coordination. The owner's side of moves: sends what is dirty, stops the slots in batches, and releases them.

    serving ── rounds: dirty writes sent while they change ──┐
                                                             ▼  what is left of a batch takes at most 10 ms
    stopped ── writes in flight end ── the rest is sent ── RELEASE ──▶ confirmed ── handed over ── the ring has it
                                                             │             (MOVED)        └─▶ records are given up
                                                             └─ no reply: stopped until one, or another ring

Uploads of keys of moving slots pause, since only the owner uploads, and it must be known to which node a key's
uploads belong: an upload that is in flight ends before the release.

The records of slots that were handed over stay until the ring has their new owner. Otherwise: (1) the destination
confirms; (2) it is lost before it has told a router, so that the slots stay here with a new epoch; (3) acknowledged
writes of theirs would be in no journal of a member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from milena_cache.handover.frames import (
    MAX_WRITES,
    HandedOver,
    Range,
    encode_ranges,
    encode_tombstone,
    encode_write,
    ranges_of,
    seconds_for,
)
from milena_cache.handover.outgoing import REST_SECONDS, Outgoing
from milena_cache.handover.plan import Move
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.record import Record
from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.objects.etags import same_etag
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_cache.writes.writer import Writes
from milena_common.api.errors import FailedPrecondition, MilenaError, Overloaded, TryAgain, WrongNode
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import command
from milena_common.runtime.backoff import Backoff
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

BACKOFF = Backoff(first=0.05, max_delay=1.0)
# Timeout of one command to the destination.
CALL_SECONDS = 2.0
# How long the writes in flight of stopped slots may take; then the slots are served again, and tried later.
QUIET_SECONDS = 0.05
PAUSE_SECONDS = 0.001
# Frames for one batch before it is stopped although more is left than REST_SECONDS: its writes come faster than
# they can be sent.
MAX_FRAMES = 32
# Keys that are looked at between two yields to the event loop.
STEP = 2000
# Seconds that a frame waits for room among the bytes in flight.
ROOM_SECONDS = 1.0

# Replies that say that a RELEASE was not carried out.
_REJECTED = (FailedPrecondition, TryAgain, Overloaded, WrongNode)


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""


class Source:
    """What one node hands over.

    on_change: called with slots that were stopped, for what depends on the slots that are served
    on_handed_over: called with a move and those of its slots that the destination serves now
    moved: number of slots that were handed over
    """

    def __init__(
        self,
        ownership: Ownership,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        writes: Writes,
        writeback: WriteBack,
        links: Links,
        newest_version: Callable[[], Version],
        clock: Clock,
        budget: ByteBudget,
        rng: Callable[[], float],
        tombstones: Tombstones,
    ) -> None:
        self.on_change: Callable[[Collection[int]], None] = lambda slots: None
        self.on_handed_over: Callable[[Move, set[int]], None] = lambda move, slots: None
        self.moved = 0
        # Removes an entry of a slot that another node owns, which has it; returns True for a slot whose tombstones
        # stay, because this node holds copies of the other one's writes.
        self.retire_entry: Callable[[DirtyEntry], None] = dirty_writes.retire
        self.keeps_tombstones: Callable[[int], bool] = lambda slot: False
        # Slots that are not served here any more, and since which epoch they were; see `old_owner`.
        self.served_before: dict[int, tuple[int, float]] = {}
        # Slots that are stopped, and not handed over yet, by slot the move.
        self._ownership = ownership
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._writes = writes
        self._writeback = writeback
        self._links = links
        self._newest_version = newest_version
        self._clock = clock
        self._budget = budget
        self._rng = rng
        self._moves: dict[Move, Outgoing] = {}
        self._tasks: dict[Move, asyncio.Task[None]] = {}
        self.stopped: dict[int, Move] = {}
        # Handed over, and not published yet: the move by slot.
        self._confirmed: dict[int, Move] = {}
        self._aborted = False
        self._tombstones = tombstones
        tombstones.on_added = self._changed
        self._retired: set[int] = set()  # published, while their writes are given up
        self._retiring: set[asyncio.Task[None]] = set()

    # ---- the ring

    def update_moves(self, slot_map: SlotMap, giving: dict[Move, set[int]]) -> None:
        """Begin the moves of the new ring, and abort those that it does not have any more."""
        published = self._published(slot_map)
        for move in [move for move in self._moves if move not in giving]:
            self._moves.pop(move)
            self._tasks.pop(move).cancel()
        stale = [slot for slot, move in self.stopped.items() if slot not in giving.get(move, ())]
        for slot in stale:
            del self.stopped[slot]
        for first, last in ranges_of(stale):
            self._ownership.resume_slots(first, last)
        for move, slots in giving.items() if not self._aborted else ():
            left = slots - {slot for slot, confirmed in self._confirmed.items() if confirmed == move}
            if move in self._moves:
                self._moves[move].keep_only(left)
            elif left:
                self._moves[move] = Outgoing(left)
                self._tasks[move] = asyncio.get_running_loop().create_task(self._run(move, self._moves[move]))
        self._dirty.on_change = self._changed if self._moves else None
        if published:
            self._spawn_retire(published)
        self._writeback.requeue_held_back()

    def _published(self, slot_map: SlotMap) -> set[int]:
        """Return the handed over slots that the ring has at their destination; forget those that have come back."""
        published = set()
        moves = {*self._confirmed.values(), *self.stopped.values()}
        arrived = {move: _slots_of(slot_map, move.destination, move.epoch, move.epoch) for move in moves}
        for waiting in (self._confirmed, self.stopped):
            for slot in [slot for slot, move in waiting.items() if slot in arrived[move]]:
                published.add(slot)
                del waiting[slot]
        # If the destination was lost, the slot is this node's since a newer epoch, or a third node's. Either way
        # this node has the writes still, and they are compared with S3 before they are served.
        moving = {move: _slots_of(slot_map, self._ownership.me, 0, move.epoch - 1) for move in moves}
        for slot in [slot for slot, move in self._confirmed.items() if slot not in moving[move]]:
            del self._confirmed[slot]
        return published

    def holds_back(self, slot: int) -> bool:
        """Return True if keys of `slot` must not be uploaded, because it is being handed over."""
        return (
            slot in self._confirmed
            or slot in self.stopped
            or slot in self._retired
            or any(slot in outgoing.slots for outgoing in self._moves.values())
        )

    @property
    def busy(self) -> bool:
        """Return True while slots are to be handed over, or wait to be published."""
        return bool(self._moves or self._confirmed or self._retired)

    def abort_all(self) -> None:
        """Abort all moves for good, and have what is left uploaded; slots that were released stay stopped."""
        self._aborted = True
        for task in self._tasks.values():
            task.cancel()  # which resumes stopped slots
        self._tasks.clear()
        self._moves.clear()
        self._dirty.on_change = None
        self._writeback.requeue_held_back()

    async def cancel_moves(self) -> None:
        """Cancel everything, at the end of the process."""
        tasks = [*self._tasks.values(), *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _changed(self, key: bytes) -> None:
        for outgoing in self._moves.values():
            outgoing.changed(key)

    # ---- one move

    async def _run(self, move: Move, outgoing: Outgoing) -> None:
        log.info("hands over %d slots to node %s (epoch %d)", len(outgoing.slots), move.destination, move.epoch)
        started, number = self._clock.now(), len(outgoing.slots)
        await self._index(outgoing)
        failures = attempts = 0
        while outgoing.slots:
            try:
                if not move.resp_address:
                    raise FailedPrecondition("it has no RESP server")
                if await self._advance(move, outgoing):
                    attempts = 0
                else:
                    # An upload or a write through takes seconds at a slow S3, and each attempt stops the slots for
                    # QUIET_SECONDS: they are served for the most of that time.
                    attempts += 1
                    await self._clock.sleep(BACKOFF.delay(attempts, self._rng))
                failures = 0
            except MilenaError as error:
                failures += 1
                if failures in (1, 20):
                    log.warning("could not hand over slots to node %s yet: %s", move.destination, error)
                await self._clock.sleep(BACKOFF.delay(failures, self._rng))
        self._moves.pop(move, None)
        self._tasks.pop(move, None)
        log.info("handed over %d slots to node %s in %.3g s", number, move.destination, self._clock.now() - started)

    async def _index(self, outgoing: Outgoing) -> None:
        """Record the keys that are dirty now, or have a tombstone; later changes are recorded as they happen."""
        for number, key in enumerate([*self._dirty, *self._tombstones]):
            outgoing.changed(key)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)

    async def _advance(self, move: Move, outgoing: Outgoing) -> bool:
        """Send what is dirty, and hand over one batch of slots; False if it is to be tried again a little later."""
        # More frames than keys are only necessary for keys that change faster than they are sent.
        for _ in range(MAX_FRAMES + outgoing.waiting):
            if outgoing.waiting <= MAX_WRITES:
                break
            await self._send(move, outgoing, outgoing.slots)
        batch = outgoing.next_batch(self._size_of, self._is_served)
        if not batch:
            return False
        slots = _slots(batch)
        for _ in range(MAX_FRAMES):
            if outgoing.rest_seconds(slots, self._size_of) <= REST_SECONDS:
                break
            await self._send(move, outgoing, slots)
        return await self._hand_over(move, outgoing, batch, slots)

    async def _hand_over(
        self, move: Move, outgoing: Outgoing, batch: Sequence[Range], slots: Collection[int]
    ) -> bool:
        if not all(map(self._is_served, slots)):
            return False
        self._stop(move, batch, slots)
        released = False
        try:
            if not await self._is_quiet(slots):
                return False
            while outgoing.left(slots):
                await self._send(move, outgoing, slots)
            released = True
            await self._release(move, outgoing, batch)
            # Nothing awaits between the confirmation and MOVED.
            released = False
            for first, last in batch:
                self._ownership.hand_over(first, last)
            for slot in slots:
                # A ring may have come before the confirmation.
                if self.stopped.pop(slot, None) is not None:
                    self._confirmed[slot] = move
            outgoing.handed_over(slots)
            self.moved += len(slots)
            self.on_handed_over(move, set(slots))
            return True
        except _REJECTED:
            released = False
            raise
        finally:
            # A release without a reply may have been carried out: the slots stay stopped.
            if not released:
                self._resume(move, slots)

    def _is_served(self, slot: int) -> bool:
        """Return True if this node serves `slot` now.

        A slot that it does not serve must not be handed over: (1) the slot of a lost node is this node's, and not
        released; (2) it is pending, and stopped, which has no effect on what is not served; (3) it is released, and
        this node acknowledges writes; (4) the destination takes the slot without them. And if the lost node lives,
        the destination would serve the slot beside it.
        """
        return self._ownership.since[slot] != ELSEWHERE

    def _stop(self, move: Move, batch: Sequence[Range], slots: Collection[int]) -> None:
        now = self._clock.now()
        for slot in slots:
            self.stopped[slot] = move
            self.served_before[slot] = (self._ownership.since[slot], now)
        for first, last in batch:
            self._ownership.stop_slots(first, last)
        # From the release on the destination acknowledges writes: clients must not keep what they have cached.
        self.on_change(slots)

    def _resume(self, move: Move, slots: Collection[int]) -> None:
        """Serve those of `slots` again that this move has stopped still."""
        mine = [slot for slot in slots if self.stopped.get(slot) == move]
        for slot in mine:
            del self.stopped[slot]
            self.served_before.pop(slot, None)
        for first, last in ranges_of(mine):
            self._ownership.resume_slots(first, last)

    def _is_busy(self, slots: Collection[int]) -> bool:
        return any(slot_of(key) in slots for key in self._writes.busy())

    async def _is_quiet(self, slots: Collection[int]) -> bool:
        """Wait for the writes and uploads in flight of stopped slots; False if they take too long."""
        until = self._clock.now() + QUIET_SECONDS
        while self._is_busy(slots):
            if self._clock.now() >= until:
                return False
            await self._clock.sleep(PAUSE_SECONDS)
        return True

    async def _release(self, move: Move, outgoing: Outgoing, batch: Sequence[Range]) -> None:
        """Return when the destination has confirmed that it serves the slots.

        Raises an error of `_REJECTED` if it has certainly not taken them. After an attempt without a reply nothing
        is certain: then this tries again until it is cancelled, by another ring.
        """
        version = self._newest_version()
        failures = 0
        while True:
            floor = self._tombstones.floor
            arguments = (str(version).encode(), encode_ranges(batch), *([str(floor).encode()] if floor else []))
            sent = self._command(b"RELEASE", move, outgoing, *arguments)
            try:
                await self._links.request(move.resp_address, sent, CALL_SECONDS)
                return
            except _REJECTED:
                if not failures:
                    raise
            except MilenaError as error:
                if not failures:
                    log.warning(
                        "node %s has not confirmed slots that were released to it, which no node serves until it "
                        "does: %s",
                        move.destination,
                        error,
                    )
            failures += 1
            await self._clock.sleep(BACKOFF.delay(failures, self._rng))

    # ---- frames

    def _command(self, name: bytes, move: Move, outgoing: Outgoing, *arguments: bytes) -> bytes:
        outgoing.serial += 1
        epochs = (b"%d" % move.epoch, b"%d" % self._ownership.epoch, b"%d" % outgoing.serial)
        return command(b"MILENA.HANDOVER", name, move.owner.encode(), *epochs, *arguments)

    def _size_of(self, key: bytes) -> int:
        entry = self._dirty.get(key)
        return entry.size if entry is not None else 0

    async def _send(self, move: Move, outgoing: Outgoing, slots: Collection[int]) -> None:
        """Send one frame of what is left of `slots`."""
        keys = outgoing.next_keys(sorted(slots), self._size_of)
        if not keys:
            return
        size = sum(map(self._size_of, keys))
        delivered = False
        try:
            await self._budget.take(size, ROOM_SECONDS)
            try:
                versions: dict[bytes, Version | None] = {}
                frame = [raw for key in keys if (raw := self._encoded(key, outgoing, versions)) is not None]
                for key, version in versions.items():
                    if version is not None:
                        # Before the reply, which may be lost: then the destination may have the write.
                        outgoing.sent[key] = version
                if frame:
                    started = self._clock.now()
                    sent = self._command(b"WRITES", move, outgoing, *frame)
                    await self._links.request(move.resp_address, sent, CALL_SECONDS + seconds_for(len(sent)))
                    outgoing.measured(sum(map(len, frame)), self._clock.now() - started)
                for key, version in versions.items():
                    if version is None:
                        outgoing.sent.pop(key, None)
                delivered = True
            finally:
                self._budget.release(size)
        finally:
            if not delivered:
                outgoing.put_back(keys)

    def _encoded(self, key: bytes, outgoing: Outgoing, versions: dict[bytes, Version | None]) -> bytes | None:
        """Return what the destination must learn of `key`, None if that is nothing.

        `versions` gets the version that it has then, None for no write.
        """
        entry = self._dirty.get(key)
        if entry is None:
            if (tombstone := self._tombstones.get(key)) is not None:
                versions[key] = None
                return encode_tombstone(key, tombstone.version, tombstone.at)
            sent = outgoing.sent.get(key)
            if sent is None:
                return None
            versions[key] = None
            return encode_write(HandedOver(Record(key, sent, None), gone=True))
        if entry.dead is not None and entry.dead.damaged:
            return None  # its value is lost; it stays here as a dead letter
        try:
            write = self.write_of(entry)
        except FailedPrecondition:
            return None  # it has just been found damaged
        versions[key] = entry.version
        return encode_write(write)

    def write_of(self, entry: DirtyEntry) -> HandedOver:
        """Return an entry as it is sent to another node. Raises FailedPrecondition if its record is damaged."""
        belief = entry.belief
        self._dirty_writes.is_gone(entry)  # an expired object becomes a delete
        value = None if entry.deleted else self._dirty_writes.value(entry)
        age = max(0.0, self._clock.now() - entry.acknowledged_at)
        record = Record(
            entry.key,
            entry.version,
            value,
            belief.base,
            belief.conditional,
            max(0, belief.owned_since),
            self._clock.wall() - age,
            entry.expires_at,
            isinstance(belief.base, str) and bool(belief.keeps) and same_etag(belief.base, belief.keeps),
        )
        since = self._since(slot_of(entry.key))
        return HandedOver(
            record,
            rejection=None if entry.dead is None else (entry.dead.reason, entry.dead.at),
            confirmed=since != ELSEWHERE and belief.owned_since >= since,
            maybe_absent=belief.maybe_absent,
            indeterminate=belief.indeterminate or entry.upload.uploading,
            forced=entry.forced,
        )

    def _since(self, slot: int) -> int:
        """Return the epoch since which this node owns `slot`, also while it is stopped."""
        if slot in self.stopped:
            return self.served_before.get(slot, (ELSEWHERE, 0.0))[0]
        return self._ownership.since[slot]

    # ---- afterwards

    def _spawn_retire(self, slots: set[int]) -> None:
        self._retired |= slots
        task = asyncio.get_running_loop().create_task(self._retire(slots))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, slots: set[int]) -> None:
        """Give up the writes of slots that are published as another node's, which has them."""
        try:
            attempts = 0
            while await self._retire_all(slots):
                attempts += 1
                await self._clock.sleep(BACKOFF.delay(attempts, self._rng))
        finally:
            self._retired -= slots

    async def _retire_all(self, slots: set[int]) -> bool:
        """Give up what can be given up; return True if some writes are left, whose uploads are in flight."""
        left = False
        for number, key in enumerate(list(self._dirty)):
            entry = self._dirty.get(key)
            if entry is None or slot_of(key) not in slots or (entry.dead is not None and entry.dead.damaged):
                continue
            if self._ownership.since[slot_of(key)] != ELSEWHERE:
                pass  # the slot has come back
            elif entry.upload.uploading:
                left = True
            else:
                self.retire_entry(entry)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        for key in [key for key in self._tombstones if slot_of(key) in slots]:
            if self.keeps_tombstones(slot_of(key)):
                continue
            tombstone = self._tombstones.get(key)
            if tombstone is not None and self._ownership.since[slot_of(key)] == ELSEWHERE:
                self._tombstones.handed_over(key, tombstone.version)
        return left


def _slots_of(slot_map: SlotMap, address: str, first_epoch: int, last_epoch: int) -> set[int]:
    """Return the slots that the node at `address` has owned since an epoch of `first_epoch` to `last_epoch`."""
    found: set[int] = set()
    for first, last, node, owned_since in slot_map.ranges:
        if node.address == address and first_epoch <= owned_since <= last_epoch:
            found.update(range(first, last + 1))
    return found


def _slots(ranges: Sequence[Range]) -> set[int]:
    return {slot for first, last in ranges for slot in range(first, last + 1)}
