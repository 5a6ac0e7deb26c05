"""Shell. The processes that cases measure: S3 stubs, Milena clusters, the bare gRPC chain. Started at first use.

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
from milena_common.tls.settings import TlsFiles
from tests.support.certificates import Authority, tls_variables, write_files
from tests.support.cluster import Cluster
from tests.support.processes import Process
from tests.support.s3.moto_server import AWS_VARIABLES, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "bench"
THROUGH_ROUTER = {"DIRECT_ACCESS": "false"}
# Its address is that of the ring which the router sends to clients.
REDIS_PORT = {"RESP_ADDR": "127.0.0.1:0"}
# An access key of S3 endpoints, and its secret.
S3_KEYS = ("bench", "a-secret-of-the-bench")
# Callers of the concurrent cases. boto3 gets fewer, in threads: more of them only make it slower.
CALLERS = 64
BOTO3_THREADS = 32
# A child may have to write a million records before it measures.
CHILD_SECONDS = 600.0
# A node may have to create a million objects at its start.
_START_SECONDS = 120.0

P = TypeVar("P", bound=Process)


@dataclass(frozen=True, slots=True)
class Scale:
    """The amount of work of a run.

    `seconds` is how long a variant runs in one round; `sizes` are the numbers of cached objects to compare; of
    writes that are not in S3, `backlog` are to last for a round, `drained` are uploaded, `replayed` are found at
    a start; `file_rows` are those of a parquet file, `large_bytes` those of a large object.
    """

    seconds: float
    sizes: tuple[int, ...]
    backlog: int
    drained: int
    replayed: int
    file_rows: int = 1000
    large_bytes: int = 128 * 2**20


def printed_address(process: Process, title: str) -> str:
    """Return the address that the process prints after `title`."""
    return process.wait_for_log(title, _START_SECONDS).removeprefix(title)


class Fixtures:
    """The processes of a run; all files are in `directory`.

    Clusters and measuring processes run the code of the tree `build`; S3 stubs that of this one.
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
        """Return an S3 in which every key exists."""
        return self._stack.enter_context(StubProcess(self.directory, synthetic=VALUE_BYTES))

    @cached_property
    def cluster(self) -> Cluster:
        """Return a router that all calls go through, and one node in front of `stub`."""
        return self._cluster(self.stub, THROUGH_ROUTER)

    @cached_property
    def redis_port_cluster(self) -> Cluster:
        """Return the same as `cluster`, and the router has a Redis port, which clients use."""
        return self._cluster(self.stub, {**THROUGH_ROUTER, **REDIS_PORT})

    @cached_property
    def grpc_cluster(self) -> Cluster:
        """Return the same, but the router reaches the node by gRPC."""
        return self._cluster(self.stub, THROUGH_ROUTER, {"RESP_ADDR": "off"})

    @cached_property
    def direct_cluster(self) -> Cluster:
        """Return a router with direct access, and one node, whose writes are `memory`, in front of `stub`."""
        return self._cluster(self.stub, {}, {"WRITE_MODE": MEMORY})

    @cached_property
    def tls_files(self) -> TlsFiles:
        """Return the files of a certificate for this machine."""
        authority = Authority()
        return write_files(self.directory, authority.pem, authority.issue())

    @cached_property
    def encrypted(self) -> tuple[Cluster, TlsFiles]:
        """Return a router with direct access and one node, plain and with TLS, and the files of a client."""
        files = self.tls_files
        variables = {**tls_variables(files), "TLS": "both", "TLS_CLIENT_AUTH": "off", "CLUSTER_CERT_NAMES": ""}
        return self._cluster(self.stub, variables, {**variables, "WRITE_MODE": MEMORY}), files

    @cached_property
    def encrypted_redis(self) -> RedisServer:
        """Return a Redis server with a port with TLS."""
        return self._stack.enter_context(RedisServer(self.new_directory(), durable=False, tls=self.tls_files))

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
        """Return a Redis server without a journal."""
        return self._stack.enter_context(RedisServer(self.new_directory(), durable=False))

    @cached_property
    def boto3(self) -> S3Client:
        """Return a boto3 client of `stub`."""
        return s3_client(self.stub.endpoint_url, connections=BOTO3_THREADS)

    @cached_property
    def empty_stub(self) -> StubProcess:
        """Return an initially empty S3: for writes, whose conditions would not hold where every key exists."""
        return self._stack.enter_context(StubProcess(self.new_directory(), synthetic=None))

    @cached_property
    def large_stub(self) -> StubProcess:
        """Return an S3 in which every key is a large object."""
        return self._stack.enter_context(StubProcess(self.new_directory(), synthetic=self.scale.large_bytes))

    @cached_property
    def large_cluster(self) -> Cluster:
        """Return a router with direct access, and a node that has room for two objects of `large_stub`."""
        # Blocks take half of it.
        return self._cluster(self.large_stub, {}, {"LRU_BYTES": str(4 * self.scale.large_bytes)})

    @cached_property
    def s3_cluster(self) -> Cluster:
        """Return a router and one node with S3 endpoints in front of `stub`."""
        return self._s3_cluster(self.stub)

    def s3_of(self, size: int) -> tuple[StubProcess, Cluster]:
        """Return an S3 in which every key has `size` bytes, and a cluster with S3 endpoints in front of it."""
        if size == VALUE_BYTES:
            return self.stub, self.s3_cluster
        stub = self._stack.enter_context(StubProcess(self.new_directory(), synthetic=size))
        return stub, self._s3_cluster(stub)

    def _s3_cluster(self, stub: StubProcess) -> Cluster:
        keys = self.new_directory() / "keys"
        keys.write_text(" ".join(S3_KEYS))
        return self._cluster(stub, {}, {"S3_KEYS_FILE": str(keys)})

    @cached_property
    def writing_cluster(self) -> Cluster:
        """Return a router that all calls go through, and one node in front of `empty_stub`."""
        return self._cluster(self.empty_stub, THROUGH_ROUTER)

    @cached_property
    def direct_writing_cluster(self) -> Cluster:
        """Return a router with direct access, and one node in front of `empty_stub`."""
        return self._cluster(self.empty_stub, {})

    @cached_property
    def bare_chain(self) -> str:
        """Return the address of a bare gRPC router with a bare gRPC node behind it."""
        node = self.module("bare_node", "bench.peers.bare_chain", str(VALUE_BYTES))
        router = self.module(
            "bare_router", "bench.peers.bare_chain", str(VALUE_BYTES), node.wait_for_log("127.0.0.1:")
        )
        return router.wait_for_log("127.0.0.1:")

    def module(self, name: str, *arguments: str) -> Process:
        """Start a module of this benchmark as a process, which `close` ends."""
        return self._stack.enter_context(self._start(self.directory, name, *arguments))

    def cached_node(self, name: str, number: int, value_bytes: int) -> Process:
        """Return a node with `number` values of `value_bytes` in memory; see `printed_address`."""
        return self.module(name, "bench.nodes.cached_objects", "serve", str(number), str(value_bytes))

    def samples(self, *arguments: str) -> Samples:
        """Return the samples of a module of this benchmark, run in its own process and working directory."""
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
            # Earlier builds, for comparison, have all modules of `bench` in one folder.
            module = f"bench.{module.rpartition('.')[2]}"
        return Process(name, ("-m", module, *arguments), variables, directory, self.build)

    def new_directory(self) -> Path:
        """Return a new empty directory."""
        directory = self.directory / f"{next(self._number)}"
        directory.mkdir()
        return directory

    @contextmanager
    def while_it_lasts(self) -> Iterator[Path]:
        """Yield an empty directory, removed at the end of the context, because journals are large."""
        with TemporaryDirectory(dir=self.directory) as directory:
            yield Path(directory)

    def new_key(self) -> str:
        """Return a key that was never used."""
        return f"cold/{self._series}/{next(self._number)}"

    def s3_gets(self) -> int:
        """Return the number of GETs that S3 has had so far."""
        return self.stub.requests().get("GET", 0)
