"""The ring for clients and nodes, with real processes: sent at once and at each change, withheld, outlived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS, slot_of
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import cache_stub, rejection, router_stub
from tests.support.cluster import Cluster
from tests.support.processes import Server
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

SOON = 30.0
# Less than a router gives the calls that are in flight when it stops.
WITHOUT_GRACE = 7.0

Next = Callable[[], SlotMap]


@contextmanager
def watching(address: str) -> Iterator[Next]:
    """Follow the ring of the router at `address`: gives what blocks for the next one."""
    with router_stub(address) as stub:
        call = stub.WatchRing(pb.WatchRingRequest(), timeout=4 * SOON)
        yield lambda: SlotMap.from_update(next(call))
        call.cancel()


def addresses(slot_map: SlotMap) -> set[str]:
    return {node.address for node in slot_map.nodes}


def ring_with(next_ring: Next, expected: set[str]) -> SlotMap:
    """The next ring of these `expected` nodes. Rings before it have moves that were confirmed meanwhile.

    Blocks until it comes, at most until the call's deadline, which then raises `grpc.RpcError`.
    """
    while addresses(ring := next_ring()) != expected:
        pass
    return ring


def owned(slot_map: SlotMap) -> int:
    return sum(last + 1 - first for first, last, _, _ in slot_map.ranges)


def known_epoch(node: Server) -> float:
    return node.metrics().value("milena_ring_epoch")


def wait_for_epoch(node: Server, reached: Callable[[float], bool]) -> float:
    wait_until(f"{node.name} knows the ring", lambda: reached(known_epoch(node)), SOON)
    return known_epoch(node)


def test_the_ring_comes_at_once_and_then_each_change(cluster: Cluster) -> None:
    with watching(cluster.address) as next_ring, router_stub(cluster.address) as router:
        ring = next_ring()
        members = router.Nodes(pb.NodesRequest(), timeout=SOON)
        assert ring.epoch == members.epoch
        assert ring.default_bucket == cluster.bucket
        assert {node.address: node.node_id for node in ring.nodes} == {
            node.address: node.node_id for node in members.nodes
        }
        assert owned(ring) == SLOTS
        for key in (b"a", b"b", b"{c}d", b"e/f"):
            owner = router.Owner(pb.OwnerRequest(key=key), timeout=SOON)
            target = ring.target(slot_of(key))
            assert (target.slot, target.address, target.owned_since) == (
                owner.slot,
                owner.address,
                owner.owned_since,
            )

        joined = cluster.add_node()
        larger = ring_with(next_ring, addresses(ring) | {joined.address})
        assert larger.epoch > ring.epoch

        joined.terminate()
        joined.wait()
        left = ring_with(next_ring, addresses(ring))
        assert left.epoch > larger.epoch

        cluster.kill_node(cluster.nodes[0])
        lost = ring_with(next_ring, addresses(ring) - {cluster.nodes[0].address})
        assert owned(lost) == SLOTS


def test_nodes_know_the_ring_and_their_slots(cluster: Cluster) -> None:
    with watching(cluster.address) as next_ring:
        epoch = next_ring().epoch
    for node in cluster.nodes:
        wait_for_epoch(node, lambda known: known >= epoch)
    slots = [node.metrics().value("milena_ring_slots") for node in cluster.nodes]
    assert sum(slots) == SLOTS
    assert all(slots)


def test_nodes_keep_the_ring_while_their_router_is_gone(start_cluster: StartCluster) -> None:
    cluster = start_cluster(nodes=1, router_env={"LEASE_SECONDS": "1"})
    node = cluster.nodes[0]
    before = wait_for_epoch(node, bool)
    cluster.router.kill()
    # The lease ends, and with it the readiness; the slots are the node's own still.
    wait_until("the lease is over", lambda: not node.ready(), SOON)
    assert node.metrics().value("milena_ring_epoch") == before
    assert node.metrics().value("milena_ring_slots") == SLOTS
    with cache_stub(node.address) as stub:
        assert not stub.Get(cache_pb.GetRequest(key=b"k"), timeout=SOON).successful
    cluster.router.restart()
    wait_until("the node has joined again", node.ready, SOON)
    cluster.wait_for_ring(1)
    assert cluster.router.metrics().value("milena_router_ring_epoch") == before, "it is the ring of before"
    assert node.metrics().value("milena_ring_epoch") == before


def test_withheld_from_clients_and_not_from_nodes(start_cluster: StartCluster) -> None:
    cluster = start_cluster(nodes=2, router_env={"DIRECT_ACCESS": "false"})
    with router_stub(cluster.address) as router:
        for node_id in ("", "somebody"):
            status, details = rejection(
                lambda node_id=node_id: next(router.WatchRing(pb.WatchRingRequest(node_id=node_id), timeout=SOON))
            )
            assert status == "FAILED_PRECONDITION"
            assert "DIRECT_ACCESS" in details
        router.Put(pb.PutRequest(key=b"k", value=b"v"), timeout=SOON)
        assert router.Get(pb.GetRequest(key=b"k"), timeout=SOON).value == b"v"
        epoch = router.Nodes(pb.NodesRequest(), timeout=SOON).epoch
    for node in cluster.nodes:
        wait_for_epoch(node, lambda known: known >= epoch)
    assert cluster.router.metrics().value("milena_router_ring_watchers") == 2


def test_watchers_do_not_hold_up_a_router_that_stops(start_cluster: StartCluster) -> None:
    cluster = start_cluster(nodes=1)
    with router_stub(cluster.address) as router:
        calls = [router.WatchRing(pb.WatchRingRequest()) for _ in range(50)]
        for call in calls:
            next(call)
        assert cluster.router.metrics().value("milena_router_ring_watchers") == 51
        cluster.router.terminate()
        assert cluster.router.wait(WITHOUT_GRACE) == 0
        for call in calls:
            with pytest.raises(StopIteration):
                next(call)


def test_watchers_that_died_are_forgotten(cluster: Cluster) -> None:
    own = cluster.router.metrics().value("milena_router_ring_watchers")
    with watching(cluster.address) as next_ring:
        next_ring()
        assert cluster.router.metrics().value("milena_router_ring_watchers") == own + 1
    cluster.kill_node(cluster.nodes[0])
    wait_until(
        "the router has forgotten them",
        lambda: cluster.router.metrics().value("milena_router_ring_watchers") == own - 1,
        SOON,
    )


def test_a_node_has_a_rate_limit_of_its_own(start_cluster: StartCluster) -> None:
    cluster = start_cluster(nodes=1, node_env={"RATE_LIMIT": "1"})
    node = cluster.nodes[0]

    def get() -> Any:
        return stub.Get(cache_pb.GetRequest(key=b"k"), timeout=SOON)

    def rejected() -> tuple[str, str] | None:
        try:
            return rejection(get)
        except AssertionError:
            return None

    with cache_stub(node.address) as stub:
        status, details = wait_until("the limit is reached", rejected, SOON, pause=0)
    assert status == "RESOURCE_EXHAUSTED"
    assert "this node's RATE_LIMIT of 1 requests a second" in details
    assert node.metrics().value("milena_rate_limited_total") >= 1
