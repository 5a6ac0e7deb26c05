"""Coordination. Dirty writes of slots that another node owns: handed in to it, and not uploaded here.

A node has such writes when it returns with its journal after another one got its slots, or when it lost slots
without a hand-over. If it uploaded them itself, two nodes would write the same keys in S3: (1) this node returns
with a put of key k; (2) the owner acknowledges a delete of k and uploads it, which leaves no version in S3; (3) the
upload of this node finds no object, and the deleted one is back. Instead the owner decides, by version, and it
alone uploads. What it knows of writes that are over already is in `Merging.superseded`: the seam for tombstones.

Active in rings whose nodes fence; in others the writes are uploaded here, with the version as the only protection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES, HandedOver, encode_write, seconds_for
from milena_cache.handover.source import BACKOFF, CALL_SECONDS, ROOM_SECONDS, STEP, Links
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.version import Version
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_common.api.errors import FailedPrecondition, MilenaError
from milena_common.cluster.slots import slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import command
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)


class FormerOwner:
    """Hands in the dirty writes of one node that are of other nodes' slots.

    `is_moving`: returns True for a slot of a move in progress; `write_of`: returns an entry as it is sent, and
    raises FailedPrecondition if its value is lost. `handed_in` is the number of writes that owners have taken.
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
        is_moving: Callable[[int], bool],
        write_of: Callable[[DirtyEntry], HandedOver],
    ) -> None:
        self.handed_in = 0
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
        """Return True if the keys of `slot` are to be handed in to its owner instead of being uploaded."""
        slot_map = self._ownership.slot_map
        if not slot_map.released_epoch:
            return False
        owner = slot_map.target(slot)
        return bool(owner.resp_address) and owner.address != self._ownership.me and not self._is_moving(slot)

    def update_moves(self) -> None:
        """Begin to hand in what the newest ring gives to other nodes."""
        if self._ownership.slot_map.released_epoch and self._dirty.bytes and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def cancel_moves(self) -> None:
        """Cancel everything, at the end of the process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        try:
            while by_owner := await self._foreign():
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
        finally:
            self._task = None

    async def _foreign(self) -> dict[str, list[bytes]]:
        """Return the keys to hand in, by the address of their owner's RESP server."""
        found: dict[str, list[bytes]] = {}
        for number, key in enumerate(list(self._dirty)):
            slot = slot_of(key)
            if self.holds_back(slot):
                entry = self._dirty.get(key)
                if entry is not None and not (entry.dead is not None and entry.dead.damaged):
                    found.setdefault(self._ownership.slot_map.target(slot).resp_address, []).append(key)
            if not (number + 1) % STEP:
                await asyncio.sleep(0)
        return found

    async def _hand_in(self, address: str, keys: list[bytes]) -> int:
        """Hand in a frame of `keys`, and remove them from there; return how many the owner has taken."""
        entries: list[DirtyEntry] = []
        size = 0
        while keys and len(entries) < MAX_WRITES and size < MAX_BYTES:
            entry = self._dirty.get(keys.pop())
            if entry is not None and not entry.upload.uploading and self.holds_back(slot_of(entry.key)):
                entries.append(entry)
                size += entry.size
        if not entries:
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
            if frame:
                merge = command(b"MILENA.MERGE", *frame)
                await self._links.request(address, merge, CALL_SECONDS + seconds_for(len(merge)))
        finally:
            self._budget.release(size)
        taken = 0
        for entry, version in sent:
            same = self._dirty.get(entry.key) is entry and entry.version == version
            if same and not entry.upload.uploading and self.holds_back(slot_of(entry.key)):
                self._dirty_writes.retire(entry)
                taken += 1
        self.handed_in += taken
        return taken
