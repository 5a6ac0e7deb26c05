"""Coordination. What all nodes of the ring know of their reads, from samples of them: memory sizes and hot keys.

A node that does not respond is listed with the reason, so that the others are shown.
"""

from __future__ import annotations

import asyncio

from milena_common.api.errors import MilenaError
from milena_common.api.methods import HOT_KEYS, SIZE
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_assignment import Ring
from milena_router.forwarding.forward import Forwarder


async def size(request: pb.SizeRequest, ring: Ring, forwarder: Forwarder, timeout: float) -> pb.SizeResponse:
    """Return what memories of other sizes would mean for each node."""

    async def of_node(address: str) -> pb.NodeSize:
        try:
            response = await forwarder.request(address, SIZE.name, request.SerializeToString(), timeout)
        except MilenaError as error:
            return pb.NodeSize(address=address, error=str(error))
        (node,) = pb.SizeResponse.FromString(response).nodes
        node.address = address
        return node

    nodes = await asyncio.gather(*(of_node(member.address) for member in ring.members))
    return pb.SizeResponse(nodes=nodes)


async def hot_keys(
    request: pb.HotKeysRequest, ring: Ring, forwarder: Forwarder, timeout: float
) -> pb.HotKeysResponse:
    """Return the hot keys of each node."""

    async def of_node(address: str) -> pb.NodeHotKeys:
        try:
            response = await forwarder.request(address, HOT_KEYS.name, request.SerializeToString(), timeout)
        except MilenaError as error:
            return pb.NodeHotKeys(address=address, error=str(error))
        (node,) = pb.HotKeysResponse.FromString(response).nodes
        node.address = address
        return node

    nodes = await asyncio.gather(*(of_node(member.address) for member in ring.members))
    return pb.HotKeysResponse(nodes=nodes)
