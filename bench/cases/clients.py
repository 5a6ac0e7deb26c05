"""Shell. Milena's clients, with direct connections to the node, against redis-py with Redis, and boto3 with S3.

Clients run in processes of their own; where a server is measured too, it has a core of its own (`bench.cores`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import apart, with_processor_times
from bench.fixtures import BOTO3_THREADS, CALLERS, Fixtures
from bench.nodes.grpc_client import flush
from bench.peers.redis_server import why_not
from bench.workload.hot_keys import fill, fill_large, warm
from tests.support.cluster import Cluster

_MIB = 2**20
_LARGE = (1, 8)
# S3's latency in milliseconds for the misses among hits.
_S3_MS = 50


@contextmanager
def _placed(fixtures: Fixtures) -> Iterator[None]:
    """Put the node and the Redis server on one core, all else on the others, and all hot keys in memory."""
    cluster = fixtures.direct_cluster
    fixtures.stub.set_latency(0)
    warm(cluster.address)
    measured = [cluster.nodes[0].pid]
    if not why_not(client=True):
        fill(fixtures.redis.address)
        measured.append(fixtures.redis.pid)
    with apart(measured, [cluster.router.pid, fixtures.stub.pid]):
        yield


def _sync(fixtures: Fixtures, client: str, work: str, name: str = "") -> Variant | Skipped:
    """Return a variant of `bench.programs.sync_reads`."""
    name = name or client
    missing = why_not(client=True) if client == "redis_py" else ""
    if missing:
        return Skipped(name, missing)
    address = fixtures.redis.address if client == "redis_py" else fixtures.direct_cluster.address
    arguments = ("bench.programs.sync_reads", client, address, work, str(fixtures.scale.seconds))
    return Variant(
        name, lambda: with_processor_times(_server(fixtures, client), lambda: fixtures.samples(*arguments))
    )


def _async(fixtures: Fixtures, client: str, work: str, name: str = "") -> Variant | Skipped:
    """Return a variant of `bench.programs.async_reads`."""
    name = name or client
    missing = why_not(client=True) if client.startswith("redis_py") else ""
    if missing:
        return Skipped(name, missing)
    address = fixtures.redis.address if client.startswith("redis_py") else fixtures.direct_cluster.address
    arguments = ("bench.programs.async_reads", client, address, work, str(CALLERS), str(fixtures.scale.seconds))
    return Variant(
        name, lambda: with_processor_times(_server(fixtures, client), lambda: fixtures.samples(*arguments))
    )


def _server(fixtures: Fixtures, client: str) -> dict[str, int]:
    """Return the server process of `client`, by name and pid."""
    server = fixtures.redis if client.startswith("redis_py") else fixtures.direct_cluster.nodes[0]
    return {"server": server.pid}


@contextmanager
def _one_by_one(fixtures: Fixtures, work: str) -> Iterator[Sequence[Variant | Skipped]]:
    with _placed(fixtures):
        yield [_sync(fixtures, client, work) for client in ("milena", "redis_py")]


@contextmanager
def _many_callers(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    with _placed(fixtures):
        yield [
            _async(fixtures, client, "hot") for client in ("milena_uvloop", "milena", "redis_py_uvloop", "redis_py")
        ]


@contextmanager
def _near_cache(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    with _placed(fixtures):
        yield [_sync(fixtures, "milena", "near")]


@contextmanager
def _large_values(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    sizes = [mib * _MIB for mib in _LARGE]
    with _placed(fixtures):
        node = fixtures.direct_cluster.nodes[0]
        fill_large(node.resp, sizes)
        flush(node.address)
        if not why_not(client=True):
            fill_large(fixtures.redis.address, sizes)
        yield [
            _sync(fixtures, client, str(mib * _MIB), f"{client}_{mib}_mib")
            for mib in _LARGE
            for client in ("milena", "redis_py")
        ]


@contextmanager
def _cold_reads(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    # boto3 has no local server with a core of its own, so here all processes may use all cores.
    fixtures.stub.set_latency(0)
    arguments = (
        "bench.programs.sync_reads",
        "boto3",
        fixtures.stub.endpoint_url,
        "cold",
        str(fixtures.scale.seconds),
    )
    yield [
        _async(fixtures, "milena_uvloop", "cold"),
        Variant("boto3", lambda: with_processor_times({}, lambda: fixtures.samples(*arguments))),
    ]


@contextmanager
def _tail(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    with _placed(fixtures):
        fixtures.stub.set_latency(_S3_MS / 1000)
        yield [
            _async(fixtures, "milena_uvloop", "hot", "hits_alone"),
            _async(fixtures, "milena_uvloop", "mixed", "hits_among_misses"),
        ]


@contextmanager
def _router_get(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    fixtures.stub.set_latency(0)

    def read(cluster: Cluster) -> Samples:
        """Read, and measure the processor time of all three processes for each call."""
        servers = {"router": cluster.router.pid, "node": cluster.nodes[0].pid}
        arguments = ("bench.programs.router_reads", cluster.address, str(CALLERS), str(fixtures.scale.seconds))
        return with_processor_times(servers, lambda: fixtures.samples(*arguments))

    yield [
        Variant("over_resp", partial(read, fixtures.cluster)),
        Variant("over_grpc", partial(read, fixtures.grpc_cluster)),
    ]


@contextmanager
def _router_resp(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    fixtures.stub.set_latency(0)

    def read(cluster: Cluster) -> Samples:
        """Read, and measure the processor time of all three processes for each call."""
        servers = {"router": cluster.router.pid, "node": cluster.nodes[0].pid}
        arguments = (
            "bench.programs.async_reads",
            "milena_uvloop",
            cluster.address,
            "hot",
            str(CALLERS),
            str(fixtures.scale.seconds),
        )
        return with_processor_times(servers, lambda: fixtures.samples(*arguments))

    yield [
        Variant("redis_port", partial(read, fixtures.redis_port_cluster)),
        Variant("grpc", partial(read, fixtures.cluster)),
    ]


CASES = (
    Case(
        "sync_get",
        "read keys in memory, sync client straight to the node, one after another",
        "per_s",
        ["redis_py"],
        lambda fixtures: _one_by_one(fixtures, "one"),
        [Target("milena", "per_s", peer="redis_py", at_least=1.7)],
    ),
    Case(
        "async_get",
        f"read keys in memory, async client straight to the node, {CALLERS} callers",
        "per_s",
        ["redis_py_uvloop", "redis_py"],
        _many_callers,
        [Target("milena_uvloop", "per_s", peer="redis_py_uvloop", at_least=20)],
    ),
    Case(
        "get_many",
        "read 100 keys in memory at a time, sync client straight to the node; redis-py: MGET",
        "per_s",
        ["redis_py"],
        lambda fixtures: _one_by_one(fixtures, "many"),
        [Target("milena", "per_s", peer="redis_py", at_least=1.2)],
    ),
    Case(
        "near_cache",
        "read keys in the client's own memory, sync client",
        "per_s",
        [],
        _near_cache,
        [Target("milena", "per_s", at_least=1_000_000)],
    ),
    Case(
        "cold_reads",
        f"read keys never read before, async client straight to the node, {CALLERS} callers; S3 answers at once; "
        f"boto3 straight to S3, {BOTO3_THREADS} threads",
        "per_s",
        ["boto3"],
        _cold_reads,
        [Target("milena_uvloop", "per_s", peer="boto3", at_least=4)],
    ),
    Case(
        "tail",
        f"the time of hits, async client straight to the node, {CALLERS} callers; alone, and while one read in ten "
        f"misses and S3 takes {_S3_MS} ms",
        "p99_us",
        ["hits_alone"],
        _tail,
        [Target("hits_among_misses", "p99_us", peer="hits_alone", at_most=2.5)],
    ),
    Case(
        "router_get",
        f"read keys in memory through the router's gRPC server, {CALLERS} callers; the router reaches the node by "
        "the Redis protocol, or by gRPC",
        "per_s",
        ["over_grpc"],
        _router_get,
        [Target("over_resp", "per_s", peer="over_grpc", at_least=2)],
    ),
    Case(
        "router_resp",
        f"read keys in memory through the router, async client without direct access, {CALLERS} callers; by the "
        "router's Redis port, or by its gRPC",
        "per_s",
        ["grpc"],
        _router_resp,
        [Target("redis_port", "per_s", peer="grpc", at_least=12)],
    ),
    Case(
        "large_values",
        "read values of 1 and 8 MiB in memory, sync client straight to the node, one after another",
        "per_s",
        [f"redis_py_{mib}_mib" for mib in _LARGE],
        _large_values,
        [Target(f"milena_{mib}_mib", "per_s", peer=f"redis_py_{mib}_mib", at_least=1) for mib in _LARGE],
    ),
)
