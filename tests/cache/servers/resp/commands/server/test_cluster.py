"""CLUSTER: the ring in Redis Cluster's words."""

from __future__ import annotations

from hashlib import sha1

from milena_common.cluster.slot_assignment import Member, Ring
from milena_common.cluster.slot_map import MapNode, MapRange, SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from milena_router.ring.watch_streams import ring_update
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, ring

OTHER = "127.0.0.1:50061"


def node_id(address: str) -> bytes:
    return sha1(address.encode()).hexdigest().encode()


async def test_two_nodes() -> None:
    server = ServerUnderTest()
    server.ownership.update(ring(ME, OTHER, epoch=7))
    client = server.connect()
    half = SLOTS // 2
    assert await client.value(b"CLUSTER", b"MYID") == node_id(ME)
    assert await client.value(b"CLUSTER", b"SLOTS") == [
        [0, half - 1, [b"127.0.0.1", 50052, node_id(ME), []]],
        [half, SLOTS - 1, [b"127.0.0.1", 50062, node_id(OTHER), []]],
    ]
    assert (await client.value(b"CLUSTER", b"NODES")).decode().splitlines() == [
        f"{node_id(ME).decode()} 127.0.0.1:50052@60052 myself,master - 0 0 7 connected 0-{half - 1}",
        f"{node_id(OTHER).decode()} 127.0.0.1:50062@60062 master - 0 0 7 connected {half}-{SLOTS - 1}",
    ]
    shards = await client.value(b"CLUSTER", b"SHARDS")
    assert [shard[:2] for shard in shards] == [[b"slots", [0, half - 1]], [b"slots", [half, SLOTS - 1]]]
    assert shards[1][3][0][:6] == [b"id", node_id(OTHER), b"port", 50062, b"ip", b"127.0.0.1"]
    fields = dict(line.split(b":") for line in (await client.value(b"CLUSTER", b"INFO")).split())
    assert (fields[b"cluster_state"], fields[b"cluster_size"], fields[b"cluster_current_epoch"]) == (
        b"ok",
        b"2",
        b"7",
    )
    assert await client.value(b"CLUSTER", b"REPLICAS", node_id(OTHER)) == []
    assert client.now(b"CLUSTER", b"REPLICAS", b"x") == b"-ERR Unknown node x\r\n"
    assert await client.value(b"CLUSTER", b"LINKS") == []


async def test_the_slots_of_three_nodes_are_few_ranges_after_joins_and_leaves() -> None:
    members = [
        Member(f"10.0.0.{number}:50051", addresses={"resp": f"cache-{number}.cache.prod.svc.cluster.local:6379"})
        for number in range(12)
    ]
    membered = Ring.empty()
    for epoch, (start, end) in enumerate(((0, 3), (0, 8), (2, 12), (5, 12), (5, 9), (6, 9)), 1):
        membered = membered.with_members(members[start:end], epoch)
    server = ServerUnderTest()
    server.ownership.update(SlotMap.from_update(ring_update(membered, "bucket", "cluster")))
    client = server.connect()
    parts = await client.value(b"CLUSTER", b"SLOTS")
    assert [slot for first, last, *_ in parts for slot in range(first, last + 1)] == list(range(SLOTS))
    assert {part[2][0] for part in parts} == {
        b"cache-%d.cache.prod.svc.cluster.local" % number for number in (6, 7, 8)
    }
    assert len(parts) <= 3 * 16
    assert len(server.context.ring.slots(server.ownership)) <= 48 * 1024


async def test_a_node_without_a_resp_server_is_left_out() -> None:
    server = ServerUnderTest()
    me, mute = MapNode(ME, "[::1]:6379", "a"), MapNode(OTHER, "", "b")
    ranges = (MapRange(0, 0, me, 3), MapRange(1, 1, mute, 3), MapRange(2, SLOTS - 1, me, 3))
    server.ownership.update(SlotMap(3, "bucket", (me, mute), ranges))
    client = server.connect()
    assert [part[:2] for part in await client.value(b"CLUSTER", b"SLOTS")] == [[0, 0], [2, SLOTS - 1]]
    assert (await client.value(b"CLUSTER", b"NODES")).decode().split(" ", 1)[1] == (
        f"::1:6379@16379 myself,master - 0 0 3 connected 0 2-{SLOTS - 1}\n"
    )
    assert b"cluster_state:fail\r\ncluster_slots_assigned:16383\r\n" in await client.value(b"CLUSTER", b"INFO")


async def test_no_ring_is_known_yet() -> None:
    server = ServerUnderTest()
    server.context.ownership = type(server.ownership)(ME)
    client = server.connect()
    for view in (b"SLOTS", b"SHARDS"):
        # An empty table would be taken for the truth; after an error clients ask another node.
        assert (await client.request(b"CLUSTER", view)).startswith(b"-CLUSTERDOWN this node knows of no node ")
    assert await client.value(b"CLUSTER", b"MYID") == node_id(ME)
    assert (await client.value(b"CLUSTER", b"INFO")).startswith(b"cluster_state:fail\r\n")


async def test_no_node_of_the_ring_has_slots_that_wait_for_their_lost_holders() -> None:
    server = ServerUnderTest()
    server.ownership.update(SlotMap(3, "bucket", (MapNode(ME, "[::1]:6379", "a"),), ()))
    client = server.connect()
    assert (await client.request(b"CLUSTER", b"SLOTS")).startswith(b"-CLUSTERDOWN ")
    assert b" 0 0 3 connected\n" in await client.request(b"CLUSTER", b"NODES")


async def test_keys_by_slot() -> None:
    server = ServerUnderTest(mode="back")
    await server.t.start()
    client = server.connect()
    await server.warm(client, "{tag}1", b"value")
    assert await client.value(b"GET", b"{tag}nothing") is None
    assert client.now(b"CLUSTER", b"KEYSLOT", b"{tag}1") == b":%d\r\n" % slot_of(b"tag")
    slot = str(slot_of(b"tag")).encode()
    assert await client.value(b"CLUSTER", b"COUNTKEYSINSLOT", slot) == 1
    assert await client.value(b"SET", b"{tag}2", b"value") == b"OK"
    assert await client.value(b"CLUSTER", b"COUNTKEYSINSLOT", slot) == 2
    assert sorted(await client.value(b"CLUSTER", b"GETKEYSINSLOT", slot, b"9")) == [b"{tag}1", b"{tag}2"]
    assert len(await client.value(b"CLUSTER", b"GETKEYSINSLOT", slot, b"1")) == 1
    for argv, rejection in (
        (b"COUNTKEYSINSLOT 16384", b"ERR Invalid slot"),
        (b"COUNTKEYSINSLOT x", b"ERR value is not an integer or out of range"),
        (b"GETKEYSINSLOT 1 -1", b"ERR Invalid slot or number of keys"),
    ):
        assert await client.request(b"CLUSTER", *argv.split()) == b"-%b\r\n" % rejection
    await server.t.stop()
