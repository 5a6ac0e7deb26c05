"""Coordination. What a command on all keys requests of the other nodes, for clients that use one of them.

Only if the ring is the same one before and after it is the result whole: between two rings keys may have been in
the part of no node, or in those of two.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from milena_cache.membership.ownership import Ownership
from milena_cache.servers.resp.state.publisher import Links
from milena_common.api.errors import NodeUnreachable, TryAgain

RETRY_SECONDS: Final = 0.5


class OtherNodes:
    """The other nodes of the ring."""

    def __init__(self, ownership: Ownership, links: Links) -> None:
        self._ownership = ownership
        self._links = links

    @property
    def epoch(self) -> int:
        return self._ownership.epoch

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

    def check_epoch(self, epoch: int) -> None:
        """Raise TryAgain unless the ring is still that with `epoch`."""
        if self._ownership.epoch != epoch:
            raise TryAgain("the ring has changed meanwhile, and keys may be missing; begin again", RETRY_SECONDS)

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node at `address` to an encoded command. Raises MilenaError."""
        return await self._links.request(address, sent, timeout)

    async def request_all(self, sent: bytes, timeout: float) -> list[Any]:
        """Return the replies of all of them. Raises the first MilenaError."""
        return await asyncio.gather(*(self.request(address, sent, timeout) for address in self.addresses()))
