"""Shell. The pieces of an end-to-end test: S3 (moto), a proxy to make it fail, clusters of real processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from tests.support.cluster import Cluster
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import MotoServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class StartCluster(Protocol):
    """Starts a cluster that is stopped when the test ends."""

    def __call__(
        self, nodes: int = 3, *, router_env: dict[str, str] | None = None, node_env: dict[str, str] | None = None
    ) -> Cluster: ...


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    """The S3 of all tests. Each test has a bucket of its own in it."""
    with MotoServer(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def s3(moto: MotoServer) -> S3Client:
    """boto3 straight to S3, past Milena and past the faults."""
    return moto.client


@pytest.fixture
def bucket(moto: MotoServer) -> str:
    """An empty bucket, which clusters of this test have as S3_BUCKET."""
    return moto.new_bucket()


@pytest.fixture
def s3_proxy(moto: MotoServer) -> Iterator[FaultProxy]:
    """The way from this test's nodes to S3: what they ask is recorded, and can be made to fail."""
    with FaultProxy(moto.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def start_cluster(s3_proxy: FaultProxy, bucket: str, tmp_path: Path) -> Iterator[StartCluster]:
    """Starts clusters in front of `s3_proxy` and `bucket`. A process that logged a traceback fails the test."""
    started: list[Cluster] = []
    with ExitStack() as stack:

        def start(
            nodes: int = 3, *, router_env: dict[str, str] | None = None, node_env: dict[str, str] | None = None
        ) -> Cluster:
            directory = tmp_path / f"cluster{len(started) + 1}"
            cluster = Cluster(
                directory, s3_proxy.endpoint_url, bucket, nodes, router_env=router_env, node_env=node_env
            )
            started.append(stack.enter_context(cluster))
            return cluster

        yield start
    assert [line for cluster in started for line in cluster.tracebacks()] == []


@pytest.fixture
def cluster(start_cluster: StartCluster) -> Cluster:
    """A router and three nodes of the test's own."""
    return start_cluster()


@pytest.fixture(scope="session")
def shared_cluster(moto: MotoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A router and three nodes for tests that break nothing and use keys of their own. Starts once."""
    with Cluster(tmp_path_factory.mktemp("shared"), moto.endpoint_url, moto.new_bucket()) as cluster:
        yield cluster
