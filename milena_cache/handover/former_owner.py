"""Coordination. Dirty writes of slots that another node owns: handed in to it, and not uploaded here.

A node has such writes when it returns with its journal after another one got its slots, or when it lost slots
without a hand-over. If it uploaded them itself, two nodes would write the same keys in S3: (1) this node returns
with a put of key k; (2) the owner acknowledges a delete of k and uploads it, which leaves no version in S3; (3) the
upload of this node finds no object, and the deleted one is back. Instead the owner decides, by version and by its
tombstones, and it alone uploads. What it cannot decide any more becomes a dead letter here, that no read is served
from. Tombstones of such slots are handed in too.

Active in rings whose nodes fence; in others the writes are uploaded here, with the version as the only protection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from milena_cache.handover.frames import (
    MAX_BYTES,
    MAX_WRITES,
    HandedOver,
    encode_tombstone,
    encode_write,
    seconds_for,
)
from milena_cache.handover.source import BACKOFF, CALL_SECONDS, ROOM_SECONDS, STEP, Links
from milena_cache.handover.tombstones import Tombstone, Tombstones
from milena_cache.membership.ownership import ELSEWHERE, Ownership
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import TOO_LATE, DirtyWrites
from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

# How long a node waits at most, until it has handed in the writes of slots that it lost, before it acknowledges the
# ring without them. Longer, an owner that cannot be reached would keep all owners of lost slots from serving them.
ACKNOWLEDGE_SECONDS = 10.0


class FormerOwner:
    """Hands in the dirty writes of one node that are of other nodes' slots.

    is_moving: returns True for a key that is part of a move in progress
    write_of: returns an entry as it is sent, and raises FailedPrecondition if its value is lost
    commit: returns when the writes that wait for the journal are dirty
    handed_in: number of writes and tombstones that owners have taken
    on_done: called when all are handed in
    """

    def __init__(
        self,
        ownership: Ownership,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        links: Links,
        clock: Clock,
        budget: ByteBudget,
        rng: Callable[[], float],
        is_moving: Callable[[bytes], bool],
        write_of: Callable[[DirtyEntry], HandedOver],
        tombstones: Tombstones,
        commit: Callable[[], Awaitable[None]],
    ) -> None:
        self.handed_in = 0
        self.on_done: Callable[[], None] = lambda: None
        # Returns True for a slot whose tombstones stay here: this node holds all copies of it.
        self.keeps_tombstones: Callable[[int], bool] = lambda slot: False
        # True while there are writes to hand in, and until the first ring shows that there are none.
        self._found = False
        self._looked = False
        self._again = False
        self._held_epoch: int | None = None
        self._held_until = 0.0
        self._tombstones = tombstones
        self._commit = commit
        self._ownership = ownership
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._links = links
        self._clock = clock
        self._budget = budget
        self._rng = rng
        self._is_moving = is_moving
        self._write_of = write_of
        self._task: asyncio.Task[None] | None = None

    def holds_back(self, slot: int) -> bool:
        """Return True if the keys of `slot` are to be handed in to its owner instead of being uploaded.

        Also while the slot waits for a lost owner: that may have deleted what this node has, with S3 up to date.
        """
        slot_map = self._ownership.slot_map
        if not slot_map.released_epoch:
            return False
        owner = slot_map.target(slot)
        # A slot that was taken over is this node's, although the ring does not have that yet.
        taken = self._ownership.unfenced_since_slot(slot) != ELSEWHERE
        waits = not owner.address and bool(slot_map.nodes)
        return (waits or bool(owner.resp_address)) and owner.address != self._ownership.me and not taken

    def _hands_in(self, key: bytes) -> bool:
        """Return True if the write of `key` is to be handed in.

        What is part of a move is not: (1) the owner has sent this node a write of a slot that is to come; (2) this
        node hands it back, and gives it up; (3) the owner releases the slot, and does not send the write again.
        """
        return self.holds_back(slot_of(key)) and not self._is_moving(key)

    def update_moves(self, epoch_before: int = 0, *, lost: bool = False) -> None:
        """Begin to hand in what the newest ring gives to other nodes.

        `epoch_before`: of the ring before that, 0 if it is the first one. `lost`: the newest one took slots that
        this node served.
        """
        if lost or (not self._looked and self._has_any):
            self._held_epoch = epoch_before if self._held_epoch is None else min(epoch_before, self._held_epoch)
            self._held_until = self._clock.now() + ACKNOWLEDGE_SECONDS
        if not self._ownership.slot_map.released_epoch or not (lost or self._has_any):
            self._looked = bool(self._ownership.epoch)
            self._held_epoch = None
        elif self._task is not None:
            self._again = True
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def _has_any(self) -> bool:
        return bool(self._dirty.bytes or len(self._tombstones))

    @property
    def held_epoch(self) -> int | None:
        """Return the epoch after which no ring may be acknowledged yet; None if all may be.

        An owner that gets slots back waits for that before it serves them: (1) this node has taken slots over, and
        acknowledges writes; (2) their owner restarts, and keeps them; (3) it would serve them without those writes.
        """
        if self._held_epoch is not None and self._clock.now() >= self._held_until:
            self._held_epoch = None
        return self._held_epoch

    @property
    def has_foreign_writes(self) -> bool:
        """Return True if there are, or may be, writes of slots that other nodes own."""
        return self._found or (not self._looked and bool(self._dirty.bytes))

    @property
    def busy(self) -> bool:
        """Return True while writes are handed in, or their removal here is not durable."""
        return self._task is not None

    async def cancel_moves(self) -> None:
        """Cancel everything, at the end of the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        try:
            while True:
                self._again = False
                await self._commit()
                by_owner = await self._foreign()
                if not by_owner:
                    if self._again:
                        continue  # a ring came while this looked
                    break
                self._found = True
                handed_in = 0
                for address, keys in by_owner.items():
                    try:
                        while keys:
                            handed_in += await self._hand_in(address, keys)
                    except MilenaError as error:
                        if failures in (0, 20):
                            log.warning("could not hand in dirty writes to node %s yet: %s", address, error)
                failures = 0 if handed_in else failures + 1
                await self._clock.sleep(BACKOFF.delay(max(1, failures), self._rng))
            self._found, self._looked, self._held_epoch = False, True, None
            self.on_done()
        finally:
            self._task = None

    async def _foreign(self) -> dict[str, list[bytes]]:
        """Return the keys to hand in, by the address of their owner's RESP server."""
        found: dict[str, list[bytes]] = {}
        # While slots move there are many rings, and all keys are looked at for each: most by their slot alone.
        foreign: set[int] = set()
        for first, last, owner, _ in self._ownership.slot_map.ranges:
            if owner.address != self._ownership.me:
                foreign.update(range(first, last + 1))
        for number, key in enumerate(list(self._dirty)):
            if slot_of(key) in foreign and self._hands_in(key):
                entry = self._dirty.get(key)
                if entry is not None and not (entry.dead is not None and entry.dead.damaged):
                    found.setdefault(self._ownership.slot_map.target(slot_of(key)).resp_address, []).append(key)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        for number, key in enumerate(list(self._tombstones)):
            slot = slot_of(key)
            if (
                slot in foreign
                and self._hands_in(key)
                and key not in self._dirty
                and not self.keeps_tombstones(slot)
            ):
                found.setdefault(self._ownership.slot_map.target(slot).resp_address, []).append(key)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        return found

    async def _hand_in(self, address: str, keys: list[bytes]) -> int:
        """Hand in a frame of `keys`, and remove them from there; return how many the owner has taken."""
        entries: list[DirtyEntry] = []
        deleted: list[tuple[bytes, Tombstone]] = []
        size = 0
        while keys and len(entries) + len(deleted) < MAX_WRITES and size < MAX_BYTES:
            key = keys.pop()
            entry, tombstone = self._dirty.get(key), self._tombstones.get(key)
            if not self._hands_in(key):
                continue
            if entry is not None and not entry.upload.uploading and self._tombstones.superseded(key, entry.version):
                # The process ended between the tombstone and the removal of the write that it supersedes.
                self._dirty_writes.retire(entry)
                if self.keeps_tombstones(slot_of(key)):
                    continue
                entry = None
            if entry is None and tombstone is not None:
                deleted.append((key, tombstone))
            elif entry is not None and not entry.upload.uploading:
                entries.append(entry)
                size += entry.size
        if not entries and not deleted:
            return 0
        await self._budget.take(size, ROOM_SECONDS)
        try:
            sent: list[tuple[DirtyEntry, Version]] = []
            frame = []
            for entry in entries:
                try:
                    frame.append(encode_write(self._write_of(entry)))
                except FailedPrecondition:
                    continue  # its record was just found damaged: it stays here as a dead letter
                sent.append((entry, entry.version))
            frame += [encode_tombstone(key, tombstone.version, tombstone.at) for key, tombstone in deleted]
            late: list[int] = []
            if frame:
                merge = command(b"MILENA.MERGE", *frame)
                late = await self._links.request(address, merge, CALL_SECONDS + seconds_for(len(merge)))
        finally:
            self._budget.release(size)
        taken = len(deleted)
        for key, tombstone in deleted:
            self._tombstones.handed_over(key, tombstone.version)
        for number, (entry, version) in enumerate(sent):
            same = self._dirty.get(entry.key) is entry and entry.version == version
            if same and not entry.upload.uploading and self._hands_in(entry.key):
                if number in late:
                    self._dirty_writes.withhold(entry, TOO_LATE)
                else:
                    self._dirty_writes.retire(entry)
                taken += 1
        self.handed_in += taken
        return taken
