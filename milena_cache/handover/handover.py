"""Coordination. The parts of moving slots together: changes of the ring and commands of other nodes go to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from milena_cache.handover.destination import Destination
from milena_cache.handover.former_owner import FormerOwner
from milena_cache.handover.frames import HandedOver
from milena_cache.handover.hot_entries import HotEntries
from milena_cache.handover.merging import Merging
from milena_cache.handover.old_owner import OldOwner
from milena_cache.handover.plan import moves_of
from milena_cache.handover.source import Source
from milena_cache.handover.tombstones import Tombstones
from milena_cache.membership.ownership import RETRY_SECONDS, Ownership
from milena_cache.objects.write_request import Change
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.uploads.s3_belief import UNCONFIRMED
from milena_common.api.errors import TryAgain
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import slot_of


class Copies(Protocol):
    """Copies of dirty writes at other nodes; see `milena_cache.copies`."""

    def update_ring(self) -> None:
        """Do what the newest ring requires, which `Ownership` has already."""

    def holds_back(self, slot: int) -> bool:
        """Return True while the slot is this node's, and what others have of it is collected."""


class Handover:
    """The moves of one node. `leaving`: all its slots are to be moved to others."""

    def __init__(
        self,
        ownership: Ownership,
        dirty: Dirty,
        source: Source,
        destination: Destination,
        old_owner: OldOwner,
        former_owner: FormerOwner,
        hot_entries: HotEntries,
        merging: Merging,
        tombstones: Tombstones,
    ) -> None:
        self.source = source
        self.destination = destination
        self.old_owner = old_owner
        self.former_owner = former_owner
        self.hot_entries = hot_entries
        self.leaving = False
        self._ownership = ownership
        self._dirty = dirty
        self.merging = merging
        self.tombstones = tombstones
        self.copies: Copies | None = None

    def update_moves(self, slot_map: SlotMap, epoch_before: int = 0) -> None:
        """Begin, continue and abort moves by the newest ring, which `Ownership` has already.

        `epoch_before`: of the ring before that, 0 if it is the first one.
        """
        if self.copies is not None:
            self.copies.update_ring()
        giving, receiving = moves_of(slot_map, self._ownership.me)
        self.destination.update_moves(receiving)
        self.source.update_moves(slot_map, giving)
        self.old_owner.update_nodes(slot_map)
        self.former_owner.update_moves(epoch_before, lost=self._ownership.lost_slots)

    def holds_back(self, key: bytes) -> bool:
        """Return True if the key must not be uploaded now: another node is, or may still be, the one to do it."""
        slot = slot_of(key)
        return (
            self.source.holds_back(slot)
            or self.destination.holds_back(slot)
            or self.former_owner.holds_back(slot)
            or self._ownership.waits_for_release(slot)
            or (self.copies is not None and self.copies.holds_back(slot))
            or self._ownership.may_be_elsewhere
        )

    async def merge(self, writes: Sequence[HandedOver], timeout: float) -> list[int]:
        """Take dirty writes and tombstones that another node has of slots that this node owns.

        Returns the positions of the writes that are too late: their keys may have been deleted since, which is not
        known any more. They are not taken.

        Each is compared with S3 before it is served. Slots need not be released: what their last owner hands in
        before that is served from the first read on, which would get the older object of S3 otherwise. Raises
        Moved, TryAgain or NoNodes if another node owns one of the slots, or this one is handing it over, and as
        `Merging.merge` does.
        """
        for write in writes:
            key = write.record.cache_key
            if not self._ownership.waits_for_release(slot_of(key)):
                self._ownership.owned_since(key)
        late = [number for number, write in enumerate(writes) if self._is_late(write)]
        taken = [write for number, write in enumerate(writes) if number not in set(late)] if late else writes
        await self.merging.merge(taken, UNCONFIRMED, timeout)
        return late

    def _is_late(self, write: HandedOver) -> bool:
        key, version = write.record.cache_key, write.record.version
        if write.gone or write.tombstone or write.forced or key in self._dirty:
            return False
        return self.tombstones.is_undecided(key, version)

    def check_owner(self, change: Change) -> None:
        """Raise as `Ownership.owned_since` does if this node does not serve the key, in a ring of nodes that fence.

        A write that has waited may have been admitted before its slot was stopped. If it took effect after that,
        the destination would not know of it.

        One with a condition raises TryAgain also if the slot has been away and is back: (1) INCR reads 5, and
        waits; (2) the slot is lost to another node, which counts to 7; (3) the slot is this node's again; (4) the
        condition of the INCR would be met by the 5 that this node had in its memory then.
        """
        if self._ownership.slot_map.released_epoch:
            key = change.target.cache_key
            since = self._ownership.owned_since(key)
            if change.conditional and since > change.owned_since:
                raise TryAgain(
                    f"slot {slot_of(key)} was another node's since this request came; nothing was done",
                    RETRY_SECONDS,
                )

    @property
    def has_slots(self) -> bool:
        """Return True while this node serves slots, or has handed over some that the ring still has as its own.

        Also while it collects the writes of some, which it has to have before it hands them over.
        """
        return self.source.busy or self._ownership.slots > 0 or bool(self._ownership.uncollected)

    @property
    def can_leave(self) -> bool:
        """Return True if there are other nodes that take slots over."""
        slot_map = self._ownership.slot_map
        return bool(slot_map.released_epoch) and len(slot_map.nodes) > 1

    async def cancel_moves(self) -> None:
        """Cancel all moves, at the end of the process."""
        await self.source.cancel_moves()
        await self.former_owner.cancel_moves()
        await self.hot_entries.cancel_moves()
