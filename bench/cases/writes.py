"""Shell. Writes that are acknowledged from the journal, against Redis with its journal, and boto3 without one.

A node's policy, journal and write-back run in a process of their own with uvloop, as in a node, and are called
there without a server (`in_process`); then by Milena's client with a direct connection, through the node's gRPC
server, and through router and node. gRPC in Python is the bound of the last two.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import with_processor_times
from bench.fixtures import BOTO3_THREADS, BUCKET, CALLERS, Fixtures
from bench.nodes.grpc_client import NodeServer, flush
from bench.peers.redis_server import RedisServer, why_not
from bench.workload.load import with_callers, with_threads
from bench.workload.new_objects import new_objects
from milena_client import AsyncMilena
from milena_common.api.durability import BACK
from tests.support.s3.moto_server import s3_client

# S3's latency in milliseconds in the comparison with boto3.
_S3_MS = 20
_AT_ONCE = 0.1
_NOT_YET = 60.0


def _in_process(fixtures: Fixtures, name: str, callers: int, flush_delay: float = _AT_ONCE) -> Variant:
    url, seconds = fixtures.empty_stub.endpoint_url, fixtures.scale.seconds
    arguments = ("bench.programs.policy_writes", url, str(callers), str(seconds), str(flush_delay))
    return Variant(name, lambda: fixtures.samples(*arguments))


def _with_server(fixtures: Fixtures, callers: int) -> Variant:
    address = fixtures.writing_cluster.nodes[0].address
    new_object = new_objects(secrets.token_hex(4))

    async def write() -> Samples:
        async with NodeServer(address) as server:

            async def call() -> None:
                assert (await server.put_object(*new_object(), BACK)).durability == BACK

            return await _flushed(server, call, callers, fixtures.scale.seconds)

    return Variant("node_grpc", lambda: asyncio.run(write()))


def _through_router(fixtures: Fixtures, callers: int) -> Variant:
    cluster = fixtures.writing_cluster
    new_object = new_objects(secrets.token_hex(4))

    async def write() -> Samples:
        async with AsyncMilena(cluster.address) as client, NodeServer(cluster.nodes[0].address) as server:

            async def call() -> None:
                assert (await client.set(*new_object(), durability=BACK)).durability == BACK

            return await _flushed(server, call, callers, fixtures.scale.seconds)

    return Variant("router_grpc", lambda: asyncio.run(write()))


async def _flushed(
    server: NodeServer, call: Callable[[], Awaitable[None]], callers: int, seconds: float
) -> Samples:
    """Return the samples of writing; the rest is uploaded before the next variant starts."""
    samples = await with_callers(call, callers, seconds)
    await server.wait_flushed()
    del samples["calls"]
    return samples


def _direct(fixtures: Fixtures, callers: int) -> Variant:
    cluster = fixtures.direct_writing_cluster
    arguments = ("milena_uvloop", cluster.address, str(callers), str(fixtures.scale.seconds))

    node = cluster.nodes[0]

    def puts() -> float:
        return node.metrics().value("milena_operation_duration_seconds_count", operation="put")

    def write() -> Samples:
        before = puts()
        samples = fixtures.samples("bench.programs.async_writes", *arguments)
        flush(node.address)
        return {**samples, "calls": puts() - before}

    # The node's processor time includes the uploads.
    return Variant("direct", lambda: with_processor_times({"server": node.pid}, write))


def _redis(fixtures: Fixtures, name: str, callers: int) -> Variant | Skipped:
    missing = why_not(client=name != "redis_pipelined")
    if missing:
        return Skipped(name, missing)

    def write() -> Samples:
        with fixtures.while_it_lasts() as directory, RedisServer(directory, durable=True) as server:
            seconds = str(fixtures.scale.seconds)
            return fixtures.samples("bench.programs.async_writes", name, server.address, str(callers), seconds)

    return Variant(name, write)


@contextmanager
def _journal_set(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.empty_stub.set_latency(0)
    yield [
        _in_process(fixtures, "in_process", CALLERS),
        _in_process(fixtures, "in_process_no_uploads", CALLERS, _NOT_YET),
        _direct(fixtures, CALLERS),
        _with_server(fixtures, CALLERS),
        _through_router(fixtures, CALLERS),
        _redis(fixtures, "redis_py", CALLERS),
        _redis(fixtures, "redis_py_uvloop", CALLERS),
        _redis(fixtures, "redis_pipelined", CALLERS),
    ]


@contextmanager
def _journal_single(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.empty_stub.set_latency(0)
    yield [
        _in_process(fixtures, "in_process", 1),
        _direct(fixtures, 1),
        _with_server(fixtures, 1),
        _redis(fixtures, "redis_py", 1),
    ]


@contextmanager
def _writes_vs_boto3(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    fixtures.empty_stub.set_latency(_S3_MS / 1000)
    boto3 = s3_client(fixtures.empty_stub.endpoint_url, connections=BOTO3_THREADS)
    new_object = new_objects(secrets.token_hex(4))

    def call() -> None:
        key, value = new_object()
        boto3.put_object(Bucket=BUCKET, Key=key.decode(), Body=value)

    def write() -> Samples:
        samples = with_threads(call, BOTO3_THREADS, fixtures.scale.seconds)
        del samples["calls"]
        return samples

    yield [
        _in_process(fixtures, "in_process", CALLERS),
        _with_server(fixtures, CALLERS),
        _through_router(fixtures, CALLERS),
        Variant("boto3", write),
    ]


CASES = (
    Case(
        "journal_set",
        f"write new keys, acknowledged when they are on disk, {CALLERS} callers",
        "per_s",
        ["redis_py", "redis_py_uvloop", "redis_pipelined"],
        _journal_set,
        [
            Target("direct", "per_s", peer="redis_py_uvloop", at_least=2),
        ],
    ),
    Case(
        "journal_single",
        "write new keys, acknowledged when they are on disk, one after another",
        "p50_us",
        ["redis_py"],
        _journal_single,
        [
            *(Target(variant, "p50_us", at_most=1000) for variant in ("in_process", "direct", "node_grpc")),
            Target("direct", "p50_us", peer="redis_py", at_most=1.3),
        ],
    ),
    Case(
        "writes_vs_boto3",
        f"write new keys, {CALLERS} callers; boto3 straight to S3, {BOTO3_THREADS} threads; "
        f"S3 answers after {_S3_MS} ms",
        "per_s",
        ["boto3"],
        _writes_vs_boto3,
        [Target("in_process", "per_s", peer="boto3", at_least=30)],
    ),
)
