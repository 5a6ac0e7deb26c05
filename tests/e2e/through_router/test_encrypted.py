"""The router's Redis port with TLS on all connections: Redis clients, and Milena's own without direct access."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from milena_client import Milena
from milena_common.network.addresses import parse_address
from tests.e2e.conftest import StartCluster
from tests.support.certificates import CLUSTER, Authority, client_url, tls_variables, write_files
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


def test_every_connection_has_tls(start_cluster: StartCluster, tmp_path: Path) -> None:
    authority = Authority()
    variables = tls_variables(write_files(tmp_path, authority.pem, authority.issue(CLUSTER), "server"))
    files = write_files(tmp_path, authority.pem, authority.issue("client"), "client")
    with ReservedPort() as port:
        cluster = start_cluster(
            2,
            router_env={**variables, "RESP_TLS_ADDR": port.address, "DIRECT_ACCESS": "false"},
            node_env={**variables, "RESP_ADDR": "off"},
        )
        cluster.wait_for_ring(2)
        at = parse_address(port.address)
        with redis.Redis(
            host=at.host,
            port=at.port,
            ssl=True,
            ssl_ca_certs=files.authorities,
            ssl_certfile=files.certificate,
            ssl_keyfile=files.key,
        ) as client:
            keys = [f"tls/{number}" for number in range(20)]
            assert client.mset({key: key for key in keys})
            assert client.mget(keys) == [key.encode() for key in keys]

        def commands() -> float:
            return cluster.router.metrics().value("milena_router_resp_commands_total", operation="get")

        with Milena(client_url(cluster.address, files)) as milena:
            before = commands()

            def used() -> bool:
                assert milena.get("tls/3") == b"tls/3"
                return commands() > before

            wait_until("reads use the port", used, 30.0)
        with redis.Redis(host=at.host, port=at.port, socket_timeout=5) as plain, pytest.raises(redis.RedisError):
            plain.ping()
