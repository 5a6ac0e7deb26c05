"""A ring of three nodes with a router, for the tests of clients that use any part of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cluster import Cluster
from tests.support.ports import ReservedPort
from tests.support.s3.moto_server import MotoServer


@pytest.fixture(scope="package")
def ways(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The addresses at which clients find the keys of all nodes: a node's, and the router's."""
    with ReservedPort() as port:
        directory, environment = tmp_path_factory.mktemp("ways"), {"RESP_ADDR": port.address}
        flush = {"ALLOW_FLUSH": "objects"}
        with Cluster(
            directory, moto.endpoint_url, moto.new_bucket(), 3, router_env=environment, node_env=flush
        ) as cluster:
            cluster.wait_for_ring(3)
            yield {"node": cluster.nodes[0].resp, "router": port.address}
            assert cluster.tracebacks() == []
