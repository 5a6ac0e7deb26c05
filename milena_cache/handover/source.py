"""Coordination. The owner's side of moves: sends what is dirty, stops the slots in batches, and releases them.

    serving ── rounds: dirty writes sent while they change ──┬────────────────────────────┐
                                                             ▼ the rest is ≤ 10 ms        ▼ idle slots
    stopped ── writes in flight end ── the rest is sent ── RELEASE ◀──────────────────────┘
               (ANNOUNCE before: requests that are           ├─▶ MOVED ── confirmed ── handed over
               redirected wait at the destination)           │      └─▶ the ring has it: records are given up
                                                             └─ no reply: stopped until one, or another ring

Idle slots, in which nothing is in flight and nothing is left to send, are handed over first: their pause is a round
trip. In a batch with others they would wait for these, for up to three syncs of two busy disks.

Uploads of keys of moving slots pause, since only the owner uploads, and it must be known to which node a key's
uploads belong: an upload that is in flight ends before the release.

The records of slots that were handed over stay until the ring has their new owner. Otherwise: (1) the destination
confirms; (2) it is lost before it has told a router, so that the slots stay here with a new epoch; (3) acknowledged
writes of theirs would be in no journal of a member.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from math import inf
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
from milena_cache.handover.outgoing import MIN_SLOTS, REST_SECONDS, Outgoing
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
from milena_common.metrics.histogram import Histogram
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
# Frames besides one for each key, before slots are handed over although keys change as fast as they are sent.
MAX_FRAMES = 32
# Frames for one batch. If more than REST_SECONDS is left then, its writes come as fast as they can be sent: the
# batch is made smaller, and the smallest one is stopped nevertheless.
ROUNDS = 4
# So many keys may be left to send when idle slots are handed over: each divides the batch, and so do those that are
# written while a frame is under way.
FEW = 16
# While a large backlog is sent, slots of which everything has been sent are handed over every so many seconds: the
# router abandons moves without progress.
PROGRESS_SECONDS = 1.0
# Slots are stopped when a round trip has just taken so many seconds at most, or none did for so long.
SHORT_SECONDS = 0.01
SHORT_TIMEOUT_SECONDS = 1.0
PING = command(b"PING")
# For so long requests for released slots are redirected although the destination has not confirmed them: it serves
# them as soon as it reads the release, and this node may have to wait for a processor before it reads the reply.
REDIRECT_SECONDS = 0.1
# Keys that are looked at between two yields to the event loop.
STEP = 2000
# Seconds that a frame waits for room among the bytes in flight.
ROOM_SECONDS = 1.0

# Seconds; finer near the 50 ms that a slot may be stopped.
PAUSE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5)

# Replies that say that a RELEASE was not carried out.
_REJECTED = (FailedPrecondition, TryAgain, Overloaded, WrongNode)


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float, *, at_once: bool = False) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError.

        `at_once`: it is sent without waiting for the end of this iteration of the event loop.
        """


class Source:
    """What one node hands over.

    on_change: called with slots that were stopped, for what depends on the slots that are served
    on_handed_over: called with a move and those of its slots that the destination serves now
    moved: number of slots that were handed over
    paced: False to send as fast as that is possible, whatever it costs requests
    pauses: for how long slots were stopped, until their destination or this node served them, in seconds, one
        observation for each slot and stop
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
        self.paced = True
        self.pauses = Histogram(PAUSE_BUCKETS)
        # Removes an entry of a slot that another node owns, which has it; returns True for a slot whose tombstones
        # stay, because this node holds copies of the other one's writes.
        self.retire_entry: Callable[[DirtyEntry], None] = dirty_writes.retire
        self.keeps_tombstones: Callable[[int], bool] = lambda slot: False
        # Slots that are not served here any more, and since which epoch they were; see `old_owner`.
        self.served_before: dict[int, tuple[int, float]] = {}
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
        # Slots that are stopped, and not handed over yet: by slot the move, and since when, in monotonic seconds.
        self.stopped: dict[int, Move] = {}
        self._stopped_at: dict[int, float] = {}
        # Handed over, and not published yet: the move by slot.
        self._confirmed: dict[int, Move] = {}
        # The keys whose writes the destination has, with their versions, by slot that was released and is not
        # published yet. There may be a ring for each batch: looking at all dirty keys for each would take longer
        # than the moves.
        self._released: dict[int, tuple[tuple[bytes, Version], ...]] = {}
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
        self._end_pause(stale)
        for slot in stale:
            self._released.pop(slot, None)
        if stale:
            self._ownership.resume_slots(ranges_of(stale))
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
        published: set[int] = set()
        moves = {*self._confirmed.values(), *self.stopped.values()}
        arrived = {move: _slots_of(slot_map, move.destination, move.epoch, move.epoch) for move in moves}
        for waiting in (self._confirmed, self.stopped):
            published.update(slot for slot, move in waiting.items() if slot in arrived[move])
        for slot in published:
            self._confirmed.pop(slot, None)
        self._end_pause(published & self.stopped.keys())
        # If the destination was lost, the slot is this node's since a newer epoch, or a third node's. Either way
        # this node has the writes still, and they are compared with S3 before they are served.
        moving = {move: _slots_of(slot_map, self._ownership.me, 0, move.epoch - 1) for move in moves}
        for slot in [slot for slot, move in self._confirmed.items() if slot not in moving[move]]:
            del self._confirmed[slot]
            self._released.pop(slot, None)
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
        due = self._clock.now() + PROGRESS_SECONDS
        # More frames than keys are only necessary for keys that change faster than they are sent.
        for _ in range(MAX_FRAMES + outgoing.waiting):
            if outgoing.waiting <= MAX_WRITES:
                break
            await self._send(move, outgoing, outgoing.slots)
            if self.paced and (seconds := outgoing.yields):
                await self._clock.sleep(seconds)
            if self._clock.now() >= due:
                announced = await self._await_short_round_trip(move, outgoing)
                if sent := self._idle_now(outgoing, announced):
                    return await self._hand_over(move, outgoing, sent, _slots(sent))
        if idle := await self._idle_batch(move, outgoing):
            return await self._hand_over(move, outgoing, idle, _slots(idle))
        slow = {slot_of(key) for key in self._writes.slow()}
        batch = outgoing.next_batch(lambda slot: slot not in slow and self._is_served(slot))
        if not batch:
            # An upload or a write through is in flight in each slot: they are stopped, so that no more begin.
            batch = outgoing.next_batch(self._is_served)
        if not batch:
            return False
        slots = _slots(batch)
        for _ in range(ROUNDS):
            if outgoing.rest_seconds(slots, self._size_of) <= REST_SECONDS:
                break
            await self._send(move, outgoing, slots)
        else:
            if len(slots) > MIN_SLOTS:
                outgoing.paused(inf, ROUNDS)
                return True
        await self._announce(move, outgoing, batch)
        return await self._hand_over(move, outgoing, batch, slots)

    async def _idle_batch(self, move: Move, outgoing: Outgoing) -> list[Range]:
        """Return slots of which nothing is left to send, and in which nothing is in flight; none if there are none.

        Few keys are written at a time: of thousands of slots nearly all are idle. They are stopped for no longer
        than a round trip, and wait for no sync and no write, of a slot beside them as little as of their own.
        """
        for frames in range(ROUNDS):
            if outgoing.waiting <= FEW or frames == ROUNDS - 1:
                announced = await self._await_short_round_trip(move, outgoing)
                if batch := self._idle_now(outgoing, announced):
                    return batch
            # The last few slots: what is in flight in them, or left to send, may be over in a moment.
            if not outgoing.waiting:
                await self._clock.sleep(PAUSE_SECONDS)
            await self._send(move, outgoing, outgoing.slots)
        return []

    async def _await_short_round_trip(self, move: Move, outgoing: Outgoing) -> set[int]:
        """Return when a round trip to the destination is short, or has not been for SHORT_TIMEOUT_SECONDS.

        The pause of idle slots is half a round trip. Its length is that of the work before it on two event loops,
        and of the waiting for a processor: it varies from a millisecond to many times the average, in bursts.
        Nothing is lost by waiting for a better moment, since the slots are served until then.

        Returns the slots that were announced with it: those that were idle when the round trip began.
        """
        began = self._clock.now()
        while True:
            batch = self._idle_now(outgoing)
            sent_at = self._clock.now()
            await self._announce(move, outgoing, batch)
            now = self._clock.now()
            if now - sent_at <= SHORT_SECONDS or now - began >= SHORT_TIMEOUT_SECONDS:
                return _slots(batch)
            await self._clock.sleep(PAUSE_SECONDS)

    async def _announce(self, move: Move, outgoing: Outgoing, batch: Sequence[Range]) -> None:
        """Announce that the slots of `batch` will be released, and learn the time on the destination's clock."""
        sent = PING
        if batch:
            epochs = (b"%d" % move.epoch, b"%d" % self._ownership.epoch)
            sent = command(b"MILENA.HANDOVER", b"ANNOUNCE", move.owner.encode(), *epochs, encode_ranges(batch))
        reply = await self._links.request(move.resp_address, sent, CALL_SECONDS)
        if isinstance(reply, int):
            outgoing.their_zero = reply / 1000 - self._clock.now()

    def _idle_now(self, outgoing: Outgoing, announced: Collection[int] | None = None) -> list[Range]:
        """Return idle slots of which nothing is left to send; `announced`: only such of these."""
        busy = {slot_of(key) for key in self._writes.busy()}
        return outgoing.next_batch(
            lambda slot: slot not in busy and self._is_served(slot) and (announced is None or slot in announced),
            idle=True,
        )

    async def _hand_over(
        self, move: Move, outgoing: Outgoing, batch: Sequence[Range], slots: Collection[int]
    ) -> bool:
        if not all(map(self._is_served, slots)):
            return False
        started = self._clock.now()
        self._stop(move, batch, slots)
        released = False
        try:
            if not await self._is_quiet(slots):
                return False
            frames = 0
            while outgoing.left(slots):
                frames += 1
                await self._send(move, outgoing, slots)
            outgoing.paused(self._clock.now() - started, frames)
            released = True
            self._released.update((slot, outgoing.sent_writes(slot)) for slot in slots)
            taken_at = await self._release(move, outgoing, batch)
            released = False
            self._ownership.hand_over(batch)
            # A ring may have come before the confirmation.
            mine = self.stopped.keys() & slots
            self._end_pause(mine, taken_at)
            self._confirmed.update(dict.fromkeys(mine, move))
            outgoing.handed_over(slots)
            self.moved += len(slots)
            self.on_handed_over(move, set(slots))
            if self._ownership.slot_map.copies_wanted <= 1:
                self._spawn_retire(set(mine), without_ring=True)
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
            self._stopped_at[slot] = now
            self.served_before[slot] = (self._ownership.since[slot], now)
        self._ownership.stop_slots(batch)
        # From the release on the destination acknowledges writes: clients must not keep what they have cached.
        self.on_change(slots)

    def _end_pause(self, slots: Iterable[int], at: float = inf) -> None:
        """Record that stopped `slots` are served again, here or by their destination; since `at`, if not now."""
        now = min(self._clock.now(), at)
        for slot in slots:
            del self.stopped[slot]
            self.pauses.observe(max(0.0, now - self._stopped_at.pop(slot)))

    def _resume(self, move: Move, slots: Collection[int]) -> None:
        """Serve those of `slots` again that this move has stopped still."""
        mine = [slot for slot in slots if self.stopped.get(slot) == move]
        self._end_pause(mine)
        for slot in mine:
            self.served_before.pop(slot, None)
            self._released.pop(slot, None)
        if mine:
            self._ownership.resume_slots(ranges_of(mine))

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

    async def _release(self, move: Move, outgoing: Outgoing, batch: Sequence[Range]) -> float:
        """Return when the destination has confirmed that it serves the slots: since when, by this node's clock.

        That is late by the way of the announcement's reply at most, and never early. Requests for the slots are
        redirected meanwhile, for REDIRECT_SECONDS. By then, and if the release has failed, they wait here.

        Raises an error of `_REJECTED` if it has certainly not taken them. After an attempt without a reply nothing
        is certain: then this tries again until it is cancelled, by another ring.
        """
        version = self._newest_version()
        failures = 0
        while True:
            floor = self._tombstones.floor
            arguments = (str(version).encode(), encode_ranges(batch), *([str(floor).encode()] if floor else []))
            sent = self._command(b"RELEASE", move, outgoing, *arguments)
            end_redirect: asyncio.TimerHandle | None = None
            if not failures:
                end_redirect = asyncio.get_running_loop().call_later(
                    REDIRECT_SECONDS, self._ownership.end_redirect, batch
                )
                self._ownership.redirect_slots(batch)
            try:
                reply = await self._links.request(move.resp_address, sent, CALL_SECONDS, at_once=True)
                if isinstance(reply, list) and len(reply) == 2:
                    return float(reply[1]) / 1000 - outgoing.their_zero
                return inf
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
            finally:
                if end_redirect is not None:
                    end_redirect.cancel()
                    self._ownership.end_redirect(batch)
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
                frame = [raw for key in keys for raw in self._encoded(key, outgoing, versions)]
                for key, version in versions.items():
                    if version is not None:
                        # Before the reply, which may be lost: then the destination may have the write.
                        outgoing.record_sent(key, version)
                if frame:
                    started = self._clock.now()
                    sent = self._command(b"WRITES", move, outgoing, *frame)
                    await self._links.request(move.resp_address, sent, CALL_SECONDS + seconds_for(len(sent)))
                    outgoing.measured(sum(map(len, frame)), self._clock.now() - started, len(frame))
                for key, version in versions.items():
                    if version is None:
                        outgoing.record_sent(key, None)
                delivered = True
            finally:
                self._budget.release(size)
        finally:
            if not delivered:
                outgoing.put_back(keys)

    def _encoded(self, key: bytes, outgoing: Outgoing, versions: dict[bytes, Version | None]) -> list[bytes]:
        """Return what the destination must learn of `key`, maybe nothing.

        `versions` gets the version that it has then, None for no write.
        """
        entry = self._dirty.get(key)
        if entry is None:
            found = []
            tombstone, sent = self._tombstones.get(key), outgoing.sent(key)
            if tombstone is not None:
                found.append(encode_tombstone(key, tombstone.version, tombstone.at))
            if sent is not None and (tombstone is None or tombstone.version < sent):
                # Also beside an older tombstone, which leaves a later write as it is.
                found.append(encode_write(HandedOver(Record(key, sent, None), gone=True)))
            if found:
                versions[key] = None
            return found
        if entry.dead is not None and entry.dead.damaged:
            return []  # its value is lost; it stays here as a dead letter
        try:
            write = self.write_of(entry)
        except FailedPrecondition:
            return []  # it has just been found damaged
        versions[key] = entry.version
        return [encode_write(write)]

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

    def _spawn_retire(self, slots: set[int], *, without_ring: bool = False) -> None:
        self._retired |= slots
        task = asyncio.get_running_loop().create_task(self._retire(slots, without_ring))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _retire(self, slots: set[int], without_ring: bool) -> None:
        """Give up the writes of slots that are another node's, which has them: published, or without a ring.

        Without a ring where no other node has copies, as soon as the destination has confirmed. If they were kept
        until the ring is published: (1) the destination deletes a key, uploads that, and leaves; (2) no router has
        seen the move, since it was away; (3) the slot comes back to this node, which would serve and upload its
        earlier write over the delete. That the destination is lost at this moment is the loss of a node that has
        the only copy, as it would be after the ring.
        """
        try:
            writes = [write for slot in slots for write in self._released.pop(slot, ())]
            attempts = 0
            # An upload that was in flight before the release may take effect still: its record stays until then.
            while writes := await self._retire_writes(writes, without_ring):
                attempts += 1
                await self._clock.sleep(BACKOFF.delay(attempts, self._rng))
            for key in self._tombstones.keys_of([slot for slot in slots if not self.keeps_tombstones(slot)]):
                tombstone = self._tombstones.get(key)
                if tombstone is not None and self._ownership.since[slot_of(key)] == ELSEWHERE:
                    self._tombstones.handed_over(key, tombstone.version)
        finally:
            self._retired -= slots

    async def _retire_writes(
        self, writes: list[tuple[bytes, Version]], without_ring: bool
    ) -> list[tuple[bytes, Version]]:
        """Give up those of `writes` that are not being uploaded; return the others.

        Keys that have got a later write since stay. `without_ring`: also in slots that have come back meanwhile.
        """
        uploading = []
        for number, (key, version) in enumerate(writes):
            entry = self._dirty.get(key)
            if entry is None or (entry.dead is not None and entry.dead.damaged):
                continue
            # Not the next write: the slot may have come back, and not be served for a moment (the fence).
            elsewhere = self._ownership.since[slot_of(key)] == ELSEWHERE
            if (elsewhere or without_ring) and entry.version <= version:
                if entry.upload.uploading:
                    uploading.append((key, version))
                else:
                    self.retire_entry(entry)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        return uploading


def _slots_of(slot_map: SlotMap, address: str, first_epoch: int, last_epoch: int) -> set[int]:
    """Return the slots that the node at `address` has owned since an epoch of `first_epoch` to `last_epoch`."""
    found: set[int] = set()
    for first, last, node, owned_since in slot_map.ranges:
        if node.address == address and first_epoch <= owned_since <= last_epoch:
            found.update(range(first, last + 1))
    return found


def _slots(ranges: Sequence[Range]) -> set[int]:
    return {slot for first, last in ranges for slot in range(first, last + 1)}
