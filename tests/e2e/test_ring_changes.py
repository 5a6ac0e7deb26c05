"""Nodes and routers that come, go, die, freeze and come back, under load: no wrong value, and it heals."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import Milena, MilenaError, NodeLost, RetryPolicy, Unavailable
from milena_common.api.durability import DURABILITIES
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import rejection, router_stub
from tests.support.cluster import Cluster
from tests.support.processes import Server
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import Delay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

# Half a second of it is margin, and two processes of tests and a cluster share two cores.
LEASE = 2.0
# What one node has acknowledged and S3 does not have yet, other nodes do not know.
THROUGH = {"WRITE_MODE": "through"}
NO_RETRY = RetryPolicy(tokens=0)
# A slot in the gap of a hand-over gets TRYAGAIN after 100 ms, which happens where tests share two cores.
WITH_RETRIES = RetryPolicy()
# Longer than a node takes to hand its slots over and to stop, on whatever machine.
STOP_SECONDS = 60.0


class Load:
    """Threads that write growing numbers, each to keys of its own, and read them back.

    A thread knows what it wrote last, so every read is either right or wrong. `wrong` collects the wrong ones;
    `errors` the (time, error) of calls that failed. After a write that failed, either value is right.
    """

    def __init__(self, address: str, threads: int, retry: RetryPolicy, timeout: float = 3.0) -> None:
        self.wrong: list[str] = []
        self.errors: list[tuple[float, MilenaError]] = []
        self.calls = 0
        self._address = address
        self._retry = retry
        self._timeout = timeout
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(threads)]

    def _work(self, number: int) -> None:
        with Milena(self._address, timeout=self._timeout, retry=self._retry) as m:
            right: dict[str, set[bytes | None]] = {f"load/{number}/{i}": {None} for i in range(8)}
            step = 0
            while not self._stop.is_set():
                for key in right:
                    step += 1
                    self.calls += 2
                    if step % 3 == 0:
                        value = b"%d" % step
                        try:
                            m.set(key, value)
                            right[key] = {value}
                        except MilenaError as error:
                            right[key] = {*right[key], value}
                            self.errors.append((time.monotonic(), error))
                    try:
                        got = m.get(key)
                    except MilenaError as error:
                        self.errors.append((time.monotonic(), error))
                        continue
                    if got not in right[key]:
                        self.wrong.append(f"{key}: {got!r}, and not one of {right[key]}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Work inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def go_on(self, calls: int) -> None:
        """Block until so many more calls were made."""
        goal = self.calls + calls
        wait_until(f"{calls} more calls", lambda: self.calls >= goal, 30)


@pytest.fixture
def quick(start_cluster: StartCluster) -> Cluster:
    """Three nodes with short leases, whose writes go through S3."""
    return start_cluster(3, router_env={"LEASE_SECONDS": str(LEASE)}, node_env=THROUGH)


def test_a_killed_node_costs_errors_for_its_lease_and_no_wrong_value(quick: Cluster) -> None:
    load = Load(quick.address, 4, NO_RETRY)
    with load.running():
        load.go_on(300)
        assert load.errors == []
        killed_at = time.monotonic()
        quick.kill_node(quick.nodes[0])
        quick.wait_for_ring(2)
        load.go_on(300)
    assert load.wrong == []
    assert load.errors, "the node owned a third of the keys"
    assert all(isinstance(error, NodeLost) for _, error in load.errors)
    last = max(when for when, _ in load.errors) - killed_at
    assert last <= LEASE + 1, f"the last error came {last:.2f} s after the kill"
    error = str(load.errors[0][1])
    assert quick.nodes[0].address in error or quick.nodes[0].resp in error


def test_with_the_clients_own_retries_a_killed_node_costs_no_read(quick: Cluster, s3: S3Client) -> None:
    keys = [f"k{i}" for i in range(60)]
    for key in keys:
        s3.put_object(Bucket=quick.bucket, Key=key, Body=key.encode())
    with Milena(quick.address, timeout=5) as m:
        assert len(m.get_many(keys)) == 60
        quick.kill_node(quick.nodes[1])
        assert m.get_many(keys) == {key: key.encode() for key in keys}


@pytest.mark.parametrize("mode", DURABILITIES)
def test_a_node_that_stops_on_request_loses_nothing(start_cluster: StartCluster, mode: str) -> None:
    """No limit of time decides: a node that is short of the processor keeps its lease, and calls wait for it."""
    cluster = start_cluster(
        3,
        router_env={"LEASE_SECONDS": "30"},
        node_env={"WRITE_MODE": mode, "DRAIN_SECONDS": str(2 * STOP_SECONDS)},
    )
    load = Load(cluster.address, 4, WITH_RETRIES, timeout=STOP_SECONDS)
    with load.running():
        load.go_on(300)
        cluster.nodes[0].terminate()
        assert cluster.nodes[0].wait(STOP_SECONDS) == 0
        load.go_on(300)
    assert (load.wrong, load.errors) == ([], [])


def test_a_node_that_joins_takes_its_share_and_nothing_goes_wrong(quick: Cluster) -> None:
    load = Load(quick.address, 4, WITH_RETRIES)
    with load.running():
        load.go_on(200)
        newcomer = quick.add_node()
        load.go_on(400)
        assert newcomer.metrics().value("milena_request_counter", operation="get") > 0
        newcomer.terminate()
        assert newcomer.wait() == 0
        load.go_on(200)
    assert (load.wrong, load.errors) == ([], [])


def test_a_frozen_node_that_comes_back_serves_nothing_from_before(quick: Cluster) -> None:
    """Its copies are fresh by its clock, and others have written meanwhile."""
    keys = [f"k{i}" for i in range(60)]
    frozen = quick.nodes[0]
    with Milena(quick.address) as m:
        m.set_many(dict.fromkeys(keys, b"before"))
        assert _owned(m, keys, frozen), "the node owns some of the keys"
        frozen.pause()
        quick.wait_for_ring(2)
        with Milena(quick.address) as another:  # which knows no other ring
            another.set_many(dict.fromkeys(keys, b"meanwhile"))
        frozen.resume()
        quick.wait_for_ring(3)
        assert set(m.get_many(keys).values()) == {b"meanwhile"}
        assert _owned(m, keys, frozen)


def test_writes_in_flight_while_their_keys_move_are_read_afterwards(
    start_cluster: StartCluster, s3: S3Client, s3_proxy: FaultProxy
) -> None:
    cluster = start_cluster(1, node_env=THROUGH | {"REQUEST_TIMEOUT_SECONDS": "20"})
    keys = [f"k{i}" for i in range(20)]
    for key in keys:
        s3.put_object(Bucket=cluster.bucket, Key=key, Body=b"old")
    # Not to what the newcomer tries out at its start, which would be as late.
    s3_proxy.inject(Delay(6), method="PUT", where=lambda request: request.key in keys)
    with Milena(cluster.address, timeout=40) as m, concurrent.futures.ThreadPoolExecutor(2) as pool:
        m.get_many(keys)  # a node that knows what S3 has writes in one request
        s3_proxy.clear_requests()
        writing = pool.submit(m.set_many, dict.fromkeys(keys, b"first"))
        # Of each key: the node tries its S3 out with requests of its own.
        wait_until("S3 has been sent every write", lambda: all(s3_proxy.requests("PUT", key) for key in keys), 20)
        writing_twice = pool.submit(m.set_many, dict.fromkeys(keys, b"new"))
        newcomer = cluster.add_node()
        seen = m.get_many(keys)
        assert set(seen.values()) == {b"old"}, "the newcomer reads before the writes arrive at S3"
        assert not writing.done()
        writing.result()
        m.get_many(keys)
        writing_twice.result()
        assert set(m.get_many(keys).values()) == {b"new"}
        wait_until("the newcomer has slots", lambda: bool(_owned(m, keys, newcomer)), 20)


def test_reads_that_wait_for_a_frozen_node_go_on_when_its_lease_ends(quick: Cluster) -> None:
    keys = [f"k{i}" for i in range(30)]
    with Milena(quick.address, timeout=5, retry=NO_RETRY) as m:
        m.set_many(dict.fromkeys(keys, b"v"))
        quick.nodes[0].pause()
        started = time.monotonic()
        assert m.get_many(keys) == dict.fromkeys(keys, b"v")
        assert time.monotonic() - started < 4, "not until their own deadline"
        quick.nodes[0].resume()


def test_a_frozen_node_is_named_within_the_deadline(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1, router_env={"LEASE_SECONDS": "60"})
    (node,) = cluster.nodes
    node.pause()
    with router_stub(cluster.address) as router:
        started = time.monotonic()
        status, details = rejection(lambda: router.Get(pb.GetRequest(key=b"k"), timeout=1))
        assert time.monotonic() - started < 1.2
    assert status == "UNAVAILABLE"
    assert node.address in details
    assert "slot 7629" in details
    node.resume()


def test_a_frozen_router_keeps_its_ring(quick: Cluster) -> None:
    quick.router.pause()
    threading.Event().wait(1.5 * LEASE)
    quick.router.resume()
    with Milena(quick.address) as m:
        m.set("k", b"v")
        assert m.get("k") == b"v"
    assert quick.router.lines("lease expired") == []


def test_an_operator_can_take_a_node_out_and_it_comes_back(quick: Cluster) -> None:
    with router_stub(quick.address) as router, Milena(quick.address) as m:
        m.set("k", b"v")
        address = quick.nodes[0].address
        assert router.Leave(pb.LeaveRequest(address=address)).successful
        assert m.get("k") == b"v"
        quick.wait_for_ring(3)
        assert m.get("k") == b"v"


def test_a_router_that_stops_on_request_finishes_calls_in_flight(quick: Cluster) -> None:
    quick.router.terminate()
    assert quick.router.wait() == 0
    with Milena(quick.address, timeout=1) as m, pytest.raises(Unavailable, match=quick.address):
        m.get("k")
    for node in quick.nodes:
        node.wait_for_log("Failed to join router")
        assert node.running


def _owned(m: Milena, keys: list[str], node: Server) -> list[str]:
    entries = {key: m.get_entry(key) for key in keys}
    return [key for key, entry in entries.items() if entry is not None and entry.node == node.address]


def test_a_node_joins_and_one_leaves_while_2000_writes_are_dirty(
    start_cluster: StartCluster, s3_proxy: FaultProxy
) -> None:
    cluster = start_cluster(3, node_env={"FLUSH_DELAY_MS": "600000", "DRAIN_SECONDS": "30"})
    keys = [f"k{number}" for number in range(2000)]
    with Milena(cluster.address) as m:
        m.set_many(dict.fromkeys(keys, b"old"))
        m.set_many(dict.fromkeys(keys, b"new"))
        s3_proxy.clear_requests()
        newcomer = cluster.add_node()
        found = m.get_many(keys)
        assert sum(found[key] != b"new" for key in keys) == 0
        wait_until(
            "the newcomer has its share", lambda: newcomer.metrics().value("milena_ring_slots") >= 4000 or None, 20
        )
        found = m.get_many(keys)
        assert sum(found[key] != b"new" for key in keys) == 0
        assert s3_proxy.count("GET") <= 40
        leaver = cluster.nodes[0]
        leaver.terminate()
        assert leaver.wait() == 0
        found = m.get_many(keys)
        assert sum(found[key] != b"new" for key in keys) == 0
        assert s3_proxy.count("GET") <= 40
