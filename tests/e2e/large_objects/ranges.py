"""Random ranges of a large object beside another writer that replaces it all the time.

    python -m tests.e2e.large_objects.ranges [NUMBER]

starts S3 (moto), a router and three nodes, and reads NUMBER ranges (10,000): each must have bytes of one version
only, the size of that version, and a later read with its ETag the same version, or ConditionFailed.
"""

from __future__ import annotations

import random
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mypy_boto3_s3 import S3Client

from milena_cache.reads.part_reads import MAX_CHANGES
from milena_client import ConditionFailed, Milena
from milena_common.api.errors import OriginUnavailable
from tests.support.cluster import Cluster
from tests.support.s3.moto_server import MotoServer

KIB = 1024
BLOCK = 4 * KIB
# What a whole value may have is less than the object of these reads.
SMALL_BLOCKS = {"BLOCK_THRESHOLD": str(8 * BLOCK), "BLOCK_BYTES": str(BLOCK), "MAX_VALUE_BYTES": str(256 * KIB)}
# With a freshness of nothing each read asks S3 which version is current.
NEVER_FRESH = {**SMALL_BLOCKS, "TTL_SECONDS": "0", "GRACE_SECONDS": "0"}
SIZE = 500 * KIB + 7
KEY = "large"


class Ranges(NamedTuple):
    """What `read_ranges` has seen. unstable: reads that failed because the object was replaced all the time."""

    read: int
    mixed: int
    unstable: int
    versions: int


def version(number: int) -> bytes:
    """Return an object by which each of its bytes shows the version that it is of."""
    return bytes([number]) * (SIZE + number)


def read_ranges(address: str, s3: S3Client, bucket: str, number: int, seed: int = 2) -> Ranges:
    """Read `number` random ranges from the cluster whose router is at `address`."""
    s3.put_object(Bucket=bucket, Key=KEY, Body=version(0))
    stop = threading.Event()

    def replace() -> None:
        chosen = 0
        while not stop.is_set():
            chosen = (chosen + 1) % 5
            s3.put_object(Bucket=bucket, Key=KEY, Body=version(chosen))

    writer = threading.Thread(target=replace)
    writer.start()
    read = mixed = unstable = 0
    seen = set()
    rng = random.Random(seed)
    try:
        with Milena(address) as m:
            for _ in range(number):
                try:
                    part = m.get_range(KEY, rng.randrange(SIZE), rng.choice((1, 5 * KIB, 200 * KIB)))
                except OriginUnavailable:  # the other writer was faster, three times in a row
                    unstable += 1
                    continue
                assert part is not None
                read += 1
                mixed += len(set(part.value)) != 1 or part.size != SIZE + part.value[0]
                seen.add(part.value[0])
                try:
                    more = m.get_range(KEY, 0, 10, if_match=part.etag)
                except (ConditionFailed, OriginUnavailable):
                    continue
                assert more is not None
                mixed += set(more.value) != {part.value[0]}
    finally:
        stop.set()
        writer.join()
    return Ranges(read, mixed, unstable, len(seen))


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with TemporaryDirectory() as directory, MotoServer(Path(directory)) as moto:
        bucket = moto.new_bucket()
        with Cluster(Path(directory) / "cluster", moto.endpoint_url, bucket, node_env=NEVER_FRESH) as cluster:
            found = read_ranges(cluster.address, moto.client, bucket, number)
    print(
        f"{found.read} ranges of {found.versions} versions: {found.mixed} mixed; "
        f"{found.unstable} failed because the object was replaced {MAX_CHANGES} times meanwhile"
    )
    return 1 if found.mixed or found.versions < 2 else 0


if __name__ == "__main__":
    sys.exit(main())
