"""Coordination. Drops clean entries: those of given keys at their owners, those below a prefix at all nodes.

A node that gets a slot during the call has no older entry of it to serve: entries from before it owned the slot are
stale, and those that it has read since are newer than the call.
"""

from __future__ import annotations

from milena_common.api.errors import InvalidRequest, NoNodes
from milena_common.api.keys import MAX_KEY_BYTES, cache_key
from milena_common.api.methods import REFRESH
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Ring
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.writeback import request_each


async def refresh(
    request: pb.RefreshRequest, bucket: str, ring: Ring, forwarder: Forwarder, timeout: float
) -> pb.RefreshResponse:
    """Return the sums over the nodes. `bucket` is the canonical name of the request's; `timeout` in seconds.

    Raises InvalidRequest, NoNodes, NodeLost naming a node that could not be reached, or the error that a node
    returned. The other nodes have done it then.
    """
    if request.keys and request.prefix:
        raise InvalidRequest("keys, prefix: allowed is one of them")
    if len(request.prefix) > MAX_KEY_BYTES:
        raise InvalidRequest(f"prefix: has {len(request.prefix)} bytes; allowed are {MAX_KEY_BYTES}")
    if not ring.members:
        raise NoNodes("no node in the ring")
    if request.keys:
        by_node: dict[str, pb.RefreshRequest] = {}
        for key in request.keys:
            owner = ring.find(cache_key(bucket, key)).address
            by_node.setdefault(owner, pb.RefreshRequest(bucket=request.bucket)).keys.append(key)
        requests = {address: part.SerializeToString() for address, part in by_node.items()}
    else:
        requests = dict.fromkeys((member.address for member in ring.members), request.SerializeToString())
    parts = [
        pb.RefreshResponse.FromString(response)
        for response in await request_each(forwarder, REFRESH.name, requests, timeout)
    ]
    return pb.RefreshResponse(
        refreshed=sum(part.refreshed for part in parts), dirty=sum(part.dirty for part in parts)
    )
