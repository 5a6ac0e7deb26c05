"""Shell. The cost of a hit and the memory per object, which should not depend on the number of cached objects.

The variants of a case are numbers of objects. A target bounds the cost with the largest number by that with the
smallest.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count

import grpc

from bench.case import Case, Samples, Target, Variant
from bench.fixtures import Fixtures, printed_address
from bench.nodes.cached_objects import SMALL, key, node
from bench.nodes.node_parts import BUCKETS
from bench.workload.load import one_after_another
from milena_cache.reads.reader import Node
from milena_common.api.methods import GET
from milena_common.api.pb import cache_server_pb2 as pb

SMALLEST, LARGEST = 1_000, 1_000_000

# Without gRPC: lookups in one measurement, and the number of measurements, of which the best counts. It is
# processor time, to which other load of the machine only adds.
_LOOKUPS, _ATTEMPTS = 2_000, 20


@contextmanager
def _hits_in_process(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    yield [Variant(str(size), _lookups(node(size), size)) for size in fixtures.scale.sizes]


def _lookups(policy: Node, size: int) -> Callable[[], Samples]:
    def once() -> float:
        # New bytes objects, as in every request: without a cached hash, and not identical to the stored ones.
        targets = [BUCKETS.resolve("", key(random.randrange(size))) for _ in range(_LOOKUPS)]
        lookup = policy.lookup
        gc.disable()
        started = time.thread_time()
        for each in targets:
            if lookup(each) is None:
                raise AssertionError(f"{each} is not cached")
        took = time.thread_time() - started
        gc.enable()
        return took / _LOOKUPS * 1e6

    def run() -> Samples:
        gc.collect()
        return {"us_per_hit": min(once() for _ in range(_ATTEMPTS))}

    return run


@contextmanager
def _hits_through_grpc(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    with ExitStack() as stack:
        processes = [
            stack.enter_context(fixtures.cached_node(f"node_of_{size}", size, SMALL))
            for size in fixtures.scale.sizes
        ]
        channels = [
            stack.enter_context(grpc.insecure_channel(printed_address(process, "grpc door: ")))
            for process in processes
        ]
        yield [
            Variant(str(size), _calls(channel, size, fixtures.scale.seconds))
            for size, channel in zip(fixtures.scale.sizes, channels, strict=True)
        ]


def _calls(channel: grpc.Channel, size: int, seconds: float) -> Callable[[], Samples]:
    get: grpc.UnaryUnaryMultiCallable[pb.GetRequest, pb.GetResponse] = channel.unary_unary(
        GET.node_path, pb.GetRequest.SerializeToString, pb.GetResponse.FromString
    )

    def call() -> None:
        response = get(pb.GetRequest(key=key(random.randrange(size))), timeout=5)
        assert response.outcome == "hit"

    def run() -> Samples:
        samples = one_after_another(call, seconds)
        return {"us_per_hit": samples["p50_us"], "p99_us": samples["p99_us"]}

    return run


@contextmanager
def _memory(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    number = count()

    def weigh(size: int) -> Samples:
        with fixtures.module(
            f"weigh_{size}_{next(number)}", "bench.nodes.cached_objects", "weigh", str(size)
        ) as process:
            line = process.wait_for_log("bytes per object:", timeout=120)
        return {"bytes_per_object": float(line.rpartition(":")[2])}

    yield [Variant(str(size), partial(weigh, size)) for size in fixtures.scale.sizes if size >= 100_000]


CASES = (
    # No target: beyond the processor's caches, random access to memory is slower for any program.
    Case(
        "growth_node",
        "a hit by the number of objects cached: the node's policy in process, all keys read",
        "us_per_hit",
        [str(SMALLEST)],
        _hits_in_process,
    ),
    Case(
        "growth_grpc",
        "a hit by the number of objects cached: through the node's gRPC server, all keys read",
        "us_per_hit",
        [str(SMALLEST)],
        _hits_through_grpc,
        [Target(str(LARGEST), "us_per_hit", peer=str(SMALLEST), at_most=1.2)],
    ),
    Case(
        "memory",
        "memory per cached object beyond its key and its value of 100 bytes",
        "bytes_per_object",
        [],
        _memory,
        [Target(str(size), "bytes_per_object", at_most=260) for size in (100_000, LARGEST)],
    ),
)
