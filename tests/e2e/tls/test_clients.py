"""TLS with certificates of both sides on every port: clients of all kinds, rejections that say why, rotation."""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from coredis import RedisCluster as CoredisCluster

from milena_client import AsyncMilena, Milena, RetryPolicy, TlsFiles
from milena_common.api.errors import MilenaError, Unavailable
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.network.addresses import parse_address
from tests.faults.tls.rotation import rotate
from tests.support.certificates import CLUSTER, Authority, client_url, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

AT_MOST = 60.0
ONCE = RetryPolicy(tokens=0)


class Secured:
    """A cluster of a router and two nodes, its authority, and the files of its processes and of a client."""

    def __init__(self, folder: Path, moto: MotoServer) -> None:
        self.folder = folder
        self.authority = Authority()
        self.files = write_files(folder, self.authority.pem, self.authority.issue(CLUSTER), "server")
        uris = ("spiffe://example.org/reader",)
        self.client = write_files(folder, self.authority.pem, self.authority.issue("client", uris=uris), "client")
        variables = tls_variables(self.files)
        self.cluster = Cluster(
            folder / "cluster",
            moto.endpoint_url,
            moto.new_bucket(),
            2,
            router_env=variables,
            node_env={**variables, "RESP_ADDR": "off"},
        )

    def url(self, files: TlsFiles | None = None, more: str = "") -> str:
        return client_url(self.cluster.address, files or self.client, more)


@pytest.fixture(scope="module")
def secured(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"), moto)
    with made.cluster:
        made.cluster.wait_for_ring(2)
        yield made
        assert made.cluster.tracebacks() == []


def test_both_clients_go_straight_to_the_nodes(secured: Secured) -> None:
    def router_calls() -> float:
        return secured.cluster.router.metrics().value("milena_router_requests_total", operation="get")

    def is_direct() -> bool:
        before = router_calls()
        return m.get("a") == b"1" and router_calls() == before

    with Milena(secured.url()) as m:
        m.set("a", b"1")
        wait_until("a get goes straight to the node", is_direct, AT_MOST)

    async def both() -> None:
        async with AsyncMilena(secured.url()) as am:
            assert await am.get("a") == b"1"
            await am.set("large", b"x" * 3_000_000)
            assert await am.get("large") == b"x" * 3_000_000

    asyncio.run(both())


def test_redis_cli(secured: Secured) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed")
    node = parse_address(secured.cluster.nodes[0].resp_tls)
    files = secured.client
    options = ["--tls", "--cacert", files.authorities, "--cert", files.certificate, "--key", files.key]
    command = ["redis-cli", "-c", "-h", node.host, "-p", str(node.port), *options]
    for words, reply in ((["SET", "cli", "v"], "OK"), (["GET", "cli"], "v")):
        ran = subprocess.run([*command, *words], capture_output=True, text=True, timeout=AT_MOST, check=True)
        assert ran.stdout.strip().splitlines()[-1] == reply


def test_redis_py_and_coredis_follow_the_ring_over_tls(secured: Secured) -> None:
    node = parse_address(secured.cluster.nodes[0].resp_tls)
    files = secured.client
    with redis.RedisCluster(
        host=node.host,
        port=node.port,
        ssl=True,
        ssl_ca_certs=files.authorities,
        ssl_certfile=files.certificate,
        ssl_keyfile=files.key,
    ) as cluster:
        for number in range(20):
            cluster.set(f"py{number}", number)
        assert [cluster.get(f"py{number}") for number in range(20)] == [b"%d" % number for number in range(20)]
        ports = {each.port for each in cluster.get_nodes()}
        assert ports == {parse_address(each.resp_tls).port for each in secured.cluster.nodes}

    async def core() -> None:
        context = ssl.create_default_context(cafile=files.authorities)
        context.load_cert_chain(files.certificate, files.key)
        client: Any = CoredisCluster(host=node.host, port=node.port, ssl_context=context)
        async with client:
            assert await client.get("py3") == b"3"

    asyncio.run(core())


def test_a_stub_of_grpc_and_the_command_line(secured: Secured) -> None:
    files = secured.client
    contents = (Path(name).read_bytes() for name in (files.authorities, files.key, files.certificate))
    with grpc.secure_channel(secured.cluster.address, grpc.ssl_channel_credentials(*contents)) as channel:
        get = channel.unary_unary(
            "/router_server.Router/Get",
            request_serializer=pb.GetRequest.SerializeToString,
            response_deserializer=pb.GetResponse.FromString,
        )
        assert not get(pb.GetRequest(key=b"none"), timeout=AT_MOST).successful
    command = [sys.executable, "-m", "milena_client.cli", "--url", secured.url(), "nodes"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=AT_MOST, check=True)
    assert all(node.address in ran.stdout for node in secured.cluster.nodes)


def test_metrics_want_a_certificate_and_health_does_not(secured: Secured) -> None:
    metrics = secured.cluster.nodes[0].metrics()
    assert metrics.value("milena_tls_expiry_timestamp_seconds") > 0
    context = ssl.create_default_context(cafile=secured.client.authorities)

    def get(path: str) -> int:
        try:
            url = f"https://{secured.cluster.nodes[0].ops}{path}"
            with urllib.request.urlopen(url, context=context, timeout=AT_MOST) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert get("/readyz") == 200
    assert get("/metrics") == 403


def test_every_rejection_says_why(secured: Secured) -> None:
    authority, other = secured.authority, Authority("another authority")
    folder = secured.folder
    expired = write_files(folder, authority.pem, authority.issue(expires=-0.5), "expired")
    cases = {
        "it may demand a certificate of this side, which shows none": write_files(
            folder, authority.pem, None, "none"
        ),
        "it may not trust the authority of this side's certificate": write_files(
            folder, authority.pem, other.issue(), "stranger"
        ),
        "its certificate is not of an authority that this side trusts": write_files(
            folder, other.pem, authority.issue(), "distrusts"
        ),
    }
    for reason, files in cases.items():
        with Milena(secured.url(files), retry=ONCE) as m, pytest.raises(Unavailable, match=reason):
            m.get("a")
    for more, reason in (("&server_name=other.example", "its certificate is not for the name 'other.example'"),):
        with Milena(secured.url(more=more), retry=ONCE) as m, pytest.raises(Unavailable, match=reason):
            m.get("a")
    with pytest.raises(MilenaError, match="has expired"):
        Milena(secured.url(expired))
    with Milena(secured.cluster.address, retry=ONCE) as m, pytest.raises(Unavailable, match="may use TLS"):
        m.get("a")


def test_nodes_count_rejected_clients_by_reason(secured: Secured) -> None:
    node = secured.cluster.nodes[0]
    where = parse_address(node.resp_tls)

    def rejected(reason: str) -> float:
        return node.metrics().value("milena_tls_rejected_handshakes_total", port="resp", reason=reason)

    before = rejected("no_certificate")
    context = ssl.create_default_context(cafile=secured.client.authorities)
    with socket.create_connection(where, AT_MOST) as plain, suppress(OSError):
        context.wrap_socket(plain, server_hostname=where.host).recv(1)
    with socket.create_connection(where, AT_MOST) as plain, suppress(OSError):
        plain.sendall(b"*1\r\n$4\r\nPING\r\n")
        plain.recv(100)
    wait_until("both are counted", lambda: rejected("no_certificate") > before and rejected("not_tls") > 0, AT_MOST)


def test_ports_comply_with_mozilla_s_profile(secured: Secured) -> None:
    if importlib.util.find_spec("sslyze") is None:
        pytest.skip("sslyze is not installed")
    files, node = secured.client, secured.cluster.nodes[0]
    ports = (secured.cluster.address, node.resp_tls, node.ops)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "sslyze", "--mozilla_config", "intermediate"),
            *("--certinfo_ca_file", files.authorities, "--cert", files.certificate, "--key", files.key),
            *ports,
        ],
        capture_output=True,
        text=True,
        timeout=AT_MOST,
        check=False,
    )
    verdict = ran.stdout[ran.stdout.find("COMPLIANCE AGAINST") :]
    for port in ports:
        assert f"{port}: OK - Compliant." in verdict, verdict


def test_no_port_takes_a_version_that_is_excluded(secured: Secured, moto: MotoServer, tmp_path: Path) -> None:
    variables = {**tls_variables(secured.files), "TLS_CLIENT_AUTH": "off", "CLUSTER_CERT_NAMES": ""}

    def versions(address: str) -> list[str]:
        """Return the versions of TLS with which a connection can be made."""
        found = []
        where = parse_address(address)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=secured.client.authorities)
            context.minimum_version = context.maximum_version = version
            context.set_alpn_protocols(["h2"])
            with socket.create_connection(where, AT_MOST) as plain, suppress(OSError):
                found.append(str(context.wrap_socket(plain, server_hostname=where.host).version()))
        return found

    for lowest, expected in (("1.2", ["TLSv1.2", "TLSv1.3"]), ("1.3", ["TLSv1.3"])):
        chosen = {**variables, "TLS_MIN_VERSION": lowest}
        more = {"RESP_ADDR": "off"}
        with Cluster(
            tmp_path / lowest,
            moto.endpoint_url,
            moto.new_bucket(),
            1,
            router_env=chosen,
            node_env={**chosen, **more},
        ) as cluster:
            cluster.wait_for_ring(1)
            node = cluster.nodes[0]
            for address in (cluster.address, node.address, node.resp_tls, node.ops):
                assert versions(address) == expected, address
            with Milena(secured.url().replace(secured.cluster.address, cluster.address)) as m:
                m.set("a", b"1")
                assert m.get("a") == b"1"


def test_open_connections_of_a_removed_authority_end(secured: Secured) -> None:
    """And those of others stay."""
    mine, removed, node = secured.authority, Authority("to be removed"), secured.cluster.nodes[0]
    trusted = Path(secured.files.authorities)
    reloads = len(node.lines("new certificates are used"))

    def trust(authorities: bytes) -> None:
        nonlocal reloads
        Path(f"{trusted}.new").write_bytes(authorities)
        Path(f"{trusted}.new").rename(trusted)
        reloads += 1
        node.wait_for_log("new certificates are used", AT_MOST, reloads)

    def connected(address: str, authority: Authority) -> ssl.SSLSocket:
        files = write_files(secured.folder, mine.pem, authority.issue("client"), "ended")
        context = ssl.create_default_context(cafile=files.authorities)
        context.load_cert_chain(files.certificate, files.key)
        where = parse_address(address)
        return context.wrap_socket(socket.create_connection(where, AT_MOST), server_hostname=where.host)

    def metrics_status(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        return connection.recv(12)

    def ping(connection: ssl.SSLSocket) -> bytes:
        connection.sendall(b"PING\r\n")
        return connection.recv(100)

    trust(mine.pem + removed.pem)
    before = node.metrics().value("milena_resp_disconnects_total", reason="certificate")
    with connected(node.resp_tls, mine) as stays, connected(node.resp_tls, removed) as ends:
        assert ping(stays) == ping(ends) == b"+PONG\r\n"
        with connected(node.ops, removed) as http:
            trust(mine.pem)
            assert metrics_status(http) == b"HTTP/1.1 403"
        ends.settimeout(AT_MOST)
        assert ends.recv(1) == b""
        assert ping(stays) == b"+PONG\r\n"
        assert node.metrics().value("milena_resp_disconnects_total", reason="certificate") == before + 1


def test_certificates_and_authorities_are_replaced_under_load(secured: Secured) -> None:
    """The long form: `python -m tests.faults.tls.rotation`."""
    failures, calls, taken = rotate(secured.folder, secured.authority, secured.files, secured.cluster, rounds=2)
    assert failures == []
    assert calls > 20
    assert taken >= 2
