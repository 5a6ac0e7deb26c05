"""Shell. Reads by libraries, as files, and in batches; everything was read once before the measurement.

    python -m bench.programs.files.file_reads parquet milena|s3fs ADDRESS SECONDS   4 columns of a file, by pyarrow
    python -m bench.programs.files.file_reads batch   milena|boto3 ADDRESS SECONDS  all small objects as one batch

ADDRESS is HOST:PORT of the router, or the URL of S3. `write` puts the objects into S3.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from bench.case import Samples
from bench.child import print_samples
from bench.fixtures import BOTO3_THREADS, BUCKET
from bench.workload.load import one_after_another
from milena_client import Milena
from tests.support.s3.moto_server import AWS_VARIABLES, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PARQUET_KEY = "files/wide.parquet"
COLUMNS = 40
READ_COLUMNS = ["c3", "c11", "c19", "c37"]
SMALL_KEYS = [f"files/small/{number}" for number in range(1000)]
SMALL_BYTES = 10 * 1024


def why_not(*libraries: str) -> str:
    """Return why a variant that needs `libraries` cannot be run here; "" if it can."""
    missing = [library for library in libraries if find_spec(library) is None]
    return f"{', '.join(missing)} not installed: pip install '.[bench-files]'" if missing else ""


def write(s3: S3Client, rows: int) -> None:
    """Put the small objects into S3, and a parquet file with `rows` random numbers in each column, if any."""
    for key in SMALL_KEYS:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode() * (SMALL_BYTES // len(key)))
    if not rows or why_not("pyarrow"):
        return
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.table({f"c{number}": pc.random(rows, initializer=number) for number in range(COLUMNS)})
    file = io.BytesIO()
    pq.write_table(table, file, compression="none", use_dictionary=False)
    s3.put_object(Bucket=BUCKET, Key=PARQUET_KEY, Body=file.getvalue())


def parquet(client: str, address: str) -> Callable[[], Any]:
    """Return the call that reads some columns."""
    import fsspec
    import pyarrow.parquet as pq

    if client == "milena":
        fs = fsspec.filesystem("milena", router=address)
    else:
        fs = fsspec.filesystem(
            "s3",
            key=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
            secret=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
            client_kwargs={"endpoint_url": address, "region_name": AWS_VARIABLES["AWS_REGION"]},
        )
    return lambda: pq.read_table(f"{BUCKET}/{PARQUET_KEY}", columns=READ_COLUMNS, filesystem=fs)


def batch(client: str, address: str) -> Callable[[], Any]:
    """Return the call that reads all small objects."""
    if client == "milena":
        cache = Milena(address)
        return lambda: cache.get_many(SMALL_KEYS)
    s3 = s3_client(address, connections=BOTO3_THREADS)
    pool = ThreadPoolExecutor(BOTO3_THREADS)

    def read(key: str) -> bytes:
        return s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    return lambda: [*pool.map(read, SMALL_KEYS)]


def main(work: str, client: str, address: str, seconds: float) -> Samples:
    call = {"parquet": parquet, "batch": batch}[work](client, address)
    found = call()
    assert len(found) == len(SMALL_KEYS) if work == "batch" else found.num_columns == len(READ_COLUMNS)
    return one_after_another(call, seconds)


if __name__ == "__main__":
    print_samples(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
