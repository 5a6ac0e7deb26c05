"""The project's rules and dashboard in a real Prometheus, over clusters in which faults are caused."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path

import grpc
import pytest

from milena_client import Milena
from milena_common.api.errors import MilenaError
from milena_common.api.pb import cache_server_pb2, router_server_pb2
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import cache_stub, router_stub
from tests.stack.queries import Query, queries
from tests.support.cluster import Cluster
from tests.support.prometheus_server import PrometheusServer
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.faults import Delay, Reply, ShiftDate
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

SOON = 10.0
# Each wait ends as soon as its condition holds, a few seconds on an idle machine.
AT_MOST = 90.0
TOO_LARGE = Reply(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.")
# Queries of the dashboard that have data only in trouble, or after a change: by what stands in them.
ONLY_IN_TROUBLE = ("milena_router_missing_node_dirty_entries", "milena_writeback_last_success", "changes(")


@contextmanager
def repeating(action: Callable[[int], object], pause: float = 0.1) -> Iterator[None]:
    """Call `action` with 0, 1, 2 … in a thread, `pause` seconds after each call; requests that fail do not end it.

    Raises what else `action` raised, at the end.
    """
    stop = threading.Event()
    defects: list[Exception] = []

    def run() -> None:
        number = 0
        while not stop.wait(pause):
            try:
                with suppress(MilenaError, grpc.RpcError):
                    action(number)
            except Exception as defect:
                defects.append(defect)
                return
            number += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for defect in defects:
            raise defect


def prometheus(cluster: Cluster, directory: Path) -> PrometheusServer:
    return PrometheusServer(directory / "prometheus", [node.ops for node in cluster.nodes], [cluster.router.ops])


def of_the_dashboard() -> list[Query]:
    return [query for query in queries() if not query.place.startswith("rule ")]


def wait_for_data(server: PrometheusServer, expected: list[Query]) -> None:
    """Wait until each of `wanted` has a sample that is a number. Raises TimeoutError with those that have none."""
    left = list(expected)

    def complete() -> bool:
        left[:] = [
            query
            for query in left
            if all(isnan(float(sample["value"][1])) for sample in server.query(query.expression))
        ]
        return not left

    try:
        wait_until("every query has data", complete, AT_MOST, 1.0)
    except TimeoutError as error:
        lines = "\n".join(f"{query.place}: {query.expression}" for query in left)
        raise TimeoutError(f"{error}; without data:\n{lines}") from None


def test_every_query_of_the_dashboard_has_data(
    start_cluster: StartCluster, moto: MotoServer, s3_proxy: FaultProxy, tmp_path: Path
) -> None:
    queue = moto.client_of("sqs").create_queue(QueueName="dashboard")["QueueUrl"]
    cluster = start_cluster(1, node_env={"S3_EVENTS_QUEUE_URL": queue})
    cluster.add_node({"DISK_CACHE_DIR": str(tmp_path / "ssd")})
    troubles = [q for q in of_the_dashboard() if any(each in q.expression for each in ONLY_IN_TROUBLE)]
    ordinary = [q for q in of_the_dashboard() if q not in troubles]
    assert {each for each in ONLY_IN_TROUBLE if any(each in q.expression for q in troubles)} == set(ONLY_IN_TROUBLE)
    with (
        prometheus(cluster, tmp_path) as server,
        Milena(cluster.address) as client,
        router_stub(cluster.address) as router,
    ):

        def work(number: int) -> None:
            key = b"k%d" % (number % 10)
            client[key.decode()] = b"v" * 1000
            client.get(key.decode())
            router.Put(router_server_pb2.PutRequest(key=key, value=b"v"), timeout=SOON)
            router.Get(router_server_pb2.GetRequest(key=b"missing%d" % number), timeout=SOON)
            router.Get(router_server_pb2.GetRequest(key=b""), timeout=SOON)

        with repeating(work):
            wait_for_data(server, ordinary)
        s3_proxy.reject()
        client.set_many({f"dirty{number}": b"v" for number in range(20)})
        cluster.kill_node(cluster.nodes[0])
        wait_for_data(server, troubles)
        s3_proxy.accept()


def test_alerts_about_s3_and_write_back_fire(
    start_cluster: StartCluster, s3_proxy: FaultProxy, tmp_path: Path
) -> None:
    cluster = start_cluster(
        1,
        node_env={
            "TTL_SECONDS": "1",
            "GRACE_SECONDS": "0",
            "DIRTY_MAX_AGE_SECONDS": "1",
            "DIRTY_MAX_BYTES": "64KiB",
            "LRU_SIZE": "4",
        },
    )
    with prometheus(cluster, tmp_path) as server, Milena(cluster.address) as client:

        def read_missing(prefix: str) -> Callable[[int], object]:
            return lambda number: client.get_many([f"{prefix}{number}-{each}" for each in range(50)])

        s3_proxy.inject(TOO_LARGE, method="PUT", key="refused")
        client["refused"] = b"v"
        # The Date of a listing's reply is noticed at once, that of a read's once a minute.
        skew = s3_proxy.inject(ShiftDate(-120))
        with repeating(lambda _: list(client.scan("refused"))), repeating(read_missing("missing")):
            server.wait_for_alerts("MilenaDeadLetters", "MilenaClockSkew", "MilenaLowHitRatio", timeout=AT_MOST)
        skew.times = skew.applied
        with repeating(lambda number: client.set(f"k{number}", b"v")):
            server.wait_for_alerts("MilenaCacheTurnover", timeout=AT_MOST)
        slow = s3_proxy.inject(Delay(1.5), method="GET")
        with repeating(read_missing("slow")):
            server.wait_for_alerts("MilenaHighLatency", timeout=AT_MOST)
        slow.times = slow.applied
        client["warm"] = b"v"
        client.flush()
        assert client["warm"] == b"v"
        s3_proxy.reject()

        def work(number: int) -> None:
            with suppress(MilenaError):
                client.set(f"dirty{number}", b"v" * 1000, timeout=1)
            client.get("warm", timeout=1)

        with repeating(work), repeating(lambda number: client.get(f"cold{number}", timeout=1)):
            server.wait_for_alerts(
                "MilenaS3Failures",
                "MilenaDirtyTooOld",
                "MilenaBacklogGrowing",
                "MilenaHighFailureRate",
                "MilenaServingStale",
                timeout=AT_MOST,
            )
        s3_proxy.accept()


def test_alerts_about_nodes_ring_and_load_fire(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster(2, router_env={"RATE_LIMIT": "5"})
    first = cluster.nodes[0]
    heavy = cluster.add_node({"NODE_WEIGHT": "3", "RESP_MAX_CONNECTIONS": "1", "RATE_LIMIT": "5"})
    cluster.wait_for_ring(3)
    with (
        prometheus(cluster, tmp_path) as server,
        router_stub(cluster.address) as router,
        cache_stub(heavy.address) as limited,
    ):

        def work(_: int) -> None:
            for stub, message in ((router, router_server_pb2), (limited, cache_server_pb2)):
                with suppress(grpc.RpcError):
                    stub.Get(message.GetRequest(key=b"k"), timeout=SOON)
            with connected(heavy.resp) as one, suppress(OSError):
                one.sendall(b"PING\r\n")
                one.recv(100)

        def query_first(_: int) -> None:
            with connected(first.resp) as one:
                one.sendall(b"PING\r\n" * 1000)
                replies = 0
                while replies < 1000 * len(b"+PONG\r\n") and (data := one.recv(65536)):
                    replies += len(data)

        with connected(heavy.resp), repeating(work), repeating(query_first):
            server.wait_for_alerts(
                "MilenaRingImbalance", "MilenaRedisDoorFull", "MilenaRateLimited", "MilenaHotNode", timeout=AT_MOST
            )
        cluster.kill_node(heavy)
        server.wait_for_alerts("MilenaNodeDown", "MilenaNodeMissing", "MilenaRingShrunk", timeout=AT_MOST)
        cluster.router.kill()
        server.wait_for_alerts("MilenaRouterDown", "MilenaNodeNotJoined", "MilenaNodeNotReady", timeout=AT_MOST)
        for each in cluster.nodes[:2]:
            cluster.kill_node(each)
        cluster.router.restart({})
        server.wait_for_alerts("MilenaRingEmpty", timeout=AT_MOST)


def connected(address: str) -> socket.socket:
    """Return a connection to `address` (host:port)."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), SOON)
