"""Shell. The steps of the demo on a running cluster, each measured and checked.

A step prints its results. If they are not what Milena promises, the step counts as failed: `milena demo --once` is
a smoke test of the product.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from milena_client.admin import Admin
from milena_client.aio.client import AsyncMilena
from milena_client.cli.local.cluster import LocalCluster
from milena_client.cli.terminal.output import Column, console, show_count, show_percent, table
from milena_client.sync.client import Milena
from milena_common.api.durability import BACK, THROUGH, Durability
from milena_common.api.errors import MilenaError

READERS = 200
LEASE_SECONDS = 2
_COLD_KEY = "demo/one-cold-key"
_COLD_BYTES = 2**20
_WAIT_SECONDS = 30.0
_WRITES = 200
_WRITE_BYTES = 1024

# Seconds, longer than the lease, so that a read of a lost node's key succeeds after the lease has expired.
_TIMEOUT = 10.0

_COLUMNS = (
    Column("way", "READ FROM"),
    Column("reads", "READS", show_count, True),
    Column("p50", "P50", "{:.2f} ms".format, True),
    Column("p99", "P99", "{:.2f} ms".format, True),
    Column("s3", "S3 REQUESTS", show_count, True),
    Column("hit_ratio", "HIT RATIO", show_percent, True),
)

_WRITE_COLUMNS = (
    Column("way", "ACKNOWLEDGED WHEN IT IS IN"),
    Column("writes", "WRITES", show_count, True),
    Column("p50", "P50", "{:.2f} ms".format, True),
    Column("p99", "P99", "{:.2f} ms".format, True),
)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Sums over all nodes."""

    s3_gets: float
    hits: float
    misses: float


@dataclass(slots=True)
class _Seen:
    """The results of reads while a node is lost.

    reads, wrong, errors: counts of reads, of wrong values, of errors.
    slowest: seconds of the slowest read.
    healed: True after a whole pass over the files on the smaller ring.
    """

    reads: int = 0
    wrong: int = 0
    errors: int = 0
    slowest: float = 0.0
    healed: bool = False


class Tour:
    """The steps, in order. `failures` has a line for each failed check."""

    def __init__(self, cluster: LocalCluster, s3: Any, files: dict[str, bytes], say: Callable[[str], None]) -> None:
        assert cluster.router is not None
        self._cluster = cluster
        self._s3 = s3
        self._files = files
        self._say = say
        self._address = cluster.router.address
        self._client = Milena(self._address, timeout=_TIMEOUT)
        self._admin = Admin(self._address, timeout=_TIMEOUT)
        self.failures: list[str] = []

    def close(self) -> None:
        self._client.close()
        self._admin.close()

    def load(self) -> None:
        """Put the files into the bucket without Milena, as objects that exist before Milena is used."""
        for key, value in self._files.items():
            self._s3.put_object(Bucket=self._cluster.bucket, Key=key, Body=value)
        size = sum(map(len, self._files.values())) / 2**20
        self._say(f"{len(self._files)} files, {size:.1f} MiB, put directly into the bucket with boto3")

    def compare(self) -> None:
        """Read everything cold, warm, and directly from S3."""
        keys = list(self._files)
        rows = [
            self._measured("Milena, cold", keys, self._client.get),
            self._measured("Milena, warm", keys * 3, self._client.get),
            self._measured("S3 with boto3", keys, self._from_s3),
        ]
        cold, warm, direct = rows
        direct["s3"], direct["hit_ratio"] = len(keys), None
        console().print(table(_COLUMNS, rows))
        self._check(cold["s3"] == len(keys), f"{len(keys)} cold reads cost {cold['s3']:.0f} S3 requests")
        self._check(warm["s3"] == 0, f"{len(keys) * 3} warm reads cost {warm['s3']:.0f} S3 requests")
        self._check(warm["hit_ratio"] == 1, f"hit ratio of the warm reads: {show_percent(warm['hit_ratio'])}")

    def crowd(self) -> None:
        """Let many readers read one cold key at the same time."""
        value = bytes(range(256)) * (_COLD_BYTES // 256)
        self._s3.put_object(Bucket=self._cluster.bucket, Key=_COLD_KEY, Body=value)
        before = self._counts()
        values = asyncio.run(self._read_together(_COLD_KEY))
        gets = self._counts().s3_gets - before.s3_gets
        right = sum(got == value for got in values)
        self._check(
            right == READERS and gets == 1,
            f"{right} of {READERS} concurrent readers got the object (1 MiB), with {gets:.0f} request(s) to S3",
        )

    def write(self) -> None:
        """Write in the classes `through` and `back`, and check that S3 then has all acknowledged writes."""
        written: dict[str, bytes] = {}
        rows = [
            self._measured_writes("S3", THROUGH, written),
            self._measured_writes("the node's journal, on disk", BACK, written),
        ]
        console().print(table(_WRITE_COLUMNS, rows))
        started = time.monotonic()
        flushed = self._client.flush(timeout=_WAIT_SECONDS)
        seconds = time.monotonic() - started
        there = sum(self._from_s3(key) == value for key, value in written.items())
        self._check(
            there == len(written) and not flushed.remaining,
            f"{seconds:.1f} s after the last one S3 has {there} of {len(written)} acknowledged writes",
        )

    def _measured_writes(self, way: str, durability: Durability, written: dict[str, bytes]) -> dict[str, Any]:
        milliseconds = []
        for number in range(_WRITES):
            key = f"demo/written/{durability}/{number}"
            value = f"{durability} {number} ".encode().ljust(_WRITE_BYTES, b".")
            started = time.perf_counter()
            reached = self._client.set(key, value, durability=durability).durability
            milliseconds.append((time.perf_counter() - started) * 1000)
            if reached != durability:
                self._check(False, f"{key}: acknowledged as {reached}, {durability} was requested")
            written[key] = value
        return {"way": way, "writes": _WRITES, **_percentiles(milliseconds)}

    def lose_a_node(self) -> None:
        """Kill a node while reading, until its slots have moved to other nodes; then let a new node join."""
        victim = self._cluster.nodes[-1]
        left = len(self._cluster.nodes) - 1
        before = self._counts(without=victim.address)
        self._cluster.kill(victim)
        self._say(f"{victim.name} is killed (SIGKILL); reads continue, each value is compared with its file …")
        seen = self._read_until_healed(left)
        gets = self._counts().s3_gets - before.s3_gets
        self._check(
            seen.wrong == 0 and seen.errors == 0 and seen.healed,
            f"{seen.reads} reads: {seen.wrong} wrong values, {seen.errors} errors",
        )
        self._say(f"          {gets:.0f} S3 requests for the lost node's share of the files")
        self._say(f"          the slowest read took {seen.slowest:.1f} s: it waited for the new owner of its slot")
        self._cluster.add_node()
        late = self._cluster.wait_ready(_WAIT_SECONDS)
        members = len(self._admin.nodes().nodes)
        self._check(not late and members == left + 1, f"a new node has joined: the ring has {members} nodes")

    def _read_until_healed(self, nodes: int) -> _Seen:
        """Read all files repeatedly until a whole pass was made on a ring of `nodes` nodes."""
        seen = _Seen()
        until = time.monotonic() + _WAIT_SECONDS
        while not seen.healed and time.monotonic() < until:
            complete = len(self._admin.nodes().nodes) == nodes
            for key, value in self._files.items():
                started = time.monotonic()
                try:
                    seen.wrong += self._client.get(key) != value
                except MilenaError as error:
                    seen.errors += 1
                    self._say(f"  {key}: {error}")
                seen.reads += 1
                seen.slowest = max(seen.slowest, time.monotonic() - started)
            seen.healed = complete
        return seen

    async def _read_together(self, key: str) -> list[bytes | None]:
        async with AsyncMilena(self._address, timeout=_TIMEOUT) as client:
            return await asyncio.gather(*(client.get(key) for _ in range(READERS)))

    def _from_s3(self, key: str) -> bytes:
        body: bytes = self._s3.get_object(Bucket=self._cluster.bucket, Key=key)["Body"].read()
        return body

    def _counts(self, without: str = "") -> _Counts:
        nodes = [node.values for node in self._admin.stats() if node.address != without]
        s3_gets, hits, misses = (sum(node.get(name, 0) for node in nodes) for name in ("s3_gets", "hits", "misses"))
        return _Counts(s3_gets, hits, misses)

    def _check(self, holds: bool, what: str) -> None:
        self._say(("  ok      " if holds else "  FAILED  ") + what)
        if not holds:
            self.failures.append(what)

    def _measured(self, way: str, keys: Sequence[str], read: Callable[[str], bytes | None]) -> dict[str, Any]:
        before = self._counts()
        milliseconds = []
        wrong = 0
        for key in keys:
            started = time.perf_counter()
            value = read(key)
            milliseconds.append((time.perf_counter() - started) * 1000)
            wrong += value != self._files[key]
        after = self._counts()
        if wrong:
            self._check(False, f"{way}: {wrong} wrong values")
        hits, misses = after.hits - before.hits, after.misses - before.misses
        return {
            "way": way,
            "reads": len(keys),
            **_percentiles(milliseconds),
            "s3": after.s3_gets - before.s3_gets,
            "hit_ratio": hits / (hits + misses) if hits + misses else None,
        }


def _percentiles(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {"p50": ordered[len(ordered) // 2], "p99": ordered[len(ordered) * 99 // 100]}
