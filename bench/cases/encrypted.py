"""Shell. What TLS costs: the same reads over plain and encrypted connections, of a node and of redis-server.

The plain and the encrypted reads of a variant follow each other in each round, and its samples are their ratios: so
a machine that changes its speed between rounds changes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import apart, with_processor_times
from bench.fixtures import Fixtures
from bench.peers.redis_benchmark import CONNECTIONS, redis_benchmark
from bench.peers.redis_benchmark import why_not as why_no_load
from bench.peers.redis_server import why_not
from bench.workload.hot_keys import NUMBER, fill, warm
from tests.support.certificates import client_url
from tests.support.processes import Process

# Commands for each second of a round.
_COMMANDS = 60_000


def _ratios(plain: Samples, encrypted: Samples, names: Sequence[str]) -> Samples:
    """Return the encrypted rate as a share of the plain one, both rates, and processor times called `names`."""
    samples = {
        "ratio": encrypted["per_s"] / plain["per_s"],
        "per_s": encrypted["per_s"],
        "plain_per_s": plain["per_s"],
    }
    for name in names:
        if name in plain and name in encrypted:
            samples[name] = encrypted[name]
            samples[f"plain_{name}"] = plain[name]
            samples[f"{name}_ratio"] = plain[name] / encrypted[name]
    return samples


@contextmanager
def _many_connections(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    if missing := why_no_load():
        yield [Skipped(name, missing) for name in ("node", "redis")]
        return
    fixtures.stub.set_latency(0)
    cluster, files = fixtures.encrypted
    node = cluster.nodes[0]
    number = int(_COMMANDS * fixtures.scale.seconds)
    warm(cluster.address)

    def load(server: Process, address: str, ca: str) -> Samples:
        return with_processor_times(
            {"server": server.pid},
            lambda: {**redis_benchmark(address, "get", number, NUMBER, ca=ca), "calls": float(number)},
        )

    def both(server: Process, plain: str, encrypted: str) -> Samples:
        return _ratios(load(server, plain, ""), load(server, encrypted, files.authorities), ["server_us"])

    measured = [node.pid]
    variants: list[Variant | Skipped] = [Variant("node", partial(both, node, node.resp, node.resp_tls))]
    if without_peer := why_not(client=False):
        variants.append(Skipped("redis", without_peer))
    else:
        redis = fixtures.encrypted_redis
        fill(redis.address)
        measured.append(redis.pid)
        variants.append(Variant("redis", partial(both, redis, redis.address, redis.tls_address)))
    with apart(measured, [cluster.router.pid, fixtures.stub.pid]):
        yield variants


@contextmanager
def _one_by_one(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.stub.set_latency(0)
    cluster, files = fixtures.encrypted
    node = cluster.nodes[0]
    warm(cluster.address)

    def read(address: str) -> Samples:
        arguments = ("bench.programs.sync_reads", "milena", address, "one", str(fixtures.scale.seconds))
        return with_processor_times({"server": node.pid}, lambda: fixtures.samples(*arguments))

    def run() -> Samples:
        encrypted = read(client_url(cluster.router.tls_address, files))
        return _ratios(read(cluster.address), encrypted, ["server_us", "cpu_us"])

    with apart([node.pid], [cluster.router.pid, fixtures.stub.pid]):
        yield [Variant("milena", run)]


CASES = (
    Case(
        "tls_get",
        f"redis-benchmark, {CONNECTIONS} connections: GET of keys in memory over TLS, as a share of the rate over "
        "plain connections",
        "ratio",
        ["redis"],
        _many_connections,
        [Target("node", "ratio", at_least=0.55), Target("node", "ratio", peer="redis", at_least=0.9)],
    ),
    Case(
        "tls_sync_get",
        "read keys in memory, sync client straight to the node, one after another, over TLS, as a share of the "
        "rate over plain connections",
        "ratio",
        [],
        _one_by_one,
        [Target("milena", "ratio", at_least=0.6)],
    ),
)
