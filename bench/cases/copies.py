"""Shell. What copies cost: writes to three nodes that acknowledge from two journals, and from one.

Both rings run all the time, in front of one S3 each, and are measured in turn. The nodes share the machine's cores
with the client: a write with a copy takes processor time on two nodes, so the ratio of the rates is that of what a
write costs all together. `nodes_us` has the processor time of the nodes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from bench.case import Case, Samples, Target, Variant
from bench.cores import processor_seconds
from bench.fixtures import BUCKET, CALLERS, Fixtures
from bench.nodes.grpc_client import flush
from bench.peers.stub_process import StubProcess
from tests.support.cluster import Cluster
from tests.support.waiting import wait_until

_NODES = 3
_READY_SECONDS = 60.0


def _ring(fixtures: Fixtures, stack: ExitStack, copies: int) -> Cluster:
    """Return three nodes with so many journals for each write, all copies complete."""
    stub = stack.enter_context(StubProcess(fixtures.new_directory(), None))
    cluster = Cluster(
        fixtures.new_directory(),
        stub.endpoint_url,
        BUCKET,
        nodes=_NODES,
        node_env={"COPIES": str(copies)},
        build=fixtures.build,
    )
    stack.enter_context(cluster)
    cluster.wait_for_ring(_NODES)

    def complete() -> bool:
        metrics = cluster.router.metrics()
        return (
            metrics.value("milena_router_ring_copies_target") >= (copies if copies > 1 else 0)
            and metrics.value("milena_router_ring_slots_missing_copies") == 0
        )

    wait_until("all copies are complete", complete, _READY_SECONDS)
    return cluster


def _writes(fixtures: Fixtures, name: str, cluster: Cluster, callers: int) -> Variant:
    arguments = ("milena_uvloop", cluster.address, str(callers), str(fixtures.scale.seconds))

    def writes() -> float:
        return cluster.total("milena_operation_duration_seconds_count", operation="put")

    def spent() -> float:
        return sum(processor_seconds(node.pid) for node in cluster.nodes)

    def write() -> Samples:
        before, seconds = writes(), spent()
        samples = fixtures.samples("bench.programs.async_writes", *arguments)
        for node in cluster.nodes:
            flush(node.address)
        return {**samples, "nodes_us": (spent() - seconds) / (writes() - before) * 1e6}

    return Variant(name, write)


@contextmanager
def _journal_copies(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    with ExitStack() as stack:
        rings = {copies: _ring(fixtures, stack, copies) for copies in (1, 2)}
        yield [
            _writes(fixtures, f"{name}copies_{copies}", ring, callers)
            for name, callers in (("", CALLERS), ("single_", 1))
            for copies, ring in rings.items()
        ]


CASES = (
    Case(
        "journal_copies",
        f"write new keys to three nodes, acknowledged when they are on the disks of two (copies_2) or one "
        f"(copies_1), {CALLERS} callers, and one after another (single)",
        "per_s",
        ["copies_1", "single_copies_1"],
        _journal_copies,
        [
            Target("copies_2", "per_s", peer="copies_1", at_least=0.6),
            Target("single_copies_2", "p50_us", peer="single_copies_1", at_most=1.7),
        ],
    ),
)
