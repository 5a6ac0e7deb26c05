"""Coordination. What a command on all keys requests of the other nodes, for clients that use one of them.

Only if all slots have the same owners before and after it is the result whole: between two rings keys may have been
in the part of no node, or in those of two.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from milena_cache.membership.ownership import Ownership
from milena_cache.servers.resp.state.publisher import Links
from milena_common.api.errors import NodeUnreachable, TryAgain
from milena_common.cluster.slot_map import SlotMap

RETRY_SECONDS: Final = 0.5


class OtherNodes:
    """The other nodes of the ring."""

    def __init__(self, ownership: Ownership, links: Links) -> None:
        self._ownership = ownership
        self._links = links
        self._slot_map: SlotMap | None = None  # that `_owners` is of
        self._owners = 0

    @property
    def owners(self) -> int:
        """Return a number, not 0, that is another one after a change of the owner of any slot, or of a move.

        Other changes of the ring, such as those of the holders of copies, leave all keys where they are.
        """
        slot_map = self._ownership.slot_map
        if slot_map is not self._slot_map:
            self._slot_map = slot_map
            self._owners = hash((slot_map.ranges, slot_map.pending)) or 1
        return self._owners

    def addresses(self) -> list[str]:
        """Return those of their RESP servers, in a fixed order. Raises NodeUnreachable if one has none."""
        addresses = []
        for node in self._ownership.slot_map.nodes:
            if node.address == self._ownership.me:
                continue
            if not node.resp_address:
                raise NodeUnreachable(f"node {node.address} serves no Redis protocol (RESP_ADDR)")
            addresses.append(node.resp_address)
        return sorted(addresses)

    def check_owners(self, owners: int) -> None:
        """Raise TryAgain unless the owners of all slots are still those of the number `owners`."""
        if self.owners != owners:
            raise TryAgain("the ring has changed meanwhile, and keys may be missing; begin again", RETRY_SECONDS)

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node at `address` to an encoded command. Raises MilenaError."""
        return await self._links.request(address, sent, timeout)

    async def request_all(self, sent: bytes, timeout: float) -> list[Any]:
        """Return the replies of all of them. Raises the first MilenaError."""
        return await asyncio.gather(*(self.request(address, sent, timeout) for address in self.addresses()))
