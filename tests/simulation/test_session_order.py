"""A write that its caller has given up, and that a partition has held, is not carried out after a later one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from milena_common.api.errors import NodeLost
from milena_common.api.methods import DELETE, PUT
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slots import slot_of
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.loop import VirtualLoop
from tests.simulation.node import BUCKET, SimulatedNode
from tests.simulation.router import RouterConnection
from tests.support.s3.memory_store import MemoryStore

KEY = b"key-1"
# Shorter than the leases, which end in a partition.
TIMEOUT, HELD = 0.3, 0.5


def run(play: Callable[[SimulatedCluster, SimulatedNode], Awaitable[None]]) -> None:
    """Play `play` with a cluster of four nodes and one router, and the owner of KEY."""
    loop = VirtualLoop()
    cluster = SimulatedCluster(loop, 1, MemoryStore(BUCKET), 1)

    async def run_in_cluster() -> None:
        cluster.routers[0].start()
        for node in cluster.nodes:
            node.start()
        await cluster._until(lambda: len({node.epoch for node in cluster.nodes} - {0}) == 1, 10.0, "no ring")
        address = cluster.nodes[0].servers.ownership.slot_map.target(slot_of(KEY)).address
        await play(cluster, next(node for node in cluster.nodes if node.address == address))

    try:
        loop.run_until_complete(loop.create_task(run_in_cluster(), context=cluster.reader.process.context))
        assert not cluster.problems
    finally:
        loop.finish()


@pytest.mark.parametrize("durability", ["back", "through"])
@pytest.mark.parametrize("deletes", [False, True])
def test_a_write_held_between_router_and_node(durability: str, deletes: bool) -> None:
    async def play(cluster: SimulatedCluster, owner: SimulatedNode) -> None:
        router = RouterConnection(cluster.network, cluster.routers[0])
        put = pb.PutRequest(key=KEY, value=b"first", durability=durability)
        await router.call(PUT.name, put, TIMEOUT)
        cluster.network.block(cluster.routers[0].host, owner.host)
        if deletes:
            given_up = router.call(DELETE.name, pb.DeleteRequest(key=KEY, durability=durability), TIMEOUT)
        else:
            put.value = b"given up"
            given_up = router.call(PUT.name, put, TIMEOUT)
        began = cluster.loop.time()
        with pytest.raises(NodeLost):
            await given_up
        await cluster.reader._command(KEY.decode(), b"*3\r\n$3\r\nSET\r\n$5\r\nkey-1\r\n$5\r\nlater\r\n")
        await cluster.nodes[0].clock.sleep(began + HELD - cluster.loop.time())
        cluster.network.unblock(cluster.routers[0].host, owner.host)
        await cluster.nodes[0].clock.sleep(HELD)
        assert await cluster.reader._get(KEY.decode()) == b"later"

    run(play)
