"""Shell. Several workers of one machine (WORKERS) against one process: the processor time of a GET.

The load takes a part of the same cores, so the rate says little on a machine with two of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.cores import with_processor_times
from bench.fixtures import BUCKET, Fixtures
from bench.peers.redis_benchmark import CONNECTIONS, redis_benchmark, why_not
from bench.workload.hot_keys import NUMBER
from milena_common.api.durability import MEMORY
from tests.support.processes import Server
from tests.support.s3.moto_server import AWS_VARIABLES
from tests.support.workers import Workers

_COMMANDS = 500_000
_PIPELINE = 32
_NUMBERS = {"one": 1, "two": 2}


@contextmanager
def _workers(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    if missing := why_not():
        yield [Skipped(name, missing) for name in _NUMBERS]
        return
    fixtures.stub.set_latency(0)
    with ExitStack() as stack:
        machines = {name: stack.enter_context(_started(fixtures, number)) for name, number in _NUMBERS.items()}
        yield [Variant(name, partial(_gets, fixtures, machine)) for name, machine in machines.items()]


@contextmanager
def _started(fixtures: Fixtures, number: int) -> Iterator[Workers]:
    """Yield a machine with so many workers, which are the whole ring and have the keys in memory."""
    directory = fixtures.new_directory()
    variables = {"RATE_LIMIT": "0", "RING_RECOVERY_SECONDS": "0"}
    with Server("router", "milena_router", variables, directory, fixtures.build) as router:
        variables = {
            **AWS_VARIABLES,
            "ROUTER_ADDR": f"http://{router.address}",
            "S3_ENDPOINT_URL": fixtures.stub.endpoint_url,
            "S3_BUCKET": BUCKET,
            "WRITE_MODE": MEMORY,
        }
        with Workers(variables, directory, number, fixtures.build) as machine:
            machine.wait_ready()
            _load(machine, 20 * NUMBER)
            yield machine


def _load(machine: Workers, number: int) -> Samples:
    # It rejects a cluster of one node.
    several = len(machine.worker_pids()) > 1
    return redis_benchmark(f"127.0.0.1:{machine.resp}", "get", number, NUMBER, _PIPELINE, cluster=several)


def _gets(fixtures: Fixtures, machine: Workers) -> Samples:
    """Send GETs, and verify that hardly one was a miss; `node_us` is the processor time of all workers for each."""
    number = int(_COMMANDS * fixtures.scale.seconds)
    before = fixtures.s3_gets()
    pids = {f"worker {pid}": pid for pid in machine.worker_pids()}
    samples = with_processor_times(pids, lambda: {**_load(machine, number), "calls": float(number)})
    assert fixtures.s3_gets() - before < 0.01 * number, "not every GET was a hit"
    node = sum(samples.pop(f"{name}_us") for name in pids)
    return {**samples, "node_us": node}


CASES = (
    Case(
        "workers",
        f"redis-benchmark --cluster, {CONNECTIONS} connections, {_PIPELINE} GETs at a time: two workers, and one",
        "node_us",
        ["one"],
        _workers,
        [Target("two", "node_us", peer="one", at_most=1.05)],
    ),
)
