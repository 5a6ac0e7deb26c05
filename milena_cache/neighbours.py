"""Coordination. The connections of a node to the Redis doors of others."""

from __future__ import annotations

import asyncio

from milena_client.resp_async import RespLink
from milena_client.resp_wire import call
from milena_common.errors import FailedPrecondition, NodeLost
from milena_common.keys import split_cache_key
from milena_common.pb import cache_server_pb2 as pb

TIMEOUT_SECONDS = 2.0


class Neighbours:
    """Links by address, made when they are needed."""

    def __init__(self) -> None:
        self._links: dict[str, RespLink] = {}

    async def forget(self, address: str, key: bytes, timeout: float) -> None:
        """Make the node at `address` believe nothing of a cache key. Raises MilenaError."""
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = RespLink(
                address, timeout=TIMEOUT_SECONDS, who=f"node {address} ", name="milena-node"
            )
        stream = await link.open(timeout)
        if stream is None:
            raise link.error or NodeLost(f"node {address} cannot be reached")
        bucket, bare = split_cache_key(key)
        request = pb.ForgetRequest(key=bare, bucket=bucket).SerializeToString()
        await stream.call(call("Forget", timeout, request), timeout)

    async def close(self) -> None:
        error = FailedPrecondition("the node stops")
        await asyncio.gather(*(link.close(0, error) for link in self._links.values()))
