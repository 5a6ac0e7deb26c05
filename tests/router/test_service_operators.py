"""What operators request of a router: missing nodes, what nodes report, and refreshing keys."""

from __future__ import annotations

import grpc
from prometheus_client import generate_latest

from milena_common.api.errors import InvalidRequest, NodeLost, NoNodes
from milena_common.api.keys import cache_key
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.missing_node import MissingNode
from milena_common.cluster.slot_assignment import Ring
from milena_router.metrics import router_registry
from tests.router.router_under_test import SOON, Router, running_router

A, B = "a:1", "b:1"


def joining(address: str, **more: object) -> pb.JoinRequest:
    fields = {"node_id": f"id-{address}", "default_bucket": "photos", "journal_id": f"journal-{address}"}
    return pb.JoinRequest(address=address, **fields | more)


async def lose(router: Router, address: str) -> None:
    """Let the lease of a node end, while the other one renews its own."""
    kept = A if address == B else B
    for _ in range(12):
        await router.clock.advance(router.config.lease_seconds / 8)
        await router.stub.Join(joining(kept, dirty_entries=0), timeout=SOON)
        router.leases.membership.expire(router.clock.now(), router.clock.wall())


async def test_nodes_shows_what_each_has_reported() -> None:
    async with running_router() as router:
        await router.stub.Join(joining(A, dirty_entries=3, dead_letters=1, degraded=["S3: down"]), timeout=SOON)
        await router.stub.Join(pb.JoinRequest(address=B, default_bucket="photos"), timeout=SOON)
        nodes = (await router.stub.Nodes(pb.NodesRequest(), timeout=SOON)).nodes
        assert [(n.HasField("dirty_entries"), n.dirty_entries, n.dead_letters, [*n.degraded]) for n in nodes] == [
            (True, 3, 1, ["S3: down"]),
            (False, 0, 0, []),
        ]


async def test_a_missing_node_is_shown_until_it_is_written_off() -> None:
    async with running_router() as router:
        await router.stub.Join(joining(A), timeout=SOON)
        await router.stub.Join(joining(B, dirty_entries=9), timeout=SOON)
        await lose(router, B)
        (missing,) = (await router.stub.Nodes(pb.NodesRequest(), timeout=SOON)).missing
        assert MissingNode.from_message(missing).dirty_entries == 9
        for address, found in ((A, False), (B, True), (B, False)):
            request = pb.LeaveRequest(address=address, forget=True)
            assert (await router.stub.Leave(request, timeout=SOON)).successful is found
        reply = await router.stub.Nodes(pb.NodesRequest(), timeout=SOON)
        assert ([node.address for node in reply.nodes], [*reply.missing]) == ([A], [])


async def test_the_metrics_have_each_missing_node() -> None:
    async with running_router() as router:
        await router.stub.Join(joining(A), timeout=SOON)
        await router.stub.Join(joining(B, dirty_entries=9, dead_letters=1), timeout=SOON)
        registry = router_registry(router.calls, router.leases, router.limiter, router.watchers, router.budget)
        assert registry.get_sample_value("milena_router_missing_nodes") == 0
        await lose(router, B)
        assert registry.get_sample_value("milena_router_missing_nodes") == 1
        labels = {"node": B, "journal": f"journal-{B}"}
        name = "milena_router_missing_node_dirty_entries"
        assert registry.get_sample_value(name, labels) == 10
        await lose(router, A)
        value = registry.get_sample_value(name, {"node": A, "journal": f"journal-{A}"})
        assert value == 0
        router.leases.membership.missing.restore([MissingNode("c:1", "", "", None, 0, 1.0, "lost")], ())
        value = registry.get_sample_value(name, {"node": "c:1", "journal": ""})
        assert value == -1, "it is not known how many"
        assert generate_latest(registry)


async def test_stats_passes_on_why_a_node_is_degraded() -> None:
    async with running_router() as router:
        await router.join(A)
        router.nodes[A].reply = cache_pb.StatsResponse(degraded=["S3: down", "journal: full"]).SerializeToString()
        (stats,) = (await router.stub.Stats(pb.StatsRequest(), timeout=SOON)).nodes
        assert [*stats.degraded] == ["S3: down", "journal: full"]


def owner_of(ring: Ring, key: bytes) -> str:
    return ring.find(cache_key("", key)).address


async def test_keys_are_refreshed_at_their_owners_and_a_prefix_everywhere() -> None:
    async with running_router() as router:
        await router.join(A, B)
        for number, node in enumerate((A, B), 1):
            reply = cache_pb.RefreshResponse(refreshed=number, dirty=10 * number)
            router.nodes[node].reply = reply.SerializeToString()
        keys = [b"k%d" % number for number in range(20)]
        reply = await router.stub.Refresh(pb.RefreshRequest(keys=keys, bucket="photos"), timeout=SOON)
        assert (reply.refreshed, reply.dirty) == (3, 30)
        requests_at_nodes = {
            node: cache_pb.RefreshRequest.FromString(sent) for node, _, sent in router.requests_at_nodes()
        }
        for node, request in requests_at_nodes.items():
            assert [*request.keys] == [key for key in keys if owner_of(router.leases.ring, key) == node]
            assert request.bucket == "photos"
        for fake in router.nodes.nodes.values():
            fake.calls.clear()
        await router.stub.Refresh(pb.RefreshRequest(prefix=b"logs/"), timeout=SOON)
        assert sorted(
            (node, cache_pb.RefreshRequest.FromString(sent).prefix) for node, _, sent in router.requests_at_nodes()
        ) == [
            (A, b"logs/"),
            (B, b"logs/"),
        ]


async def test_a_refresh_that_a_node_missed_says_which() -> None:
    async with running_router() as router:
        await router.join(A, B)
        router.nodes[B].reply = NodeLost("cannot be reached")
        status, error = await router.rejection("Refresh", pb.RefreshRequest(prefix=b"logs/"))
        assert status is grpc.StatusCode.UNAVAILABLE
        assert "node b:1 cannot be reached" in str(error)
        assert {node for node, *_ in router.requests_at_nodes()} == {A, B}, "the others have done it"


async def test_what_cannot_be_refreshed() -> None:
    async with running_router() as router:
        _, error = await router.rejection("Refresh", pb.RefreshRequest(prefix=b"x"))
        assert isinstance(error, NoNodes)
        await router.join(A)
        for request in (
            pb.RefreshRequest(keys=[b"k"], prefix=b"x"),
            pb.RefreshRequest(keys=[b""]),
            pb.RefreshRequest(prefix=b"x" * 1025),
            pb.RefreshRequest(keys=[b"k"], bucket="No Bucket"),
        ):
            _, error = await router.rejection("Refresh", request)
            assert isinstance(error, InvalidRequest), error


async def test_every_node_does_its_part_of_a_sweep() -> None:
    async with running_router() as router:
        await router.join(A, B)
        for number, node in enumerate((A, B), 1):
            part = cache_pb.SweepResponse(
                done=node == A, examined=number, entries=2, changed=3 * number, bytes=4, dirty=5
            )
            router.nodes[node].reply = part.SerializeToString()
        request = pb.SweepRequest(job="1" * 32, prefix=b"logs/", action="purge", dry_run=True, limit=101)
        reply = await router.stub.Sweep(request, timeout=SOON)
        assert not reply.done, "one node is not"
        assert (reply.examined, reply.entries, reply.changed, reply.bytes, reply.dirty) == (3, 4, 9, 8, 10)
        assert {node.address: (node.done, node.changed) for node in reply.nodes} == {
            A: (True, 3),
            B: (False, 6),
        }
        request.limit = 50
        sent = {node: cache_pb.SweepRequest.FromString(each) for node, _, each in router.requests_at_nodes()}
        assert sent == dict.fromkeys((A, B), cache_pb.SweepRequest.FromString(request.SerializeToString()))


async def test_a_sweep_that_a_node_missed_says_which() -> None:
    async with running_router() as router:
        await router.join(A, B)
        router.nodes[B].reply = NodeLost("cannot be reached")
        status, error = await router.rejection("Sweep", pb.SweepRequest(job="1" * 32, action="purge"))
        assert status is grpc.StatusCode.UNAVAILABLE
        assert "node b:1 cannot be reached" in str(error)


async def test_objects_are_warmed_by_the_owners_of_their_keys() -> None:
    async with running_router() as router:
        await router.join(A, B)
        keys = [b"k%d" % number for number in range(20)]
        for number, node in enumerate((A, B), 1):
            part = cache_pb.WarmResponse(
                warmed=number, value_bytes=10, no_room=1, room_bytes=7, error="no", left=[b"k%d" % number]
            )
            router.nodes[node].reply = part.SerializeToString()
        request = pb.WarmRequest(keys=keys, sizes=range(20), bucket="photos", dry_run=True)
        reply = await router.stub.Warm(request, timeout=SOON)
        assert (reply.warmed, reply.value_bytes, reply.no_room) == (3, 20, 2)
        assert (reply.room_bytes, reply.error) == (14, "no")
        assert sorted(reply.left) == [b"k1", b"k2"]
        assert {node.address: node.warmed for node in reply.nodes} == {A: 1, B: 2}
        for node, _, serialized in router.requests_at_nodes():
            sent = cache_pb.WarmRequest.FromString(serialized)
            assert [*sent.keys] == [key for key in keys if owner_of(router.leases.ring, key) == node]
            assert [*sent.sizes] == [int(key[1:]) for key in sent.keys]
            assert (sent.bucket, sent.dry_run) == ("photos", True)


async def test_what_is_no_job() -> None:
    async with running_router() as router:
        for method, request in (("Sweep", pb.SweepRequest()), ("Warm", pb.WarmRequest(keys=[b"k"]))):
            _, error = await router.rejection(method, request)
            assert isinstance(error, NoNodes)
        await router.join(A)
        for method, request in (
            ("Sweep", pb.SweepRequest(prefix=b"x" * 1025)),
            ("Sweep", pb.SweepRequest(bucket="No Bucket")),
            ("Warm", pb.WarmRequest(keys=[b""])),
            ("Warm", pb.WarmRequest(keys=[b"k"], sizes=[1, 2])),
            ("Warm", pb.WarmRequest(keys=[b"k"], bucket="No Bucket")),
        ):
            _, error = await router.rejection(method, request)
            assert isinstance(error, InvalidRequest), error


async def test_a_process_on_the_journal_of_the_one_before_takes_its_place_at_once() -> None:
    """A message of a process that has ended may arrive late, at a router that has just started."""
    async with running_router() as router:
        before = pb.JoinRequest(address="127.0.0.1:1", node_id="one", default_bucket="photos", journal_id="journal")
        after = pb.JoinRequest(address="127.0.0.1:1", node_id="two", default_bucket="photos", journal_id="journal")
        lease = router.stub.KeepLease()
        await lease.write(before)
        assert (await lease.read()).successful
        assert (await router.stub.Join(after, timeout=SOON)).successful
        await lease.done_writing()


async def test_the_address_of_a_live_node_is_not_given_to_another_process() -> None:
    async with running_router() as router:
        mine = pb.JoinRequest(address="127.0.0.1:1", node_id="one", default_bucket="photos")
        other = pb.JoinRequest(address="127.0.0.1:1", node_id="two", default_bucket="photos")
        lease = router.stub.KeepLease()
        await lease.write(mine)
        assert (await lease.read()).successful
        status, error = await router.rejection("Join", other)
        assert status is grpc.StatusCode.FAILED_PRECONDITION
        assert "is that of a node that is alive" in str(error)
        assert (await router.stub.Join(mine, timeout=SOON)).successful
        await lease.done_writing()
        assert await lease.read() is grpc.aio.EOF
        assert (await router.stub.Join(other, timeout=SOON)).successful, (
            "its process has ended, as a restarted one's"
        )


async def test_sizes_and_hot_keys_are_those_of_every_node_and_one_that_is_lost_says_why() -> None:
    async with running_router() as router:
        await router.join(A, B)
        router.nodes[A].reply = cache_pb.SizeResponse(nodes=[cache_pb.NodeSize(seconds=7)]).SerializeToString()
        router.nodes[B].reply = NodeLost("cannot be reached")
        sizes = (await router.stub.Size(pb.SizeRequest(), timeout=SOON)).nodes
        assert [(node.address, node.seconds, bool(node.error)) for node in sizes] == [(A, 7, False), (B, 0, True)]
        hot = cache_pb.NodeHotKeys(reads=3, by_reads=[cache_pb.HotKey(key=b"k", reads=2)])
        router.nodes[A].reply = cache_pb.HotKeysResponse(nodes=[hot]).SerializeToString()
        nodes = (await router.stub.HotKeys(pb.HotKeysRequest(reset=True), timeout=SOON)).nodes
        assert [(node.address, [*node.by_reads], bool(node.error)) for node in nodes] == [
            (A, [pb.HotKey(key=b"k", reads=2)], False),
            (B, [], True),
        ]
        reset = [each for _, method, each in router.requests_at_nodes() if "HotKeys" in method]
        assert set(reset) == {cache_pb.HotKeysRequest(reset=True).SerializeToString()}
