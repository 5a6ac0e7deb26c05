"""Coordination. Calls about writes that are not in S3 yet: sent to every node, with one combined response.

A write waits in the journal of the node that acknowledged it, which may no longer own the key: so the ring does not
determine the node, and all get the request. A response without one node's part would promise too much. So a node
that cannot be reached fails the call, by name, after the others have had the request. (Messages of router and node
are the same on the wire; one class parses both.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from milena_common.api.errors import InvalidRequest, NodeLost, NoNodes
from milena_common.api.methods import FLUSH, LIST_DEAD_LETTERS, RESOLVE_DEAD_LETTERS
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Ring
from milena_common.runtime.deadlines import inner
from milena_router.forwarding.forward import Forwarder

ACTIONS = ("retry", "drop")

FAILED = 1000
# A response must fit into a message, with keys of 1 KiB and S3's error text for each.
MAX_FAILED = 10_000


class WriteBack:
    """Sends requests to the nodes of `ring`, the newest one, within `timeout` seconds for each call.

    All raise NoNodes, NodeLost, or the error that a node returned.
    """

    def __init__(self, ring: Callable[[], Ring], forwarder: Forwarder) -> None:
        self._ring = ring
        self._forwarder = forwarder

    async def flush(self, request: pb.FlushRequest, timeout: float) -> pb.FlushResponse:
        """Wait until the requested writes are in S3, or the timeout ends; return the sums over the nodes."""
        responses = await self._request_all(FLUSH.name, request.SerializeToString(), timeout)
        parts = [pb.FlushResponse.FromString(response) for response in responses]
        return pb.FlushResponse(
            remaining=sum(part.remaining for part in parts),
            failed=sum(part.failed for part in parts),
            flushed=sum(part.flushed for part in parts),
        )

    async def list_dead_letters(
        self, request: pb.ListDeadLettersRequest, timeout: float
    ) -> pb.ListDeadLettersResponse:
        """Return the dead letters of all nodes, the oldest failure first."""
        limit = min(request.limit or FAILED, MAX_FAILED)
        responses = await self._request_all(
            LIST_DEAD_LETTERS.name, pb.ListDeadLettersRequest(limit=limit).SerializeToString(), timeout
        )
        parts = [pb.ListDeadLettersResponse.FromString(response) for response in responses]
        writes = sorted((write for part in parts for write in part.writes), key=lambda write: write.failed_at)
        return pb.ListDeadLettersResponse(writes=writes[:limit], total=sum(part.total for part in parts))

    async def resolve_dead_letters(
        self, request: pb.ResolveDeadLettersRequest, timeout: float
    ) -> pb.ResolveDeadLettersResponse:
        """Retry or drop dead letters on all nodes. Raises InvalidRequest for any other action."""
        if request.action not in ACTIONS:
            raise InvalidRequest(f"action: got {request.action[:80]!r}; allowed: {', '.join(ACTIONS)}")
        if request.all == bool(request.keys):
            raise InvalidRequest("keys, all: allowed is one of them: some keys, or all failed writes")
        responses = await self._request_all(RESOLVE_DEAD_LETTERS.name, request.SerializeToString(), timeout)
        return pb.ResolveDeadLettersResponse(
            resolved=sum(pb.ResolveDeadLettersResponse.FromString(response).resolved for response in responses)
        )

    async def _request_all(self, method: str, request: bytes, timeout: float) -> list[bytes]:
        addresses = [member.address for member in self._ring().members]
        if not addresses:
            raise NoNodes("no node in the ring, so it is unknown which writes are not in S3 yet")
        # Wait for each, even after one has failed: requests in flight finish before the call returns.
        return await request_each(self._forwarder, method, dict.fromkeys(addresses, request), timeout)


async def request_each(
    forwarder: Forwarder, method: str, requests: Mapping[str, bytes], timeout: float
) -> list[bytes]:
    """Return the responses of all nodes in `requests`; the first error is raised when all have responded.

    Raises NodeLost naming the node, or the error that a node returned.
    """
    calls = (_request(forwarder, address, method, request, inner(timeout)) for address, request in requests.items())
    responses: list[bytes] = []
    for response in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(response, BaseException):
            raise response
        responses.append(response)
    return responses


async def _request(forwarder: Forwarder, address: str, method: str, request: bytes, timeout: float) -> bytes:
    try:
        return await forwarder.request(address, method, request, timeout)
    except NodeLost as error:
        raise NodeLost(f"node {address} {error}") from None
