"""Readers of objects of 1 GiB as files, of real processes: what they fetch from S3, and what memory they take."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.s3_objects import Repeated, synthetic_seed
from bench.peers.stub_process import StubProcess
from milena_client import Milena
from tests.e2e.large_objects.slow_readers import READERS, read_slowly
from tests.support.cluster import Cluster
from tests.support.processes import ROOT

pytestmark = pytest.mark.e2e

MIB = 2**20
SIZE = 1024 * MIB
BUCKET = "large"
READER_BYTES = 16 * MIB


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProcess]:
    """S3, in which each key is an object of 1 GiB."""
    with StubProcess(tmp_path_factory.mktemp("stub"), synthetic=SIZE) as stub:
        yield stub


@pytest.fixture(scope="module")
def cluster(stub: StubProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("cluster")
    with Cluster(directory, stub.endpoint_url, BUCKET, 2, node_env={"LRU_BYTES": "256MiB"}) as cluster:
        yield cluster


@pytest.mark.parametrize("length", [64 * 1024, 100_000])
def test_random_reads_fetch_the_blocks_that_they_touch(stub: StubProcess, cluster: Cluster, length: int) -> None:
    key = f"random-{length}"
    value = Repeated(synthetic_seed(f"/{BUCKET}/{key}"), SIZE)
    rng = random.Random(length)
    touched: set[int] = set()
    with Milena(cluster.address) as m, m.open(key) as file:
        before = stub.sent_bytes()
        for _ in range(60):
            offset = rng.randrange(SIZE - length)
            file.seek(offset)
            assert file.read(length) == bytes(value[offset : offset + length])
            touched.update(range(offset // MIB, (offset + length - 1) // MIB + 1))
    assert stub.sent_bytes() - before <= 1.1 * len(touched) * MIB


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_reader_takes_16_mib(cluster: Cluster, kind: str) -> None:
    # Chunks of which some lie in what two requests have returned.
    arguments = (kind, cluster.address, "whole", str(96 * MIB), "1000000")
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.large_objects.read_program", *arguments],
        cwd=Path(ROOT),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 0 < int(done.stdout) <= READER_BYTES


@pytest.mark.parametrize("port", READERS)
def test_slow_readers_take_bounded_memory_of_a_node(tmp_path: Path, port: str) -> None:
    found = read_slowly(tmp_path, port, 50, 1.5)
    assert found.peak <= found.allowed
    assert not found.wrong
    assert found.read > 0
