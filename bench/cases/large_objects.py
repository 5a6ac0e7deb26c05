"""Shell. Large objects: read cold beside one long GET, in parts at random places, and from the memory of a node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Samples, Skipped, Target, Variant
from bench.fixtures import Fixtures
from bench.programs.files.large_reads import BLOCK_BYTES, RANDOM_BYTES, RANDOM_READS

# Milliseconds until S3 responds, and megabytes a second of each of its connections.
_S3_MS = 20
_S3_MB_S = 100
_PROGRAM = "bench.programs.files.large_reads"


@contextmanager
def _far_s3(fixtures: Fixtures) -> Iterator[None]:
    fixtures.large_stub.set_latency(_S3_MS / 1000)
    fixtures.large_stub.set_rate(_S3_MB_S)
    yield
    fixtures.large_stub.set_latency(0)
    fixtures.large_stub.set_rate(0)


@contextmanager
def _cold(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    def read(client: str, address: str) -> Samples:
        return fixtures.samples(_PROGRAM, "whole", client, address, fixtures.new_key())

    with _far_s3(fixtures):
        yield [
            Variant("milena", partial(read, "milena", fixtures.large_cluster.address)),
            Variant("obstore", partial(read, "obstore", fixtures.large_stub.endpoint_url)),
        ]


@contextmanager
def _random(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    stub = fixtures.large_stub

    def read() -> Samples:
        before = stub.sent_bytes()
        samples = fixtures.samples(_PROGRAM, "random", "milena", fixtures.large_cluster.address, fixtures.new_key())
        fetched = stub.sent_bytes() - before
        return {**samples, "fetched_per_touched": fetched / BLOCK_BYTES / samples["blocks"]}

    with _far_s3(fixtures):
        yield [Variant("milena", read)]


@contextmanager
def _in_memory(fixtures: Fixtures) -> Iterator[Sequence[Variant | Skipped]]:
    def read() -> Samples:
        return fixtures.samples(_PROGRAM, "again", "milena", fixtures.large_cluster.address, "in-memory")

    yield [Variant("milena", read)]


CASES = (
    Case(
        "cold_object",
        "read an object of 1 GiB (--quick: 128 MiB) once, as a file of the sync client; one GET by obstore, of S3 "
        f"that takes {_S3_MS} ms and has {_S3_MB_S} MB/s for each connection",
        "mb_s",
        ["obstore"],
        _cold,
        [
            Target("milena", "mb_s", peer="obstore", at_least=4),
            Target("milena", "reader_mib", at_most=16),
        ],
    ),
    Case(
        "random_reads",
        f"read {RANDOM_BYTES // 1024} KiB at {RANDOM_READS} random places of a large object, as a file of the sync "
        "client: bytes that S3 sent, by bytes of the blocks that were touched",
        "per_s",
        [],
        _random,
        [Target("milena", "fetched_per_touched", at_most=1.1)],
    ),
    Case(
        "object_in_memory",
        "read an object of 1 GiB (--quick: 128 MiB) in the memory of one node, as a file of the sync client",
        "mb_s",
        [],
        _in_memory,
        [Target("milena", "mb_s", at_least=1000), Target("milena", "reader_mib", at_most=16)],
    ),
)
