"""Shell. What the fault tests play in: one router, one node with a journal, and an S3 that can be made to fail.

S3 is the benchmarks' stub, which is fast, with the ETags of S3: with others the node would not compare values with
them, and a condition on what was read while it was dirty would fail. Between it and the node is a proxy. Every run
begins with an empty S3 and an empty journal, on ports of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.peers.stub_process import StubProcess
from milena_cache.origin.store_probe import DIRECTORY
from tests.faults.harness.history import History
from tests.support.cluster import Cluster
from tests.support.processes import READY_SECONDS, ProcessExited, Server
from tests.support.s3.fault_proxy import FaultProxy
from tests.support.s3.moto_server import s3_client
from tests.support.waiting import wait_until

BUCKET = "faults"
READERS = 8


def journal_of(node: Server) -> Path:
    """The JOURNAL_DIR of a node."""
    return node.directory / "milena-journal" / node.address.rpartition(":")[2]


class SystemUnderTest:
    """Started processes; for use in a with statement. `node_env` adds to the environment of the `nodes` nodes."""

    def __init__(
        self, directory: Path, node_env: Mapping[str, str] | None = None, seed: int = 0, nodes: int = 1
    ) -> None:
        self._stack = ExitStack()
        try:
            self.stub = self._stack.enter_context(StubProcess(directory, md5_etags=True))
            self.proxy = self._stack.enter_context(FaultProxy(self.stub.endpoint_url, seed))
            self.cluster = self._stack.enter_context(
                Cluster(directory, self.proxy.endpoint_url, BUCKET, nodes, node_env=node_env)
            )
        except BaseException:
            self._stack.close()
            raise

    @property
    def address(self) -> str:
        """Where clients connect."""
        return self.cluster.address

    @property
    def node(self) -> Server:
        return self.cluster.nodes[0]

    @property
    def journal(self) -> Path:
        """The node's JOURNAL_DIR."""
        return journal_of(self.node)

    def restart(self, variables: Mapping[str, str] | None = None) -> None:
        """Start the node again, and wait until it is in the ring; S3 need not be there."""
        self.node.restart(variables)
        wait_until("the node is in the ring", self._joined, READY_SECONDS)

    def _joined(self) -> bool:
        if not self.node.running:
            raise ProcessExited(f"the node ended with code {self.node.wait()}\n{self.node.log_tail()}")
        try:
            return self.metric("milena_cache_joined") == 1
        except OSError:
            return False

    def metric(self, name: str, **labels: str) -> float:
        """A metric of the node, summed over the labels that are not named."""
        return self.node.metrics().value(name, **labels)

    def wait_until_clean(self, seconds: float) -> float:
        """Block until nothing is dirty; the seconds that it took. Raises TimeoutError."""
        started = time.monotonic()
        wait_until("nothing is dirty", lambda: not self.metric("milena_writeback_dirty_entries"), seconds, 0.1)
        return time.monotonic() - started

    def in_s3(self) -> dict[str, bytes]:
        """Every object that S3 has, past proxy and node."""
        s3 = s3_client(self.stub.endpoint_url, READERS)
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        # What a node tries out at its start is removed by a later probe if S3 fails meanwhile.
        keys = [key for key in keys if not key.startswith(DIRECTORY)]
        with ThreadPoolExecutor(READERS) as readers:
            bodies = readers.map(lambda key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read(), keys)
            return dict(zip(keys, bodies, strict=True))

    def compare_with_s3(self, *histories: History) -> None:
        """Record what S3 has as what a last reader got. What is there besides is wrong, too."""
        found = self.in_s3()
        for history in histories:
            for key in history.keys:
                history.observed(key, found.pop(key, None), history.mark(key), "S3")
        assert not found, f"S3 has keys that were not written: {sorted(found)[:5]}"

    def defects(self) -> list[str]:
        """Tracebacks that a process logged: nothing that S3, a crash or a client does should bring one about."""
        return self.cluster.tracebacks()

    def __enter__(self) -> SystemUnderTest:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for a script's processes."""
    with tempfile.TemporaryDirectory(prefix="milena-faults-") as name:
        yield Path(name)


def print_samples(title: str, samples: Mapping[str, object], show: Callable[[str], object] = print) -> None:
    """Print figures, a line each."""
    show(f"\n{title}")
    width = max(map(len, samples))
    for name, sample in samples.items():
        text = f"{sample:.3g}" if isinstance(sample, float) else str(sample)
        show(f"  {name:<{width}}  {text}")
    sys.stdout.flush()
