"""Shell. The processes that cases measure: the S3 stub, a Milena cluster, the bare gRPC chain. Started when needed.

One cache node: with client, router and node on a machine of few cores, more nodes measure the scheduler.
"""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.stub_process import ROOT, StubProcess
from tests.support.cluster import Cluster
from tests.support.moto_server import s3_client
from tests.support.processes import Process

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "bench"
VALUE_BYTES = 1024
# Callers of the concurrent cases. boto3 gets fewer, in threads: with more of them it only becomes slower.
CALLERS = 64
BOTO3_THREADS = 32

P = TypeVar("P", bound=Process)


class Pieces:
    """`seconds` is how long a variant runs in one round; `sizes` are the numbers of cached objects to compare."""

    def __init__(self, directory: Path, seconds: float, sizes: tuple[int, ...]) -> None:
        self.directory = directory
        self.seconds = seconds
        self.sizes = sizes
        self._stack = ExitStack()
        self._series = secrets.token_hex(4)
        self._number = count()

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    @cached_property
    def stub(self) -> StubProcess:
        """S3, in which every key exists."""
        return self._stack.enter_context(StubProcess(self.directory, synthetic=VALUE_BYTES))

    @cached_property
    def cluster(self) -> Cluster:
        """A router and one node in front of `stub`."""
        cluster = Cluster(self.directory / "cluster", self.stub.endpoint_url, BUCKET, nodes=1)
        return self._stack.enter_context(cluster)

    @cached_property
    def boto3(self) -> S3Client:
        """boto3 straight to `stub`."""
        return s3_client(self.stub.endpoint_url, connections=BOTO3_THREADS)

    @cached_property
    def bare_chain(self) -> str:
        """The address of a bare gRPC router with a bare gRPC node behind it."""
        node = self.module("bare_node", "bench.bare_chain", str(VALUE_BYTES))
        router = self.module("bare_router", "bench.bare_chain", str(VALUE_BYTES), node.wait_for_log("127.0.0.1:"))
        return router.wait_for_log("127.0.0.1:")

    def module(self, name: str, *arguments: str) -> Process:
        """A module of this benchmark as a process, ended with the rest."""
        process = Process(name, ("-m", *arguments), {"PYTHONPATH": str(ROOT)}, self.directory)
        return self._stack.enter_context(process)

    def new_key(self) -> str:
        """A key that nobody has used."""
        return f"cold/{self._series}/{next(self._number)}"

    def s3_gets(self) -> int:
        """How often S3 was asked for an object so far."""
        return self.stub.requests().get("GET", 0)
