"""Shell. A fourth node joins a ring of three: how long slots are stopped, and what it costs in hits.

Each round has a cluster of its own. Its figures during the join are compared with its figures before, since router,
nodes, S3 stub and clients share the machine's cores.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from math import inf
from typing import Any

from bench.case import Case, Samples, Target, Variant
from bench.fixtures import BUCKET, CALLERS, Fixtures
from bench.peers.stub_process import StubProcess
from bench.summary import percentile
from bench.workload.load import with_callers
from bench.workload.new_objects import VALUE_BYTES
from milena_cache.handover.source import PAUSE_BUCKETS
from milena_client import AsyncMilena, MilenaError
from milena_common.api.durability import BACK
from milena_common.cluster.slots import SLOTS
from tests.support.cluster import Cluster

_NODES = 3
# The share of the measured rate of durable writes that is sent during the join.
_SHARE = 0.8
# What copies cost is measured by itself (`copies`).
_ONE_JOURNAL = {"COPIES": "1"}
# Writes go to so many keys, and none of them is uploaded.
_BUSY_KEYS = 10_000
_HELD_BACK = {**_ONE_JOURNAL, "FLUSH_DELAY_MS": "3600000", "DIRTY_MAX_BYTES": "2GiB", "DIRTY_MEMORY_BYTES": "2GiB"}
_MAX_IN_FLIGHT = 1_000
# What is dirty besides them, in values of 1 KiB and of 64 KiB.
_BACKLOG_BYTES = 200_000_000
_SIZES = (VALUE_BYTES, 2**16)
# Seconds between two looks at a cluster, and until a join is given up.
_PAUSE = 0.05
_JOIN_SECONDS = 120.0

# Objects that are read, the exponent of their popularity, and how many of them each node keeps.
_OBJECTS = 50_000
_EXPONENT = 0.99
_KEPT = "5000"
_S3_SECONDS = 0.02
_READERS = 16
# The hit ratio is measured for so long, after the nodes were filled for as long, and in parts.
_WINDOW_SECONDS = 60.0
_QUICK_WINDOW_SECONDS = 3.0  # in a smoke test
_QUICK_BACKLOG_BYTES = 2_000_000  # the same
_PARTS = 12


@contextmanager
def _cluster(
    fixtures: Fixtures, synthetic: int | None, env: Mapping[str, str]
) -> Iterator[tuple[Cluster, StubProcess]]:
    with (
        fixtures.while_it_lasts() as directory,
        StubProcess(directory, synthetic) as stub,
        Cluster(directory, stub.endpoint_url, BUCKET, nodes=_NODES, node_env=env, build=fixtures.build) as cluster,
    ):
        cluster.wait_for_ring(_NODES)
        yield cluster, stub


def _join(cluster: Cluster) -> float:
    """Add a node; return how many seconds passed from its first slot until no slot moved any more."""
    newcomer = cluster.add_node(wait=False)
    began = 0.0
    until = time.perf_counter() + _JOIN_SECONDS
    while time.perf_counter() < until:
        time.sleep(_PAUSE)
        if not newcomer.ready():
            continue
        began = began or time.perf_counter()
        slots = newcomer.metrics().value("milena_ring_slots")
        if slots >= SLOTS // (_NODES + 1) and not cluster.router.metrics().value(
            "milena_router_ring_pending_slots"
        ):
            return time.perf_counter() - began
    raise TimeoutError(f"the slots did not move within {_JOIN_SECONDS:g} s")


# ---- the pause


@contextmanager
def _pauses(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    yield [
        Variant("no_backlog", partial(_pause, fixtures, VALUE_BYTES, 0)),
        *(
            Variant(
                f"200_mb_of_{size}",
                partial(
                    _pause,
                    fixtures,
                    size,
                    (_BACKLOG_BYTES if fixtures.scale.seconds >= 1 else _QUICK_BACKLOG_BYTES) // size,
                ),
            )
            for size in _SIZES
        ),
    ]


def _pause(fixtures: Fixtures, size: int, backlog: int) -> Samples:
    with _cluster(fixtures, None, _HELD_BACK) as (cluster, _):
        return asyncio.run(_writes_during_a_join(cluster, size, backlog, 5 * fixtures.scale.seconds))


async def _writes_during_a_join(cluster: Cluster, size: int, backlog: int, seconds: float) -> Samples:
    value = bytes(VALUE_BYTES)
    async with AsyncMilena(cluster.address) as client:
        numbers = iter(range(backlog))

        async def fill() -> None:
            for number in numbers:
                await client.set(f"backlog/{number}", bytes(size), durability=BACK)

        await asyncio.gather(*(fill() for _ in range(CALLERS)))

        async def write() -> None:
            await client.set(f"busy/{random.randrange(_BUSY_KEYS)}", value, durability=BACK)

        rate = (await with_callers(write, CALLERS, seconds))["per_s"]
        before, _ = await _at_rate(write, _SHARE * rate, asyncio.create_task(asyncio.sleep(seconds)))
        dirty = cluster.total("milena_writeback_dirty_bytes")
        # Slots moved when the cluster was started, too.
        moved = _pauses_so_far(cluster)
        join = asyncio.create_task(asyncio.to_thread(_join, cluster))
        during, failed = await _at_rate(write, _SHARE * rate, join)
        pauses = [after - earlier for earlier, after in zip(moved, _pauses_so_far(cluster), strict=True)]
    return {
        "p99_ms": _pause_at(pauses, 0.99) * 1e3,
        "p50_ms": _pause_at(pauses, 0.5) * 1e3,
        "max_ms": _pause_at(pauses, 1.0) * 1e3,
        "per_s": rate,
        "dirty_mb": dirty / 1e6,
        "join_s": join.result(),
        "write_p99_ms_before": percentile(before, 0.99) * 1e3,
        "write_p99_ms": percentile(during, 0.99) * 1e3,
        "write_max_ms_before": before[-1] * 1e3,
        "write_max_ms": during[-1] * 1e3,
        "failed": float(failed),
    }


async def _at_rate(
    call: Callable[[], Awaitable[None]], per_s: float, until: asyncio.Task[Any]
) -> tuple[list[float], int]:
    """Begin `per_s` calls a second until `until` is done.

    Returns how long each took since it was due, ascending, in seconds, and how many failed.
    """
    took: list[float] = []
    failed = 0
    calls: set[asyncio.Task[None]] = set()

    async def one(due: float) -> None:
        nonlocal failed
        try:
            await call()
        except MilenaError:
            failed += 1
        took.append(time.perf_counter() - due)

    due = time.perf_counter()
    while not until.done():
        while due <= time.perf_counter() and len(calls) < _MAX_IN_FLIGHT:
            task = asyncio.create_task(one(due))
            calls.add(task)
            task.add_done_callback(calls.discard)
            due += 1 / per_s
        await asyncio.sleep(0.001)
    await asyncio.gather(*calls)
    return sorted(took), failed


def _pauses_so_far(cluster: Cluster) -> list[float]:
    """Return for each bound how many slots were stopped at most so long, and for how many in all."""
    scraped = [node.metrics() for node in cluster.nodes if node.ready()]
    bounds = [*map(str, PAUSE_BUCKETS), "+Inf"]
    return [
        sum(each.value("milena_handover_pause_seconds_bucket", le=bound) for each in scraped) for bound in bounds
    ]


def _pause_at(observed: Sequence[float], share: float) -> float:
    """Return the bound of the first bucket up to which `share` of the slots that moved were stopped, in seconds."""
    assert observed[-1] >= SLOTS // (_NODES + 1), "slots have moved without a hand-over"
    for bound, number in zip(PAUSE_BUCKETS, observed, strict=False):
        if number >= share * observed[-1]:
            return bound
    return inf


# ---- hits


@contextmanager
def _hit_ratios(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    yield [Variant("zipf", partial(_hit_ratio, fixtures))]


def _hit_ratio(fixtures: Fixtures) -> Samples:
    with _cluster(fixtures, VALUE_BYTES, {**_ONE_JOURNAL, "LRU_SIZE": _KEPT}) as (cluster, stub):
        stub.set_latency(_S3_SECONDS)
        seconds = _WINDOW_SECONDS if fixtures.scale.seconds >= 1 else _QUICK_WINDOW_SECONDS
        return asyncio.run(_reads_during_a_join(cluster, stub, seconds))


async def _reads_during_a_join(cluster: Cluster, stub: StubProcess, seconds: float) -> Samples:
    weights = [*accumulate(rank**-_EXPONENT for rank in range(1, _OBJECTS + 1))]
    stop = asyncio.Event()
    async with AsyncMilena(cluster.address) as client:

        async def read() -> None:
            while not stop.is_set():
                for number in random.choices(range(_OBJECTS), cum_weights=weights, k=100):
                    await client.get(f"object/{number}")

        async def part() -> tuple[float, float, int]:
            """Return hits, reads and requests to S3 of the next part of a window."""
            first, gets = _hits_and_reads(cluster), stub.requests().get("GET", 0)
            await asyncio.sleep(seconds / _PARTS)
            last = _hits_and_reads(cluster)
            return last[0] - first[0], last[1] - first[1], stub.requests().get("GET", 0) - gets

        readers = [asyncio.create_task(read()) for _ in range(_READERS)]
        await asyncio.sleep(seconds)
        before = [await part() for _ in range(_PARTS)]
        join = asyncio.create_task(asyncio.to_thread(_join, cluster))
        after = [await part() for _ in range(_PARTS)]
        joined = await join
        stop.set()
        await asyncio.gather(*readers)
    ratio_before, ratio_after = _ratio(before), _ratio(after)
    return {
        "of_before": ratio_after / ratio_before,
        "worst_of_before": min(hits / reads for hits, reads, _ in after) / ratio_before,
        "ratio_before": ratio_before,
        "ratio_after": ratio_after,
        "gets_per_read_before": sum(gets for *_, gets in before) / sum(reads for _, reads, _ in before),
        "gets_per_read_after": sum(gets for *_, gets in after) / sum(reads for _, reads, _ in after),
        "reads_per_s": sum(reads for _, reads, _ in after) / seconds,
        "join_s": joined,
    }


def _hits_and_reads(cluster: Cluster) -> tuple[float, float]:
    scraped = [node.metrics() for node in cluster.nodes if node.ready()]
    hits = sum(each.value("milena_cache_hits_total") for each in scraped)
    return hits, hits + sum(each.value("milena_cache_misses_total") for each in scraped)


def _ratio(parts: Sequence[tuple[float, float, int]]) -> float:
    return sum(hits for hits, _, _ in parts) / sum(reads for _, reads, _ in parts)


CASES = (
    Case(
        "move_pause",
        "a node joins a ring of three, at 80 % of the rate of durable writes, with 200 MB that are not in S3: for "
        "how long each slot is stopped (bounds of the buckets), and how long writes take since they were due",
        "p99_ms",
        [],
        _pauses,
        [Target(name, "p99_ms", at_most=50) for name in ("no_backlog", *(f"200_mb_of_{size}" for size in _SIZES))],
    ),
    Case(
        "join_hit_ratio",
        f"a node joins a ring of three, {_READERS} callers read {_OBJECTS} objects by a Zipf law, of which each "
        "node keeps a tenth: the hit ratio in the minute after as a part of that in the minute before",
        "of_before",
        [],
        _hit_ratios,
        [Target("zipf", "of_before", at_least=0.95)],
    ),
)
