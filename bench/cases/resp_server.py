"""Shell. A node's RESP server against redis-server, by redis-benchmark; and the cost of a hit through it.

The node's metrics verify that every GET was a hit: redis-benchmark does not check replies.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import apart, with_processor_times
from bench.fixtures import Fixtures, printed_address
from bench.nodes.grpc_client import flush
from bench.peers.redis_benchmark import CONNECTIONS, redis_benchmark
from bench.peers.redis_benchmark import why_not as why_no_load
from bench.peers.redis_server import why_not
from bench.workload.hot_keys import NUMBER, fill, read_counter, reset_counter, warm
from bench.workload.new_objects import VALUE_BYTES
from tests.support.processes import Node, Process

# Commands for each second of a round: about the rate of a Redis server, less where a node needs much longer.
_COMMANDS = 120_000
_PIPELINED_COMMANDS = 500_000
_MISSES = 3_000
_INCREMENTS = 20_000
# SETs of one transaction.
_SETS = 10
# Keys are drawn from so many at random, so that hardly one is read twice.
_UNREAD_KEYS = 10**9
_PIPELINE = 32
_OPEN = (1, 100, 2_000)


@contextmanager
def _redis_benchmark(fixtures: Fixtures, pipeline: int) -> Iterator[Sequence[Variant | Skipped]]:
    missing = why_no_load()
    if missing:
        yield [
            Skipped(f"{server}_{command}", missing) for server in ("node", "redis") for command in ("get", "set")
        ]
        return
    fixtures.stub.set_latency(0)
    cluster = fixtures.direct_cluster
    node = cluster.nodes[0]
    number = int((_PIPELINED_COMMANDS if pipeline > 1 else _COMMANDS) * fixtures.scale.seconds)

    def load(server: Process, address: str, command: str) -> Samples:
        """Send the commands, and measure the server's processor time for each, background work included."""
        return with_processor_times(
            {"server": server.pid},
            lambda: {**redis_benchmark(address, command, number, NUMBER, pipeline), "calls": float(number)},
        )

    warm(cluster.address)
    measured = [node.pid]
    variants: list[Variant | Skipped] = [
        Variant("node_get", lambda: _gets(node, lambda: load(node, node.resp, "get"), number)),
        Variant("node_set", lambda: _sets(node, lambda: load(node, node.resp, "set"), number)),
    ]
    without_peer = why_not(client=False)
    if without_peer:
        variants += [Skipped(f"redis_{command}", without_peer) for command in ("get", "set")]
    else:
        redis = fixtures.redis
        fill(redis.address)
        measured.append(redis.pid)
        variants += [Variant(f"redis_{each}", partial(load, redis, redis.address, each)) for each in ("get", "set")]
    with apart(measured, [cluster.router.pid, fixtures.stub.pid]):
        yield variants


def _gets(node: Node, load: Callable[[], Samples], number: int) -> Samples:
    """Send GETs, and verify by the node's metrics that all of them were hits."""
    hits = node.metrics().value("milena_cache_hits_total")
    samples = load()
    assert node.metrics().value("milena_cache_hits_total") - hits >= number, "not every GET was a hit"
    return samples


def _sets(node: Node, load: Callable[[], Samples], number: int) -> Samples:
    """Send SETs with write-back running; the rest is uploaded before the next variant starts."""
    before, started = node.metrics(), time.perf_counter()
    samples = load()
    took, after = time.perf_counter() - started, node.metrics()

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("milena_operation_duration_seconds_count", operation="put") >= number, "not every SET was one"
    assert not grown("milena_error_counter", operation="put"), "a SET failed"
    flush(node.address)
    return {**samples, "uploads_per_s": grown("milena_writeback_flushes_total") / took}


@contextmanager
def _transactions(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.stub.set_latency(0)
    cluster = fixtures.direct_cluster
    node = cluster.nodes[0]
    seconds = str(fixtures.scale.seconds)

    def load(server: Process, address: str) -> Samples:
        numbers = str(server.pid), str(CONNECTIONS), str(_SETS)
        return fixtures.samples("bench.programs.transactions", address, *numbers, seconds)

    def run() -> Samples:
        samples = load(node, node.resp)
        flush(node.address)
        return samples

    variants: list[Variant | Skipped] = [Variant("node", run)]
    measured = [node.pid]
    if without_peer := why_not(client=False):
        variants.append(Skipped("redis", without_peer))
    else:
        redis = fixtures.redis
        measured.append(redis.pid)
        variants.append(Variant("redis", lambda: load(redis, redis.address)))
    with apart(measured, [cluster.router.pid, fixtures.stub.pid]):
        yield variants


@contextmanager
def _counter(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    if missing := why_no_load():
        yield [Skipped(server, missing) for server in ("node", "redis")]
        return
    fixtures.stub.set_latency(0)
    cluster = fixtures.direct_cluster
    node = cluster.nodes[0]
    number = int(_INCREMENTS * fixtures.scale.seconds)

    def load(server: Process, address: str) -> Samples:
        """Increment the one key, and verify its value."""
        reset_counter(address)
        samples = with_processor_times(
            {"server": server.pid}, lambda: {**redis_benchmark(address, "incr", number, 1), "calls": float(number)}
        )
        # redis-benchmark sends a few more than were requested, if its connections do not divide them.
        assert read_counter(address) >= number, "an increment was lost"
        return samples

    variants: list[Variant | Skipped] = [Variant("node", lambda: load(node, node.resp))]
    measured = [node.pid]
    if without_peer := why_not(client=False):
        variants.append(Skipped("redis", without_peer))
    else:
        redis = fixtures.redis
        measured.append(redis.pid)
        variants.append(Variant("redis", lambda: load(redis, redis.address)))
    with apart(measured, [cluster.router.pid, fixtures.stub.pid]):
        yield variants


@contextmanager
def _misses(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    if missing := why_no_load():
        yield [Skipped("node", missing)]
        return
    fixtures.stub.set_latency(0)
    cluster = fixtures.direct_cluster
    node = cluster.nodes[0]
    number = int(_MISSES * fixtures.scale.seconds)

    def load() -> Samples:
        return {**redis_benchmark(node.resp, "get", number, _UNREAD_KEYS), "calls": float(number)}

    def run() -> Samples:
        before = fixtures.s3_gets()
        samples = with_processor_times({"server": node.pid}, load)
        assert fixtures.s3_gets() - before >= 0.99 * number, "not every GET was a miss"
        return samples

    with apart([node.pid], [cluster.router.pid, fixtures.stub.pid]):
        yield [Variant("node", run)]


@contextmanager
def _hit_cost_connections(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    keys = fixtures.scale.sizes[0]
    with fixtures.cached_node("door_of_connections", keys, VALUE_BYTES) as node:
        cost = _hit_cost(fixtures, node, keys)
        with apart([node.pid], []):
            yield [Variant(str(number), partial(cost, number)) for number in _OPEN]


@contextmanager
def _hit_cost_keys(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    sizes = fixtures.scale.sizes
    with ExitStack() as stack:
        nodes = [stack.enter_context(fixtures.cached_node(f"door_of_{size}", size, VALUE_BYTES)) for size in sizes]
        costs = [_hit_cost(fixtures, node, size) for node, size in zip(nodes, sizes, strict=True)]
        stack.enter_context(apart([node.pid for node in nodes], []))
        yield [Variant(str(size), partial(cost, 1)) for cost, size in zip(costs, sizes, strict=True)]


def _hit_cost(fixtures: Fixtures, node: Process, keys: int) -> Callable[[int], Samples]:
    """Return a function of the number of connections that measures the cost of a hit."""
    address, seconds = printed_address(node, "redis door: "), str(fixtures.scale.seconds)
    return lambda number: fixtures.samples(
        "bench.programs.hit_cost", address, str(node.pid), str(number), str(keys), seconds
    )


def _against_redis(get: float, set_: float) -> list[Target]:
    return [
        Target(f"node_{command}", "per_s", peer=f"redis_{command}", at_least=bound)
        for command, bound in (("get", get), ("set", set_))
    ]


def _flat(variants: Sequence[int]) -> list[Target]:
    """Return targets: no variant costs much more than the first."""
    first, *others = map(str, variants)
    return [Target(other, "cpu_us", peer=first, at_most=1.3) for other in others]


_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_LOAD = f"redis-benchmark, {CONNECTIONS} connections"
_PEERS = ["redis_get", "redis_set"]

CASES = (
    Case(
        "resp_benchmark",
        f"{_LOAD}: GET of keys in memory, and SET in the durability class memory with uploads running",
        "per_s",
        _PEERS,
        lambda fixtures: _redis_benchmark(fixtures, 1),
        _against_redis(0.95, 0.75),
    ),
    Case(
        "resp_pipeline",
        f"the same, each connection sending {_PIPELINE} commands at a time",
        "per_s",
        _PEERS,
        lambda fixtures: _redis_benchmark(fixtures, _PIPELINE),
        _against_redis(0.75, 0.45),
    ),
    Case(
        "resp_transactions",
        f"{CONNECTIONS} connections: MULTI, {_SETS} SETs of 1 KiB and EXEC at a time, in the class memory",
        "per_s",
        ["redis"],
        _transactions,
        [Target("node", "per_s", peer="redis", at_least=0.5)],
    ),
    Case(
        "resp_counter",
        f"{_LOAD}: INCR of one key, in the class memory",
        "per_s",
        ["redis"],
        _counter,
        [Target("node", "per_s", at_least=10_000)],
    ),
    Case(
        "resp_miss",
        f"{_LOAD}: GET of keys never read before; S3 answers at once",
        "per_s",
        [],
        _misses,
    ),
    Case(
        "hit_cost_connections",
        "the node's processor time for a GET through the RESP server, by the number of connections open",
        "cpu_us",
        [str(_OPEN[0])],
        _hit_cost_connections,
        _flat(_OPEN),
    ),
    Case(
        "hit_cost_keys",
        "the node's processor time for a GET through the RESP server, by the number of objects in memory",
        "cpu_us",
        [str(_SIZES[0])],
        _hit_cost_keys,
        _flat(_SIZES),
    ),
)
