"""Coordination. Parts of jobs on all keys below a prefix: sweeps by every node, and warming by the owners of keys.

The router keeps nothing of a job: its name and its progress are in the requests of the caller and at the nodes. A
node that joins during a sweep begins it then.
"""

from __future__ import annotations

from milena_common.api.errors import InvalidRequest, NoNodes
from milena_common.api.keys import MAX_KEY_BYTES, cache_key
from milena_common.api.methods import SWEEP, WARM
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Ring
from milena_router.forwarding.forward import Forwarder
from milena_router.forwarding.writeback import request_each

# The numbers of a WarmResponse, which add up over the nodes.
_SUMS = (
    *("warmed", "value_bytes", "present", "too_large", "absent", "no_room", "failed"),
    *("memory_bytes", "room_bytes", "room_entries"),
)


async def sweep(request: pb.SweepRequest, ring: Ring, forwarder: Forwarder, timeout: float) -> pb.SweepResponse:
    """Have every node do its next part, and return the sums over the nodes with the parts of each.

    `limit` is shared among the nodes. Raises InvalidRequest, NoNodes, NodeLost naming a node that could not be
    reached, or the error that a node returned. The other nodes have done their parts then.
    """
    if len(request.prefix) > MAX_KEY_BYTES:
        raise InvalidRequest(f"prefix: has {len(request.prefix)} bytes; allowed are {MAX_KEY_BYTES}")
    addresses = [member.address for member in ring.members]
    if not addresses:
        raise NoNodes("no node in the ring")
    shared = pb.SweepRequest()
    shared.CopyFrom(request)
    if request.limit:
        shared.limit = max(1, request.limit // len(addresses))
    responses = await request_each(
        forwarder, SWEEP.name, dict.fromkeys(addresses, shared.SerializeToString()), timeout
    )
    parts = [pb.SweepResponse.FromString(response) for response in responses]
    return pb.SweepResponse(
        done=all(part.done for part in parts),
        examined=sum(part.examined for part in parts),
        entries=sum(part.entries for part in parts),
        changed=sum(part.changed for part in parts),
        bytes=sum(part.bytes for part in parts),
        dirty=sum(part.dirty for part in parts),
        nodes=[
            pb.NodeSweep(
                address=address,
                done=part.done,
                examined=part.examined,
                entries=part.entries,
                changed=part.changed,
                bytes=part.bytes,
                dirty=part.dirty,
            )
            for address, part in zip(addresses, parts, strict=True)
        ],
    )


async def warm(
    request: pb.WarmRequest, bucket: str, ring: Ring, forwarder: Forwarder, timeout: float
) -> pb.WarmResponse:
    """Have the owners of the keys read them, and return the sums. `bucket` is the canonical name of the request's.

    Keys of slots without an owner are left. Raises as `sweep`; the other nodes have read theirs then.
    """
    if request.sizes and len(request.sizes) != len(request.keys):
        raise InvalidRequest(
            f"sizes: got {len(request.sizes)} for {len(request.keys)} keys; allowed is one for each"
        )
    if not ring.members:
        raise NoNodes("no node in the ring")
    response = pb.WarmResponse()
    by_node: dict[str, pb.WarmRequest] = {}
    for number, key in enumerate(request.keys):
        owner = ring.find(cache_key(bucket, key)).address
        if not owner:
            response.left.append(key)
            continue
        part = by_node.get(owner)
        if part is None:
            part = by_node[owner] = pb.WarmRequest(bucket=request.bucket, dry_run=request.dry_run)
        part.keys.append(key)
        if request.sizes:
            part.sizes.append(request.sizes[number])
    requests = {address: part.SerializeToString() for address, part in by_node.items()}
    serialized = await request_each(forwarder, WARM.name, requests, timeout)
    for address, done in zip(requests, map(pb.WarmResponse.FromString, serialized), strict=True):
        for name in _SUMS:
            setattr(response, name, getattr(response, name) + getattr(done, name))
        response.error = response.error or done.error
        response.left.extend(done.left)
        response.nodes.add(
            address=address,
            warmed=done.warmed,
            value_bytes=done.value_bytes,
            memory_bytes=done.memory_bytes,
            room_bytes=done.room_bytes,
            room_entries=done.room_entries,
        )
    return response
