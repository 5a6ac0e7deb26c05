"""Only the router restarts, and addresses get other owners: nothing is lost or goes back, S3 gets no request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from milena_client import ConditionFailed, Milena, MilenaError, NearCache, Unavailable
from milena_client.admin import Admin
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import rejection, router_stub
from tests.support.cluster import Cluster
from tests.support.processes import Server
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# The restarted router must not know that the cluster was new once.
DEFAULT = {"RING_RECOVERY_SECONDS": ""}
NEVER_UPLOADED = {"FLUSH_DELAY_MS": "600000", "DRAIN_SECONDS": "0"}
RECOVERED = "the ring is published"


def restart_router(cluster: Cluster, number: int = 2) -> None:
    """Kill the router and start it again; returns when it has the ring, for the `number`th time."""
    cluster.router.kill()
    cluster.router.restart(DEFAULT)
    cluster.router.wait_for_log(RECOVERED, 30, number)


class Writers:
    """Threads that write growing numbers, each to keys of its own, and counters that all increment by `if_match`.

    `back` are reads of less than was acknowledged before; `counted` by counter the acknowledged increments.
    """

    COUNTERS = 6

    def __init__(self, address: str) -> None:
        self.back: list[str] = []
        self.floor: dict[str, int] = {}
        self.counted = dict.fromkeys((f"counter{at}" for at in range(self.COUNTERS)), 0)
        self.rounds = 0
        self._address = address
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            *(threading.Thread(target=self._write, args=(number,)) for number in range(2)),
            *(threading.Thread(target=self._count, args=(number,)) for number in range(2)),
        ]

    def _write(self, thread: int) -> None:
        with Milena(self._address, timeout=10) as m:
            for step in itertools.count(1):
                if self._stop.is_set():
                    return
                key = f"w{thread}-{step % 12}"
                try:
                    got = int(m.get(key) or 0)
                    if got < self.floor.get(key, 0):
                        self.back.append(f"{key}: {got} after {self.floor[key]}")
                    m.set(key, b"%d" % step)
                    self.floor[key] = step
                except MilenaError:
                    continue  # it may or may not have been done; what was acknowledged before must not go back
                self.rounds += 1

    def _count(self, thread: int) -> None:
        with Milena(self._address, timeout=10) as m:
            for step in itertools.count(thread):
                if self._stop.is_set():
                    return
                key = f"counter{step % self.COUNTERS}"
                try:
                    entry = m.get_entry(key)
                    assert entry is not None
                    m.set(key, b"%d" % (int(entry.value) + 1), if_match=entry.etag)
                    with self._lock:
                        self.counted[key] += 1
                except (ConditionFailed, MilenaError):
                    continue

    @contextmanager
    def running(self) -> Iterator[None]:
        with Milena(self._address) as m:
            m.set_many(dict.fromkeys(self.counted, b"0"))
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def go_on(self, rounds: int) -> None:
        goal = self.rounds + rounds
        wait_until(f"{rounds} more rounds", lambda: self.rounds >= goal, 60)

    def lost(self) -> list[str]:
        """What was acknowledged and is not there."""
        with Milena(self._address, timeout=10) as m:
            expected = {**self.floor, **self.counted}
            found = m.get_many(list(expected))
        return [f"{key}: {found.get(key)!r}, {minimum} acknowledged" for key, minimum in expected.items()
                if int(found.get(key) or 0) < minimum]  # fmt: skip


@pytest.mark.parametrize("delay_ms", ["1000", "100"])
def test_a_router_restart_loses_no_acknowledged_update_and_no_read_goes_back(
    start_cluster: StartCluster, delay_ms: str
) -> None:
    cluster = start_cluster(3, node_env={"FLUSH_DELAY_MS": delay_ms})
    writers = Writers(cluster.address)
    with writers.running():
        writers.go_on(40)
        for number in (2, 3):
            restart_router(cluster, number)
            writers.go_on(40)
    assert writers.back == []
    assert writers.lost() == []


def test_a_router_restart_causes_no_s3_request_and_no_invalidation(
    start_cluster: StartCluster, s3_proxy: FaultProxy
) -> None:
    cluster = start_cluster(3, node_env=NEVER_UPLOADED)
    clean, dirty = [f"clean{i}" for i in range(40)], [f"dirty{i}" for i in range(40)]
    near = NearCache(max_bytes=2**20, max_age=600)
    with ExitStack() as stack:
        m = stack.enter_context(Milena(cluster.address, timeout=10))
        keeper = stack.enter_context(Milena(cluster.address, timeout=10, near_cache=near))
        m.set_many(dict.fromkeys(clean, b"c"), durability="through")
        m.set_many(dict.fromkeys(dirty, b"d"))
        m.get_many([*clean, *dirty])
        wait_until("the near cache keeps", lambda: keeper.get(clean[0]) is not None and len(near) > 0, 30)
        with Admin(cluster.address) as admin:
            before = {key: admin.owner(key) for key in [*clean, *dirty]}
        invalidations = near.invalidations
        s3_proxy.clear_requests()
        restart_router(cluster)
        with Admin(cluster.address) as admin:
            assert {key: admin.owner(key) for key in before} == before, "owner, successor, epoch and owned_since"
        wait_until("a stream of the new router", lambda: _watchers(cluster) >= len(cluster.nodes), 30)
        with Milena(cluster.address, timeout=10) as fresh, router_stub(cluster.address) as router:
            for reader in (m, fresh):
                assert reader.get_many(clean) == dict.fromkeys(clean, b"c")
                assert reader.get_many(dirty) == dict.fromkeys(dirty, b"d")
            for key in (clean[0], dirty[0]):
                assert router.Get(pb.GetRequest(key=key.encode()), timeout=10).outcome == "hit"
        objects = [request for request in s3_proxy.requests() if request.key]
        assert objects == []
        assert keeper.get(clean[0]) == b"c"
        assert near.invalidations == invalidations


def _watchers(cluster: Cluster) -> float:
    return cluster.router.metrics().value("milena_router_ring_watchers")


def test_a_fresh_node_that_comes_before_the_others_does_not_get_their_slots(start_cluster: StartCluster) -> None:
    cluster = start_cluster(2, node_env=NEVER_UPLOADED)
    keys = [f"k{i}" for i in range(30)]
    with Milena(cluster.address, timeout=15) as m, router_stub(cluster.address) as router:
        m.set_many(dict.fromkeys(keys, b"dirty"))
        for node in cluster.nodes:
            node.pause()
        cluster.router.kill()
        cluster.router.restart(DEFAULT)
        newcomer = cluster.add_node(wait=False)
        newcomer.wait_for_log("joined router", 30)
        status, details = rejection(lambda: router.Get(pb.GetRequest(key=b"k0"), timeout=0.5))
        assert status == "UNAVAILABLE"
        assert "recovers the last ring" in details
        for node in cluster.nodes[:2]:
            node.resume()
        cluster.router.wait_for_log(RECOVERED, 30, 2)
        # The ring of before is known, so that the newcomer's share is the only thing that moved.
        line = cluster.router.wait_for_log("Join node=" + newcomer.address, 30)
        assert "reason='new'" in line
        assert "ring_size=3" in line


def test_a_node_that_restarts_at_its_address_is_found_again_without_an_error(
    start_cluster: StartCluster,
) -> None:
    cluster = start_cluster(2, node_env={"FLUSH_DELAY_MS": "0"})
    keys = [f"k{i}" for i in range(30)]
    with Milena(cluster.address, timeout=15) as direct, Milena(cluster.address, timeout=15) as other:
        direct.set_many(dict.fromkeys(keys, b"v"))
        other.get_many(keys)
        node = cluster.nodes[0]
        node.kill()
        node.restart()
        for m in (direct, other):
            assert m.get_many(keys) == dict.fromkeys(keys, b"v")
        direct.set_many(dict.fromkeys(keys, b"w"))
        assert other.get_many(keys) == dict.fromkeys(keys, b"w")


@pytest.mark.parametrize("same_grpc_address", [True, False])
def test_a_node_of_another_cluster_at_a_dead_node_s_address_serves_and_takes_nothing(
    start_cluster: StartCluster, moto: MotoServer, s3_proxy: FaultProxy, tmp_path: Path, same_grpc_address: bool
) -> None:
    cluster = start_cluster(2, router_env={"LEASE_SECONDS": "60"}, node_env={"FLUSH_DELAY_MS": "0"})
    keys = [f"k{i}" for i in range(20)]
    victim = cluster.nodes[1]
    with ExitStack() as stack:
        knows = stack.enter_context(Milena(cluster.address, timeout=2))
        near = NearCache(max_bytes=2**20, max_age=600)
        knows.set_many(dict.fromkeys(keys, b"ours"), durability="through")
        knows.get_many(keys)
        with Admin(cluster.address) as admin:
            lost = [key for key in keys if admin.owner(key).address == victim.address]
        assert lost
        victim.kill()
        bucket = moto.new_bucket()
        for key in lost:
            moto.client.put_object(Bucket=bucket, Key=key, Body=b"THEIRS")
        other = stack.enter_context(
            Server("router2", "milena_router", {"RATE_LIMIT": "0", "RING_RECOVERY_SECONDS": "0"}, tmp_path)
        )
        other.wait_ready()
        variables = {
            "S3_BUCKET": bucket,
            "ROUTER_ADDR": other.address,
            "RESP_ADDR": victim.resp,
            **({"LISTEN_ADDR": victim.address} if same_grpc_address else {}),
        }
        foreign = cluster.add_node(variables)
        assert foreign.ready()
        for client in (
            knows,
            stack.enter_context(Milena(cluster.address, timeout=2)),
            stack.enter_context(Milena(f"milena://{cluster.address}?direct=false", timeout=2)),
            stack.enter_context(Milena(cluster.address, timeout=2, near_cache=near)),
        ):
            for call in (lambda c=client: c.get(lost[0]), lambda c=client: c.set(lost[0], b"mine")):
                with pytest.raises((Unavailable, TimeoutError)):
                    call()
        assert moto.client.get_object(Bucket=bucket, Key=lost[0])["Body"].read() == b"THEIRS"
        theirs = moto.client.list_objects_v2(Bucket=bucket)["Contents"]
        assert {each["Key"] for each in theirs} == set(lost)


def owner_of_each_slot(cluster: Cluster) -> list[str]:
    with router_stub(cluster.address) as router:
        update = next(router.WatchRing(pb.WatchRingRequest(), timeout=30))
        return [target.address for target in SlotMap.from_update(update).targets]


def test_a_restart_of_the_router_and_all_nodes_changes_no_owner(start_cluster: StartCluster) -> None:
    """What is only in the journals stays with the nodes that own it: the ring is not made anew of its members."""
    cluster = start_cluster(2, node_env=NEVER_UPLOADED)
    cluster.wait_for_ring(2)
    for size in (3, 4):
        cluster.add_node()
        cluster.wait_for_ring(size)
    owners = owner_of_each_slot(cluster)
    with Milena(cluster.address) as client:
        for number in range(200):
            client.set(f"object{number}", b"%d" % number)
    for server in (cluster.router, *cluster.nodes):
        server.kill()
    cluster.router.restart(DEFAULT)
    for node in cluster.nodes:
        node.restart()
    cluster.wait_for_ring(4)
    assert owner_of_each_slot(cluster) == owners
    with Milena(cluster.address) as client:
        assert [client.get(f"object{number}") for number in range(200)] == [b"%d" % n for n in range(200)]
    assert not cluster.tracebacks()
