"""Coordination. Connections from this node to the RESP servers of other nodes, over which it invalidates keys
there.

A connection begins with the identity of the node that the ring has at the address. When the ring has another
process there, the connection is replaced, so that no request reaches a process for which it was not meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from milena_common.api.errors import FailedPrecondition, NodeLost
from milena_common.api.keys import split_cache_key
from milena_common.api.methods import INVALIDATE
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.resp.client_commands import call
from milena_common.resp.identity import Identity
from milena_common.resp.link import RespLink

TIMEOUT_SECONDS = 2.0


class Peers:
    """Connections by address, opened at the first use.

    `identity_at`: returns the identity of the node that must be at an address
    """

    def __init__(self, identity_at: Callable[[str], Identity]) -> None:
        self._identity_at = identity_at
        self._links: dict[str, tuple[Identity, RespLink]] = {}

    async def invalidate_at(self, address: str, key: bytes, timeout: float) -> None:
        """Have the node at `address` invalidate a cache key, within `timeout` seconds. Raises MilenaError."""
        identity = self._identity_at(address)
        known, link = self._links.get(address, (identity, None))
        if link is None or known != identity:
            if link is not None:
                await link.close(0, NodeLost(f"node {address} is another one now"))
            link = RespLink(
                address, timeout=TIMEOUT_SECONDS, identity=identity, who=f"node {address} ", name="milena-node"
            )
            self._links[address] = identity, link
        stream = await link.open(timeout)
        if stream is None:
            raise link.error or NodeLost(f"node {address} cannot be reached")
        bucket, object_key = split_cache_key(key)
        request = pb.InvalidateRequest(key=object_key, bucket=bucket).SerializeToString()
        await stream.call(call(INVALIDATE.name, timeout, request), timeout)

    async def close(self) -> None:
        error = FailedPrecondition("the node stops")
        await asyncio.gather(*(link.close(0, error) for _, link in self._links.values()))
