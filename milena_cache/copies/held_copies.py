"""Coordination. The copies that this node holds and has made: the parts, and what operators learn of them."""

from __future__ import annotations

from dataclasses import dataclass

from milena_cache.copies.collecting import Collected, Collecting
from milena_cache.copies.copy_policy import fewer_than_configured
from milena_cache.copies.holder import Holder
from milena_cache.copies.promotion import Promotion
from milena_cache.copies.replication import Replication
from milena_cache.copies.store import CopyStore
from milena_cache.membership.ownership import Ownership


@dataclass(frozen=True, slots=True)
class HeldCopies:
    """The copies that one node holds, and those of its writes; one of the `Concern`s of its status.

    configured: COPIES
    """

    ownership: Ownership
    store: CopyStore
    holder: Holder
    promotion: Promotion
    collecting: Collecting
    collected: Collected
    replication: Replication
    configured: int

    def not_ready(self) -> list[str]:
        """Copies keep no node from being ready."""
        return []

    def remarks(self) -> list[str]:
        """Return what is as it must be, and an operator should know."""
        few = fewer_than_configured(self.configured, self.replication.target, len(self.ownership.slot_map.nodes))
        return [few] if few else []

    def degraded(self) -> list[str]:
        """Return what an operator should look at."""
        reasons = []
        waiting = self.promotion.collecting_slots
        if waiting:
            reasons.append(
                f"copies: {waiting} slots of lost nodes are not served until other nodes have sent what they have"
            )
        if self.store.is_full:
            reasons.append("copies: no room for more (DIRTY_COPY_BYTES): writes of other nodes wait for S3")
        missing = self.replication.slots_with_missing_copies
        if missing:
            reasons.append(
                f"copies: {missing} slots of this node have fewer complete copies than the ring wants "
                f"({self.replication.target} journals)"
            )
        for address, why in self.replication.failing.items():
            reasons.append(f"copies: node {address} does not follow as a holder: {why}")
        ownerless = self.ownership.ownerless_slots
        if ownerless:
            reasons.append(
                f"copies: {ownerless} slots are not served, because all nodes that have their writes are lost"
            )
        return reasons
