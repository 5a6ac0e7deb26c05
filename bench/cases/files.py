"""Shell. What libraries read as files, and batches of small objects, against S3 at a distance of 20 ms.

Milena has read everything before, as a cache has; its S3 is the same one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from bench.case import Case, Skipped, Target, Variant
from bench.fixtures import BOTO3_THREADS, Fixtures
from bench.programs.files.file_reads import COLUMNS, READ_COLUMNS, SMALL_BYTES, SMALL_KEYS, why_not, write
from tests.support.s3.moto_server import s3_client

# Milliseconds until S3 responds.
_S3_MS = 20


@contextmanager
def _files(fixtures: Fixtures, work: str, peer: str, *libraries: str) -> Iterator[Sequence[Variant | Skipped]]:
    fixtures.empty_stub.set_latency(0)
    write(s3_client(fixtures.empty_stub.endpoint_url), fixtures.scale.file_rows if work == "parquet" else 0)
    fixtures.empty_stub.set_latency(_S3_MS / 1000)
    addresses = {
        "milena": fixtures.direct_writing_cluster.address,
        peer: fixtures.empty_stub.endpoint_url,
    }
    needed = {"milena": libraries[:2], peer: libraries}
    yield [
        Skipped(client, missing)
        if (missing := why_not(*needed[client]))
        else Variant(
            client,
            partial(
                fixtures.samples,
                *("bench.programs.files.file_reads", work, client, address, str(fixtures.scale.seconds)),
            ),
        )
        for client, address in addresses.items()
    ]
    fixtures.empty_stub.set_latency(0)


CASES = (
    Case(
        "parquet_columns",
        f"read {len(READ_COLUMNS)} of {COLUMNS} columns of a parquet file of 200 MB (--quick: 20 MB) by pyarrow: "
        f"warm, by milena://; by s3fs from S3 at {_S3_MS} ms",
        "per_s",
        ["s3fs"],
        lambda fixtures: _files(fixtures, "parquet", "s3fs", "pyarrow", "fsspec", "s3fs"),
        [Target("milena", "per_s", peer="s3fs", at_least=10)],
    ),
    Case(
        "small_batch",
        f"read {len(SMALL_KEYS)} objects of {SMALL_BYTES // 1024} KiB as one batch, sync client straight to the "
        f"node; boto3 with {BOTO3_THREADS} threads from S3 at {_S3_MS} ms",
        "per_s",
        ["boto3"],
        lambda fixtures: _files(fixtures, "batch", "boto3"),
        [Target("milena", "per_s", peer="boto3", at_least=20)],
    ),
)
