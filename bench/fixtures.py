"""Shell. The processes that cases measure: the S3 stubs, Milena clusters, the bare gRPC chain. Started when needed.

One cache node: with client, router and node on a machine of few cores, more nodes measure the scheduler.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from bench.case import Samples
from bench.child import printed
from bench.peers.redis_server import RedisServer
from bench.peers.stub_process import ROOT, StubProcess
from bench.workload.new_objects import VALUE_BYTES
from milena_common.api.durability import MEMORY
from tests.support.cluster import Cluster
from tests.support.processes import Process
from tests.support.s3.moto_server import AWS_VARIABLES, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "bench"
THROUGH_ROUTER = {"DIRECT_ACCESS": "false"}
# Callers of the concurrent cases. boto3 gets fewer, in threads: with more of them it only becomes slower.
CALLERS = 64
BOTO3_THREADS = 32
# A child may have a million records to write before it measures anything.
CHILD_SECONDS = 600.0
# It may have a million objects to make.
_START_SECONDS = 120.0

P = TypeVar("P", bound=Process)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much work a run does.

    `seconds` is how long a variant runs in one round; `sizes` are the numbers of cached objects to compare; of
    writes that are not in S3, `backlog` are to last for a round, `drained` are uploaded, `replayed` are found at
    a start.
    """

    seconds: float
    sizes: tuple[int, ...]
    backlog: int
    drained: int
    replayed: int


def printed_address(process: Process, title: str) -> str:
    """The address that the process prints after `title`."""
    return process.wait_for_log(title, _START_SECONDS).removeprefix(title)


class Fixtures:
    """Everything that is started keeps its files in `directory`.

    Clusters, and what runs in processes of its own, have the code of the tree `build`; S3 stubs that of this one.
    """

    def __init__(self, directory: Path, scale: Scale, build: Path = ROOT) -> None:
        self.directory = directory
        self.scale = scale
        self.build = build
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
        """A router that all calls go through, and one node in front of `stub`."""
        return self._cluster(self.stub, THROUGH_ROUTER)

    @cached_property
    def grpc_cluster(self) -> Cluster:
        """The same, but the router reaches the node by gRPC."""
        return self._cluster(self.stub, THROUGH_ROUTER, {"RESP_ADDR": "off"})

    @cached_property
    def direct_cluster(self) -> Cluster:
        """A router that tells clients where the node is, and one node, whose writes are `memory`, before `stub`."""
        return self._cluster(self.stub, {}, {"WRITE_MODE": MEMORY})

    def _cluster(
        self, stub: StubProcess, router_env: Mapping[str, str], node_env: Mapping[str, str] | None = None
    ) -> Cluster:
        cluster = Cluster(
            self.new_directory(),
            stub.endpoint_url,
            BUCKET,
            nodes=1,
            router_env=router_env,
            node_env=node_env,
            build=self.build,
        )
        return self._stack.enter_context(cluster)

    @cached_property
    def redis(self) -> RedisServer:
        """A Redis server without a journal."""
        return self._stack.enter_context(RedisServer(self.new_directory(), durable=False))

    @cached_property
    def boto3(self) -> S3Client:
        """boto3 straight to `stub`."""
        return s3_client(self.stub.endpoint_url, connections=BOTO3_THREADS)

    @cached_property
    def empty_stub(self) -> StubProcess:
        """S3, empty at first: for writes, whose conditions would not hold where every key exists."""
        return self._stack.enter_context(StubProcess(self.new_directory(), synthetic=None))

    @cached_property
    def writing_cluster(self) -> Cluster:
        """A router that all calls go through, and one node in front of `empty_stub`."""
        return self._cluster(self.empty_stub, THROUGH_ROUTER)

    @cached_property
    def direct_writing_cluster(self) -> Cluster:
        """A router that tells clients where the node is, and one node in front of `empty_stub`."""
        return self._cluster(self.empty_stub, {})

    @cached_property
    def bare_chain(self) -> str:
        """The address of a bare gRPC router with a bare gRPC node behind it."""
        node = self.module("bare_node", "bench.peers.bare_chain", str(VALUE_BYTES))
        router = self.module(
            "bare_router", "bench.peers.bare_chain", str(VALUE_BYTES), node.wait_for_log("127.0.0.1:")
        )
        return router.wait_for_log("127.0.0.1:")

    def module(self, name: str, *arguments: str) -> Process:
        """A module of this benchmark as a process, ended with the rest."""
        return self._stack.enter_context(self._start(self.directory, name, *arguments))

    def cached_node(self, name: str, number: int, value_bytes: int) -> Process:
        """A node with so many values of so many bytes in memory; see `printed_address`."""
        return self.module(name, "bench.nodes.cached_objects", "serve", str(number), str(value_bytes))

    def samples(self, *arguments: str) -> Samples:
        """What a module of this benchmark measures in a process and a working directory of its own."""
        with self.while_it_lasts() as directory, self._start(directory, "child", *arguments) as child:
            return printed(child.wait_for_log("figures: ", CHILD_SECONDS))

    def done(self, *arguments: str) -> None:
        """Run a module of this benchmark to its end."""
        with self.while_it_lasts() as directory, self._start(directory, "child", *arguments) as child:
            code = child.wait(CHILD_SECONDS)
            assert code == 0, child.log_tail()

    def _start(self, directory: Path, name: str, module: str, *arguments: str) -> Process:
        variables = {"PYTHONPATH": str(self.build), **AWS_VARIABLES}
        if not (self.build / f"{module.replace('.', '/')}.py").exists():
            # Earlier builds, which this one is compared with, have all modules of `bench` in one folder.
            module = f"bench.{module.rpartition('.')[2]}"
        return Process(name, ("-m", module, *arguments), variables, directory, self.build)

    def new_directory(self) -> Path:
        """An empty one."""
        directory = self.directory / f"{next(self._number)}"
        directory.mkdir()
        return directory

    @contextmanager
    def while_it_lasts(self) -> Iterator[Path]:
        """An empty directory, which goes with all that is in it: journals are large."""
        with TemporaryDirectory(dir=self.directory) as directory:
            yield Path(directory)

    def new_key(self) -> str:
        """A key that nobody has used."""
        return f"cold/{self._series}/{next(self._number)}"

    def s3_gets(self) -> int:
        """How often S3 was asked for an object so far."""
        return self.stub.requests().get("GET", 0)
