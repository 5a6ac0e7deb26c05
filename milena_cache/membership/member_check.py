"""Coordination. Confirms to a router that the process of another member has ended.

The router has found that the member's ports refuse connections, and so has this node if it agrees: over a network
path of its own. It tries the addresses that its own ring has for exactly this process, and no others, so that no
caller can have it connect elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from milena_cache.membership.ownership import Ownership
from milena_common.network.exited import RejectsConnections, ports_reject


class MemberCheck:
    """`rejects_connections` tries an address for some seconds."""

    def __init__(
        self,
        ownership: Ownership,
        rejects_connections: RejectsConnections,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._ownership = ownership
        self._rejects_connections = rejects_connections
        self._sleep = sleep

    async def exited(self, address: str, node_id: str) -> bool:
        """Return True if the process `node_id`, another member of the ring at the gRPC `address`, has ended."""
        ownership = self._ownership
        for node in ownership.slot_map.nodes:
            if node.address == address != ownership.me and node.node_id == node_id and node_id:
                ports = [address, *dict.fromkeys(filter(None, [node.resp_address, node.resp_tls_address]))]
                return await ports_reject(ports, self._rejects_connections, self._sleep)
        return False
