"""Coordination. Calls about writes that are not in S3 yet: every node is asked, and the answers become one.

A write waits in the journal of the node that acknowledged it, which need not own the key any more: so the ring
cannot say whom to ask, and all are asked. An answer that left a node out would promise too much. So one node that
cannot be asked fails the call, by name, after the others have had the request. (Messages of router and node are
the same on the wire; one class reads both.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from milena_common.api.errors import InvalidRequest, NodeLost, NoNodes
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Ring
from milena_common.runtime.deadlines import inner
from milena_router.forwarding.forward import Forwarder

ACTIONS = ("retry", "drop")

FAILED = 1000
# An answer must fit into a message, with keys of 1 KiB and S3's words for each.
MAX_FAILED = 10_000


class WriteBack:
    """Asks the nodes of `ring`, the newest one, within `timeout` seconds for each call.

    All raise NoNodes, NodeLost, or what a node answered.
    """

    def __init__(self, ring: Callable[[], Ring], forwarder: Forwarder) -> None:
        self._ring = ring
        self._forwarder = forwarder

    async def flush(self, request: pb.FlushRequest, timeout: float) -> pb.FlushResponse:
        """Wait until S3 has what was asked for, or the time is up; the sums over the nodes."""
        responses = await self._request_all("Flush", request.SerializeToString(), timeout)
        parts = [pb.FlushResponse.FromString(response) for response in responses]
        return pb.FlushResponse(
            remaining=sum(part.remaining for part in parts),
            failed=sum(part.failed for part in parts),
            flushed=sum(part.flushed for part in parts),
        )

    async def list_dead_letters(
        self, request: pb.ListDeadLettersRequest, timeout: float
    ) -> pb.ListDeadLettersResponse:
        """The failed writes of all nodes, those that failed first first."""
        limit = min(request.limit or FAILED, MAX_FAILED)
        responses = await self._request_all(
            "ListDeadLetters", pb.ListDeadLettersRequest(limit=limit).SerializeToString(), timeout
        )
        parts = [pb.ListDeadLettersResponse.FromString(response) for response in responses]
        writes = sorted((write for part in parts for write in part.writes), key=lambda write: write.failed_at)
        return pb.ListDeadLettersResponse(writes=writes[:limit], total=sum(part.total for part in parts))

    async def resolve_dead_letters(
        self, request: pb.ResolveDeadLettersRequest, timeout: float
    ) -> pb.ResolveDeadLettersResponse:
        """Retry or drop failed writes, wherever they are. Raises InvalidRequest for any other action."""
        if request.action not in ACTIONS:
            raise InvalidRequest(f"action: got {request.action[:80]!r}; allowed: {', '.join(ACTIONS)}")
        if request.all == bool(request.keys):
            raise InvalidRequest("keys, all: allowed is one of them: some keys, or all failed writes")
        responses = await self._request_all("ResolveDeadLetters", request.SerializeToString(), timeout)
        return pb.ResolveDeadLettersResponse(
            resolved=sum(pb.ResolveDeadLettersResponse.FromString(response).resolved for response in responses)
        )

    async def _request_all(self, method: str, request: bytes, timeout: float) -> list[bytes]:
        addresses = [member.address for member in self._ring().members]
        if not addresses:
            raise NoNodes("no node in the ring, so nobody knows which writes are not in S3 yet")
        # Each is waited for, also when another one has failed: what is begun is finished before it is told.
        return await request_each(self._forwarder, method, dict.fromkeys(addresses, request), timeout)


async def request_each(
    forwarder: Forwarder, method: str, requests: Mapping[str, bytes], timeout: float
) -> list[bytes]:
    """The answers of all nodes in `requests`, each to its own; the first error is raised when all have answered.

    Raises NodeLost naming the node, or what a node answered.
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
