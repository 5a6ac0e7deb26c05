"""Wrong requests, environments and connections: what each gets, and that no other client notices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from milena_client import Milena
from milena_common.api.pb import cache_server_pb2 as cache_pb
from milena_common.api.pb import router_server_pb2 as pb
from tests.e2e.conftest import StartCluster
from tests.e2e.raw import cache_stub, rejection, router_stub
from tests.support.cluster import Cluster
from tests.support.processes import Process
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import AWS_VARIABLES

pytestmark = pytest.mark.e2e

MIB = 2**20

BAD_KEYS = [
    (b"", "empty"),
    (b"k" * 1025, "1025 bytes"),
    (b"ok\xff", "not UTF-8"),
    (b"a\x00b", "NUL"),
]


@pytest.fixture
def both(start_cluster: StartCluster) -> Cluster:
    """A router and a node that take values of at most 1 MiB."""
    limit = {"MAX_VALUE_BYTES": "1MiB"}
    return start_cluster(1, router_env=limit, node_env=limit)


def test_invalid_keys_and_buckets_are_rejected_at_both_servers(both: Cluster, s3_proxy: FaultProxy) -> None:
    s3_proxy.clear_requests()
    with router_stub(both.address) as router, cache_stub(both.nodes[0].address) as node:
        for stub, kind in ((router, pb), (node, cache_pb)):
            for key, rule in BAD_KEYS:
                for call in (
                    lambda stub=stub, kind=kind, key=key: stub.Get(kind.GetRequest(key=key)),
                    lambda stub=stub, kind=kind, key=key: stub.Put(kind.PutRequest(key=key, value=b"v")),
                    lambda stub=stub, kind=kind, key=key: stub.Delete(kind.DeleteRequest(key=key)),
                ):
                    status, details = rejection(call)
                    assert status == "INVALID_ARGUMENT"
                    assert details.startswith("key: ")
                    assert rule in details
            for bucket in ("No", "a", "x..y", "1.2.3.4", "a" * 64, "under_score"):
                status, details = rejection(
                    lambda s=stub, k=kind, b=bucket: s.Get(k.GetRequest(key=b"k", bucket=b))
                )
                assert (status, details[:8]) == ("INVALID_ARGUMENT", "bucket: ")
            status, details = rejection(lambda s=stub, k=kind: s.Get(k.GetRequest(key=b"k", bucket="not-allowed")))
            assert status == "PERMISSION_DENIED"
            assert "S3_BUCKETS" in details
    assert s3_proxy.requests() == []


@pytest.mark.parametrize("size", [MIB + 1, 5 * MIB, 60 * MIB])
def test_a_value_over_the_limit_is_rejected_with_both_sizes(both: Cluster, s3_proxy: FaultProxy, size: int) -> None:
    s3_proxy.clear_requests()
    with router_stub(both.address) as router, cache_stub(both.nodes[0].address) as node:
        for stub, kind in ((router, pb), (node, cache_pb)):
            status, details = rejection(lambda s=stub, k=kind: s.Put(k.PutRequest(key=b"k", value=bytes(size))))
            assert status == "INVALID_ARGUMENT"
            assert str(size) in details
            assert str(MIB) in details
    assert s3_proxy.requests() == []
    with Milena(both.address) as m:
        m.set("k", bytes(MIB))
        assert m.get("k") == bytes(MIB)


def test_an_object_in_the_bucket_over_the_limit_is_rejected(both: Cluster, s3: S3Client) -> None:
    s3.put_object(Bucket=both.bucket, Key="big", Body=bytes(MIB + 1))
    with router_stub(both.address) as router:
        status, details = rejection(lambda: router.Get(pb.GetRequest(key=b"big")))
    assert status == "FAILED_PRECONDITION"
    assert str(MIB + 1) in details
    assert str(MIB) in details


@pytest.mark.parametrize(
    "address", ["", "host", "host:0", "host:99999", "ftp://host:1", "0.0.0.0:50051", "h ost:1"]
)
def test_an_address_that_cannot_be_called_does_not_join(shared_cluster: Cluster, address: str) -> None:
    with router_stub(shared_cluster.address) as router:
        for call in (
            lambda: router.Join(pb.JoinRequest(address=address)),
            lambda: router.Leave(pb.LeaveRequest(address=address)),
        ):
            status, details = rejection(call)
            assert (status, details[:9]) == ("INVALID_ARGUMENT", "address: ")


def test_a_node_of_another_bucket_does_not_join(shared_cluster: Cluster) -> None:
    with router_stub(shared_cluster.address) as router:
        request = pb.JoinRequest(address="127.0.0.1:1", default_bucket="another-bucket")
        status, details = rejection(lambda: router.Join(request))
    assert status == "FAILED_PRECONDITION"
    assert "another-bucket" in details
    assert shared_cluster.bucket in details


def test_a_router_without_nodes_says_so(start_cluster: StartCluster) -> None:
    cluster = start_cluster(0)
    with router_stub(cluster.address) as router:
        status, details = rejection(lambda: router.Get(pb.GetRequest(key=b"k")))
    assert status == "UNAVAILABLE"
    assert "no node in the ring" in details


# Environments.


@pytest.mark.parametrize("module", ["milena_router", "milena_cache"])
def test_an_absurd_environment_ends_with_2_and_a_line_for_each_variable(module: str, tmp_path: Path) -> None:
    wrong = {"LISTEN_ADDR": "nowhere", "METRICS_PORT": "-1", "MAX_VALUE_BYTES": "lots", "LOG_LEVEL": "loud"}
    process = Process("wrong", ("-m", module), wrong, tmp_path)
    assert process.wait() == 2
    named = {line.split(": ")[1] for line in process.lines()}
    required = {"ROUTER_ADDR", "S3_BUCKET", "AWS_REGION"} if module == "milena_cache" else set()
    assert named == set(wrong) | required
    assert all("got " in line and "allowed: " in line for line in process.lines())


@pytest.mark.parametrize(
    ("module", "variable"),
    [
        ("milena_router", "LISTEN_ADDR"),
        ("milena_router", "METRICS_PORT"),
        ("milena_cache", "LISTEN_ADDR"),
        ("milena_cache", "METRICS_PORT"),
        ("milena_cache", "RESP_ADDR"),
    ],
)
def test_a_port_in_use_ends_with_1_and_names_it(module: str, variable: str, tmp_path: Path) -> None:
    variables = {
        **AWS_VARIABLES,
        "LISTEN_ADDR": "127.0.0.1:0",
        "METRICS_PORT": "0",
        "RESP_ADDR": "127.0.0.1:0",
        "ROUTER_ADDR": "127.0.0.1:1",
        "S3_BUCKET": "bucket",
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        variables[variable] = str(port) if variable == "METRICS_PORT" else f"127.0.0.1:{port}"
        process = Process("second", ("-m", module), variables, tmp_path)
        assert process.wait() == 1
    said = process.lines(variable)
    assert len(said) == 1
    assert f"127.0.0.1:{port}" in said[0]
    assert "in use" in said[0].lower()
    assert process.lines("Traceback") == []


# Connections.


def _garbage() -> Iterator[bytes]:
    yield b"\x00" * 100
    yield os.urandom(4096)
    yield b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"
    # HTTP/2: the preface, and a frame that claims 16 MiB.
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + os.urandom(2**16)
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(2**16)
    yield b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 2**20
    yield b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"z" * 2**20


def test_garbage_on_any_port_ends_its_connection_and_nothing_else(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1)
    (node,) = cluster.nodes
    ports = [cluster.router.address, cluster.router.ops, node.address, node.ops, node.resp]
    with Milena(cluster.address) as m:
        m.set("k", b"v")
        before = [server.metrics().value("process_resident_memory_bytes") for server in (cluster.router, node)]
        for _ in range(5):
            for port in ports:
                for garbage in _garbage():
                    _send(port, garbage)
            assert m.get("k") == b"v"
        after = [server.metrics().value("process_resident_memory_bytes") for server in (cluster.router, node)]
    assert all(late < early + 64 * MIB for early, late in zip(before, after, strict=True))


def _send(address: str, data: bytes) -> None:
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        except OSError:
            pass  # reset: that is one way of ending a connection


def test_silent_connections_do_not_delay_others(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1)
    (node,) = cluster.nodes
    held = []
    for address in (cluster.router.address, cluster.router.ops, node.address, node.ops, node.resp):
        host, port = address.split(":")
        for start in (b"", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET /met"):
            for _ in range(20):
                connection = socket.create_connection((host, int(port)))
                connection.sendall(start)
                held.append(connection)
    with Milena(cluster.address) as m:
        m.set("k", b"v")
        assert m.get("k") == b"v"
    assert node.get("/readyz")[0] == 200
    for connection in held:
        connection.close()
