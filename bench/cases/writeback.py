"""Shell. Write-back: its drain rate, its cost for reads, and the duration of a start with a large backlog.

Each variant begins with a journal of its own, so that the uploads of one do not run during the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import with_processor_times
from bench.fixtures import BUCKET, CALLERS, Fixtures
from bench.nodes.grpc_client import NodeServer
from bench.peers.redis_benchmark import hot_key, redis_benchmark
from bench.peers.redis_benchmark import why_not as why_no_load
from bench.workload.load import with_callers
from bench.workload.new_objects import VALUE_BYTES
from milena_cache.objects.write_request import ENTRY_OVERHEAD
from milena_common.api.durability import THROUGH
from tests.support.cluster import Cluster
from tests.support.processes import Server

_HOT_KEYS = [hot_key(number) for number in range(100)]
# Commands for each second of a round through the Redis port: less than a node serves, so that the backlog lasts.
_COMMANDS = 60_000
_LATENCIES_MS = (0, 20)
_RECORDS = 1_000_000


@contextmanager
def _reads_while_flushing(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.empty_stub.set_latency(0)
    url, seconds = fixtures.empty_stub.endpoint_url, str(fixtures.scale.seconds)

    def in_process(backlog: int) -> Samples:
        return fixtures.samples("bench.programs.policy_reads", url, str(CALLERS), seconds, str(backlog))

    number = int(_COMMANDS * fixtures.scale.seconds)
    by_grpc = partial(_with_server, fixtures, partial(_hits, fixtures.scale.seconds))
    by_resp = partial(_with_server, fixtures, partial(_resp_hits, number))
    yield [
        Skipped(f"{name}_{state}", missing) if missing else Variant(f"{name}_{state}", partial(read, backlog))
        for name, read, missing in (
            ("in_process", in_process, ""),
            ("node_grpc", by_grpc, ""),
            ("node_resp", by_resp, why_no_load()),
        )
        for state, backlog in (("idle", 0), ("flushing", fixtures.scale.backlog))
    ]


def _with_server(fixtures: Fixtures, measure: Callable[[Server], Samples], backlog: int) -> Samples:
    """Measure hits of a node that was started on a journal with `backlog` writes to upload."""
    with fixtures.while_it_lasts() as directory:
        journal = str(directory / "journal")
        fixtures.done("bench.nodes.backlog", journal, str(backlog))
        url = fixtures.empty_stub.endpoint_url
        with Cluster(directory, url, BUCKET, nodes=1, node_env={"JOURNAL_DIR": journal}) as cluster:
            node = cluster.nodes[0]
            asyncio.run(_put_hot_keys(node))
            started, uploaded = time.perf_counter(), _uploads(node)
            samples = with_processor_times({"server": node.pid}, lambda: measure(node))
            uploads = (_uploads(node) - uploaded) / (time.perf_counter() - started)
            remaining = node.metrics().value("milena_writeback_dirty_entries")
            assert bool(remaining) is bool(backlog), "the backlog did not last"
            samples.pop("calls", None)
            return {**samples, "uploads_per_s": uploads}


async def _put_hot_keys(node: Server) -> None:
    async with NodeServer(node.address) as server:
        # Not all at once: the node is busy with its backlog, and ends calls that it cannot begin within a second.
        # Not one after the other: the backlog would push the first ones out of memory meanwhile.
        for start in range(0, len(_HOT_KEYS), 10):
            keys_of_part = _HOT_KEYS[start : start + 10]
            await asyncio.gather(*(server.put_object(key, bytes(VALUE_BYTES), THROUGH) for key in keys_of_part))


def _hits(seconds: float, node: Server) -> Samples:
    """Read by gRPC, the node's slower port."""

    async def read() -> Samples:
        keys = cycle(_HOT_KEYS)
        async with NodeServer(node.address) as server:

            async def call() -> None:
                assert (await server.get(next(keys))).outcome == "hit"

            return await with_callers(call, CALLERS, seconds)

    return asyncio.run(read())


def _resp_hits(number: int, node: Server) -> Samples:
    """Read by the Redis protocol, `number` times.

    Reads go on for a while before: uploads need some samples of the load, one in a tenth of a second, until they
    have given way.
    """
    redis_benchmark(node.resp, "get", _COMMANDS // 2, len(_HOT_KEYS))
    hits = node.metrics().value("milena_cache_hits_total")
    samples = redis_benchmark(node.resp, "get", number, len(_HOT_KEYS))
    assert node.metrics().value("milena_cache_hits_total") - hits >= number, "not every GET was a hit"
    return {**samples, "calls": float(number)}


def _uploads(node: Server) -> float:
    return node.metrics().value("milena_writeback_flushes_total")


@contextmanager
def _flush(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    number = str(fixtures.scale.drained)

    def drain(way: str, latency_ms: int) -> Samples:
        fixtures.empty_stub.set_latency(latency_ms / 1000)
        return fixtures.samples("bench.programs.drain", way, fixtures.empty_stub.endpoint_url, number)

    yield [
        Variant(f"{way}_{latency_ms}ms", partial(drain, way, latency_ms))
        for latency_ms in _LATENCIES_MS
        for way in ("milena", "obstore")
    ]


@contextmanager
def _replay(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    number = str(fixtures.scale.replayed)
    with fixtures.while_it_lasts() as directory:
        journal = str(directory / "journal")
        fixtures.done("bench.nodes.backlog", journal, number)
        yield [Variant(number, lambda: fixtures.samples("bench.programs.replayed", journal, number))]


CASES = (
    Case(
        "reads_while_flushing",
        f"read keys in memory, {CALLERS} callers, with a backlog to upload and without",
        "per_s",
        ["in_process_idle", "node_grpc_idle", "node_resp_idle"],
        _reads_while_flushing,
        [Target("node_resp_flushing", "per_s", peer="node_resp_idle", at_least=0.95)],
    ),
    Case(
        "flush",
        "upload writes of 1 KiB from the journal, S3 answering after 0 and 20 ms; obstore: its requests alone",
        "per_s",
        [f"obstore_{latency_ms}ms" for latency_ms in _LATENCIES_MS],
        _flush,
        [
            Target("milena_0ms", "per_s", peer="obstore_0ms", at_least=0.8),
            # The upload throttle assumes 200 µs, waits for the interpreter's lock included.
            Target("milena_0ms", "loop_us", at_most=200),
        ],
    ),
    Case(
        "replay",
        "start on a journal with writes of 1 KiB that are not in S3",
        "seconds",
        [],
        _replay,
        [
            Target(str(_RECORDS), "seconds", at_most=8),
            Target(str(_RECORDS), "beyond_key", at_most=ENTRY_OVERHEAD),
        ],
    ),
)
