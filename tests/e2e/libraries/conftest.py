"""Shell. One cluster for all libraries, its filesystem, and a folder of each test's own.

Its S3 is the one of the benchmarks: fsspec's own tests make ten thousand requests, which cost less there.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import fsspec
import pytest

from bench.peers.stub_process import StubProcess
from milena_client.fsspec import MilenaFileSystem
from tests.support.cluster import Cluster

BUCKET = "libraries"
NUMBERS = count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep every third of fsspec's many cases of patterns; all of them with ``-k glob_edge_cases``."""
    if not config.option.keyword:
        cases = [item for item in items if "_glob_edge_cases[" in item.name]
        left_out = {item for number, item in enumerate(cases) if number % 3}
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=[*left_out])


@pytest.fixture(scope="session")
def library_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProcess]:
    """The S3 of the cluster."""
    with StubProcess(tmp_path_factory.mktemp("library_s3"), md5_etags=True) as stub:
        yield stub


@pytest.fixture(scope="session")
def library_cluster(library_s3: StubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A router and two nodes."""
    directory = tmp_path_factory.mktemp("library_cluster")
    with Cluster(directory, library_s3.endpoint_url, BUCKET, 2) as cluster:
        yield cluster
        assert cluster.tracebacks() == []


@pytest.fixture(scope="session")
def milena_fs(library_cluster: Cluster) -> MilenaFileSystem:
    """The filesystem as libraries get it, by its protocol."""
    found = fsspec.filesystem("milena", router=library_cluster.address)
    assert isinstance(found, MilenaFileSystem)
    return found


@pytest.fixture
def milena_path() -> str:
    """A folder in the default bucket that no other test has."""
    return f"{BUCKET}/test{next(NUMBERS)}"


@pytest.fixture
def url(milena_path: str) -> str:
    """The same as a URL."""
    return f"milena://{milena_path}"


@pytest.fixture
def options(library_cluster: Cluster) -> dict[str, str]:
    """What libraries call storage options."""
    return {"router": library_cluster.address}
