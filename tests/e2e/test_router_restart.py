"""Only the router restarts, and addresses get other owners: nothing is lost or goes back, S3 gets no request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from milena_client import ConditionFailed, Entry, Milena, MilenaError, NearCache, Unavailable
from milena_client.admin import Admin
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.cluster.slot_map import SlotMap
from milena_common.cluster.slots import SLOTS
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import rejection, router_stub
from tests.faults.harness.history import History
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
    """Threads that write and read keys of their own, and keys that all of them write over what they read.

    `history` has every call; `rounds` counts the acknowledged writes of keys of their own.
    """

    def __init__(self, address: str) -> None:
        self._own = [[f"w{thread}-{at}" for at in range(12)] for thread in range(2)]
        self._shared = [f"shared{at}" for at in range(6)]
        self.history = History([*itertools.chain(*self._own), *self._shared])
        self.rounds = 0
        self._address = address
        self._stop = threading.Event()
        # A history records one event at a time.
        self._lock = threading.Lock()
        self._threads = [
            *(threading.Thread(target=self._work, args=(f"writer {at}", self._write)) for at in range(2)),
            *(threading.Thread(target=self._work, args=(f"updater {at}", self._update)) for at in range(2)),
        ]

    def _work(self, name: str, step: Callable[[Milena, str, int], None]) -> None:
        with Milena(self._address, timeout=10) as m:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                # What fails may or may not have been done; its outcome stays unknown in the history.
                with suppress(MilenaError):
                    step(m, name, number)

    def _write(self, m: Milena, name: str, number: int) -> None:
        key = self._own[int(name[-1])][number % 12]
        self._read(m, key, name)
        self._set(m, key, name, True, None)
        self.rounds += 1

    def _update(self, m: Milena, name: str, number: int) -> None:
        key = self._shared[number % len(self._shared)]
        entry = self._read(m, key, name)
        self._set(m, key, name, entry and entry.value, entry and entry.etag)

    def _read(self, m: Milena, key: str, name: str) -> Entry | None:
        with self._lock:
            mark = self.history.mark(key)
        entry = m.get_entry(key)
        with self._lock:
            self.history.observed(key, entry and entry.value, mark, name)
        return entry

    def _set(self, m: Milena, key: str, name: str, only_over: bytes | bool | None, etag: str | None) -> None:
        with self._lock:
            write = self.history.begin(key, process=name, only_over=only_over)
        assert write.value is not None
        try:
            m.set(key, write.value, if_match=etag, if_none_match="*" if only_over is None else None)
        except ConditionFailed:
            with self._lock:
                self.history.condition_failed(write)
            return
        with self._lock:
            self.history.acknowledge(write)

    @contextmanager
    def running(self) -> Iterator[None]:
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

    def read_all(self) -> None:
        with Milena(self._address, timeout=10) as m:
            for key in self.history.keys:
                self._read(m, key, "a read at the end")


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
    writers.read_all()
    assert writers.history.wrong == []


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
    # Without FAST_DEATH the dead node keeps its place while another process has its address.
    router = {"LEASE_SECONDS": "60", "FAST_DEATH": "off"}
    cluster = start_cluster(2, router_env=router, node_env={"FLUSH_DELAY_MS": "0"})
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
        slot_map = SlotMap.from_update(update)
        return [slot_map.target(slot).address for slot in range(SLOTS)]


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
    for node in cluster.nodes:
        node.wait_ready()  # the router publishes the recovered ring before the last node listens
    cluster.wait_for_ring(4)
    assert owner_of_each_slot(cluster) == owners
    with Milena(cluster.address) as client:
        assert [client.get(f"object{number}") for number in range(200)] == [b"%d" % n for n in range(200)]
    assert not cluster.tracebacks()
