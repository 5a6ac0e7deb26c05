"""What a node with a closed fence replies on each port, and what becomes of writes that it had begun."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from milena_cache.membership.coordinator import Lease
from milena_cache.membership.peers import Peers
from milena_common.api.errors import Moved, NoNodes, Unavailable
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from milena_common.network.addresses import Address
from milena_common.resp.encoding import command
from milena_common.resp.identity import Identity
from tests.cache.servers.resp.server_under_test import ME, ServerUnderTest, WireClient, parsed, ring
from tests.support.fake_clock import run_ready_tasks

LEASE = 6.0


class Fenced(ServerUnderTest):
    """A node that owns every slot of a ring of two, with a lease that ends 5.4 s after the start."""

    def __init__(self, variables: dict[str, str] | None = None, **node: Any) -> None:
        super().__init__(variables, **node)
        self.fence = self.servers.fence
        alone, both = ring(ME, epoch=2), ring(ME, "127.0.0.2:50051", epoch=2)
        self.fencing = SlotMap(2, alone.default_bucket, both.nodes, alone.ranges, released_epoch=2)
        self.ownership.update(self.fencing)
        self.lease()
        self.fence.adopt_ring()

    def lease(self) -> None:
        lease = Lease(LEASE, self.t.clock.now(), 2, 2, "")
        self.fence.granted("r:1", lease, self.fence.ahead())

    def lapse(self) -> None:
        """The lease ends while the process does nothing: no timer runs."""
        self.t.clock.tick(2 * LEASE)


READS = [(b"GET", b"hit"), (b"GET", b"miss"), (b"MGET", b"hit"), (b"EXISTS", b"hit"), (b"STRLEN", b"hit")]
OTHERS = [
    (b"SET", b"hit", b"2"),
    (b"SET", b"new", b"2", b"NX"),
    (b"DEL", b"hit"),
    (b"EXPIRE", b"hit", b"10"),
    (b"GETDEL", b"hit"),
    (b"SCAN", b"0"),
]


@pytest.mark.parametrize("argv", READS + OTHERS, ids=lambda argv: b" ".join(argv).decode())
@pytest.mark.parametrize("mode", ["back", "memory", "through"])
async def test_every_command_is_rejected_that_waited_in_the_socket(argv: tuple[bytes, ...], mode: str) -> None:
    server = Fenced(mode=mode)
    await server.t.start()
    client = server.connect()
    await server.warm(client, "hit", b"1")
    server.lapse()
    requests = server.t.parts.origin.counts.total()
    reply = await client.request(*argv)
    assert reply.startswith(b"-CLUSTERDOWN retry-after-ms=250 this node is fenced"), reply
    assert b"nothing was done" in reply
    assert server.t.parts.origin.counts.total() == requests
    assert not len(server.t.dirty)
    server.lease()
    assert await client.value(b"GET", b"hit") == b"1"


async def test_a_whole_pipeline_is_rejected_and_admin_commands_are_not() -> None:
    server = Fenced()
    client = server.connect()
    await server.warm(client, "hit", b"1")
    server.lapse()
    client.take()
    client.send(command(b"GET", b"hit") * 50 + command(b"PING"))
    replies = await client.replies(51)
    assert replies.count(b"-CLUSTERDOWN") == 50
    assert replies.endswith(b"+PONG\r\n")


async def test_one_comparison_a_batch_is_all_until_it_is_time() -> None:
    server = Fenced()
    client = server.connect()
    await server.warm(client, "hit", b"1")
    server.fence.may_serve(server.t.clock.now())
    checks = []
    check = server.fence.may_serve
    server.fence.may_serve = lambda now: checks.append(now) or check(now)  # type: ignore[method-assign, func-returns-value]
    for _ in range(20):
        client.now(b"GET", b"hit")
    assert checks == []
    server.t.clock.tick(0.11)
    client.send(command(b"GET", b"hit") * 20)
    assert len(checks) == 1


async def test_a_node_alone_in_its_ring_serves_on_without_a_router() -> None:
    server = Fenced()
    server.ownership.update(fencing(ring(ME, epoch=3)))
    server.fence.adopt_ring()
    client = server.connect()
    server.lapse()
    assert await client.request(b"SET", b"k", b"v") == b"+OK\r\n"


def fencing(slot_map: SlotMap) -> SlotMap:
    return slot_map.with_released_epoch(slot_map.epoch)


# ---- the API


API_CALLS = [
    ("Get", pb.GetRequest(key=b"hit")),
    ("Get", pb.GetRequest(key=b"hit", owned_since=2)),
    ("Get", pb.GetRequest(key=b"miss")),
    ("Get", pb.GetRequest(key=b"hit", metadata_only=True)),
    ("Put", pb.PutRequest(key=b"hit", value=b"2")),
    ("Put", pb.PutRequest(key=b"hit", value=b"2", owned_since=2)),
    ("Put", pb.PutRequest(key=b"new", value=b"2", if_none_match="*")),
    ("Put", pb.PutRequest(key=b"hit", value=b"2", durability="through")),
    ("Delete", pb.DeleteRequest(key=b"hit")),
    ("List", pb.ListRequest()),
]


@pytest.mark.parametrize(("method", "request_"), API_CALLS)
async def test_calls_over_resp_are_rejected(method: str, request_: Any) -> None:
    server = Fenced(mode="back")
    client = server.connect()
    await server.warm(client, "hit", b"1")
    server.lapse()
    reply = await client.request(b"MILENA.CALL", method.encode(), b"1000", request_.SerializeToString())
    assert reply.startswith(b"-CLUSTERDOWN"), reply
    assert not len(server.t.dirty)


async def over_grpc(server: Fenced, method: str, request: Any) -> bytes:
    call: Any = server.servers.grpc_methods[method][2]
    response: bytes = await call(request, 1.0)
    return response


@pytest.mark.parametrize(("method", "request_"), API_CALLS)
async def test_calls_over_grpc_are_rejected_whatever_the_caller_believes(method: str, request_: Any) -> None:
    server = Fenced(mode="back")
    await server.warm(server.connect(), "hit", b"1")
    server.lapse()
    with pytest.raises(NoNodes, match="fenced") as rejected:
        await over_grpc(server, method, request_)
    assert rejected.value.retry_after > 0


async def test_over_grpc_a_slot_of_another_node_is_not_served_in_a_ring_that_fences() -> None:
    server = Fenced()
    server.ownership.update(fencing(ring("127.0.0.2:50051", ME, epoch=3)))
    server.fence.adopt_ring()
    keys = [b"%d" % number for number in range(20)]
    foreign = next(key for key in keys if server.ownership.mine_since(key) < 0)
    with pytest.raises(Moved):
        await over_grpc(server, "Get", pb.GetRequest(key=foreign, owned_since=3))


# ---- FENCED_READS=stale


async def test_stale_serves_clean_entries_on_every_port_and_says_so() -> None:
    server = Fenced({"FENCED_READS": "stale"})
    client = server.connect()
    await server.warm(client, "hit", b"value")
    server.lapse()
    assert await client.value(b"GET", b"hit") == b"value"
    assert await client.value(b"MGET", b"hit") == [b"value"]
    assert await client.value(b"EXISTS", b"hit") == 1
    assert await client.value(b"STRLEN", b"hit") == 5
    assert await client.value(b"GETRANGE", b"hit", b"0", b"1") == b"va"
    request = pb.GetRequest(key=b"hit").SerializeToString()
    reply = parsed(await client.request(b"MILENA.CALL", b"Get", b"1000", request))
    assert pb.GetResponse.FromString(reply).outcome == "stale_fenced"
    response = await over_grpc(server, "Get", pb.GetRequest(key=b"hit", owned_since=2))
    assert pb.GetResponse.FromString(response).value == b"value"
    assert server.t.node.reads.outcomes["stale_fenced"] == 7
    assert (await client.request(b"GET", b"miss")).startswith(b"-CLUSTERDOWN")
    assert (await client.request(b"SET", b"hit", b"2")).startswith(b"-CLUSTERDOWN")
    assert (await client.request(b"SET", b"new", b"2", b"NX")).startswith(b"-CLUSTERDOWN")


async def test_stale_serves_no_dirty_write() -> None:
    server = Fenced({"FENCED_READS": "stale"}, mode="back")
    await server.t.start()
    client = server.connect()
    await server.warm(client, "k", b"1")
    assert await client.request(b"SET", b"k", b"2") == b"+OK\r\n"
    server.lapse()
    assert (await client.request(b"GET", b"k")).startswith(b"-CLUSTERDOWN")


async def test_what_is_read_behind_the_fence_is_not_tracked() -> None:
    server = Fenced({"FENCED_READS": "stale"})
    client = server.connect(resp3=True)
    await server.warm(client, "k", b"1")
    await client.request(b"CLIENT", b"TRACKING", b"ON")
    server.lapse()
    await client.request(b"GET", b"k")
    assert server.context.tracking.keys == 0


# ---- writes that had begun


async def started(client: WireClient, *argv: bytes) -> None:
    client.take()
    client.send(command(*argv))
    await run_ready_tasks()


async def test_a_lease_that_ends_during_the_sync_leaves_the_outcome_unknown_and_the_write_dirty() -> None:
    server = Fenced(mode="back")
    await server.t.start()
    client = server.connect()
    server.t.disk.gate.clear()
    await started(client, b"SET", b"k", b"v")
    server.t.clock.tick(2 * LEASE)
    server.t.disk.gate.set()
    reply = await client.replies(1)
    assert reply.startswith(b"-UNAVAILABLE the lease of this node ended"), reply
    assert b"unknown" in reply
    assert len(server.t.dirty) == 1
    await server.t.clock.advance(30.0)
    assert len(server.t.dirty) == 1
    server.lease()
    await server.t.clock.advance(5.0)
    assert len(server.t.dirty) == 0, "uploads go on when the fence is open"


async def test_a_write_through_that_ends_behind_the_fence_is_not_acknowledged() -> None:
    server = Fenced(mode="through")
    client = server.connect()
    real = server.t.store.put

    async def slow(*args: Any, **options: Any) -> Any:
        server.t.clock.tick(2 * LEASE)
        return await real(*args, **options)

    server.t.store.put = slow  # type: ignore[method-assign]
    reply = await client.request(b"SET", b"k", b"v")
    assert reply.startswith(b"-UNAVAILABLE"), reply
    assert b"unknown" in reply


async def test_a_waiting_write_makes_no_request_once_the_fence_is_closed() -> None:
    server = Fenced(mode="through")
    holding = asyncio.Event()

    async def hold() -> None:
        async with server.t.writes.lock(b"k", 100.0):
            await holding.wait()

    task = asyncio.create_task(hold())
    client = server.connect()
    await run_ready_tasks()
    server.t.clock.tick(4.0)
    await started(client, b"SET", b"k", b"v", b"NX")
    server.t.clock.tick(2.0)
    holding.set()
    reply = await client.replies(1)
    assert reply.startswith(b"-CLUSTERDOWN"), reply
    await task


async def test_readiness_and_status_say_that_the_fence_is_closed() -> None:
    server = Fenced()
    assert not [reason for reason in server.report.not_ready() if "fenced" in reason]
    server.lapse()
    assert [reason for reason in server.report.not_ready() if "fenced" in reason]
    assert [reason for reason in server.report.degraded() if "uploads wait" in reason]
    assert server.fence.closures == 1


async def test_a_delete_that_waited_for_s3_writes_nothing_when_its_slot_was_handed_over_meanwhile() -> None:
    server = Fenced()
    await server.t.start()
    client = server.connect()
    server.t.store.gate.clear()
    client.send(command(b"DEL", b"k"))
    await run_ready_tasks()
    server.ownership.hand_over([(0, SLOTS - 1)])
    server.t.store.gate.set()
    await server.t.clock.advance(0.1)
    reply = await client.replies(1)
    assert reply.startswith((b"-MOVED", b"-TRYAGAIN")), reply
    assert not len(server.t.dirty)


# ---- MILENA.PROMISE


async def test_promises_are_for_connections_that_named_cluster_and_node() -> None:
    server = Fenced()
    client = server.connect()
    assert (await client.request(b"MILENA.PROMISE", b"2", b"6000")).startswith(b"-NOPERM")
    assert (await client.request(b"MILENA.RING", b"")).startswith(b"-NOPERM")
    await client.request(b"MILENA.HELLO", b"c1", b"", b"n1")
    server.lapse()
    assert await client.value(b"MILENA.PROMISE", b"2", b"6000") == 1, "the fence is closed, and it promises still"
    newer = await client.value(b"MILENA.PROMISE", b"1", b"6000")
    assert isinstance(newer, bytes)
    assert "2:6" in server.t.disk.committed.metadata["promises"]


async def test_nodes_request_each_other_over_their_links() -> None:
    server = Fenced()
    listens = await server.server.start(Address("127.0.0.1", 0))
    peers = Peers(lambda address: Identity("c1", "", "n1"))
    try:
        assert await peers.promise(str(listens), 2, LEASE, "a:6379", 5.0) is True
        newer = await peers.promise(str(listens), 1, LEASE, "a:6379", 5.0)
        assert isinstance(newer, bytes)
        with pytest.raises(Unavailable, match="no member"):
            await peers.promise(str(listens), 3, LEASE, "a:6379", 5.0)
        assert await peers.offer_ring(str(listens), SlotMap.empty(), 5.0) == 2, "an older ring changes nothing"
    finally:
        await peers.close()
        stopping = asyncio.create_task(server.server.stop(0.0))
        await server.t.clock.advance(1.0)
        await stopping
