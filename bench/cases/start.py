"""Shell. The start of a node: from the spawn of its process until /readyz says that it is ready.

Router and S3 run already, and reply at once, so what is left is the node's own work: imports, the checks of bucket
and store, the journal, joining the ring.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Samples, Target, Variant
from bench.cores import processor_seconds
from bench.fixtures import BUCKET, Fixtures
from tests.support.cluster import Cluster
from tests.support.processes import READY_SECONDS

_PAUSE_SECONDS = 0.005


@contextmanager
def _start(fixtures: Fixtures) -> Iterator[Sequence[Variant]]:
    fixtures.empty_stub.set_latency(0)

    def run(kept: bool) -> Samples:
        with fixtures.while_it_lasts() as directory:
            journal = {"JOURNAL_DIR": str(directory / "journal")}
            url = fixtures.empty_stub.endpoint_url
            with Cluster(
                directory, url, BUCKET, nodes=int(kept), node_env=journal, build=fixtures.build
            ) as cluster:
                for node in cluster.nodes:
                    node.terminate()
                    node.wait()
                began = time.perf_counter()
                node = cluster.add_node(wait=False)
                while not node.ready():
                    assert node.running, node.log_tail()
                    assert time.perf_counter() - began < READY_SECONDS, node.log_tail()
                    time.sleep(_PAUSE_SECONDS)
                took = time.perf_counter() - began
                return {"seconds": took, "processor_seconds": processor_seconds(node.pid)}

    yield [Variant("new_journal", partial(run, False)), Variant("kept_journal", partial(run, True))]


CASES = (
    Case(
        "start",
        "from the spawn of a node's process until it is ready",
        "seconds",
        [],
        _start,
        [Target("new_journal", "seconds", at_most=1.0), Target("kept_journal", "seconds", at_most=1.0)],
    ),
)
