"""Shell. Reads of one large object, whose bytes are made by the S3 stub as they are read.

    python -m bench.programs.files.large_reads whole  milena|obstore ADDRESS KEY   from the beginning to the end
    python -m bench.programs.files.large_reads again  milena ADDRESS KEY           the same, after it was read once
    python -m bench.programs.files.large_reads random milena ADDRESS KEY           64 KiB at random places

ADDRESS is HOST:PORT of the router, or the URL of S3. `reader_mib` is by how much the peak of the program's memory
is above what it had at the first bytes; `cpu_ms` is its processor time for 100 MB.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.case import Samples
from bench.child import print_samples
from bench.fixtures import BUCKET
from milena_client import Milena
from tests.support.s3.moto_server import AWS_VARIABLES

MIB = 2**20
# That of the nodes, unless they are configured otherwise.
BLOCK_BYTES = MIB
RANDOM_BYTES = 64 * 1024
RANDOM_READS = 200
TIMEOUT = 60.0


def chunks(client: str, address: str, key: str) -> Iterator[bytes]:
    """Iterate over an object."""
    if client == "milena":
        with Milena(address, timeout=TIMEOUT) as cache, cache.open(key) as file:
            yield from file.chunks()
        return
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=address,
        region=AWS_VARIABLES["AWS_REGION"],
        access_key_id=AWS_VARIABLES["AWS_ACCESS_KEY_ID"],
        secret_access_key=AWS_VARIABLES["AWS_SECRET_ACCESS_KEY"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": f"{TIMEOUT:g}s"},
    )
    for chunk in obstore.get(store, key).stream(min_chunk_size=MIB):
        yield bytes(chunk)


def memory(field: str) -> float:
    """Return this process's memory in MiB: `VmRSS`, current, or `VmHWM`, peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def whole(client: str, address: str, key: str) -> Samples:
    """Read the object once."""
    size, before = 0, 0.0
    started, cpu = time.perf_counter(), time.process_time()
    for chunk in chunks(client, address, key):
        if not size:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = memory("VmRSS")
        size += len(chunk)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "mb_s": size / 1e6 / seconds,
        "reader_mib": memory("VmHWM") - before,
        "cpu_ms": cpu * 1e3 / (size / 1e8),
    }


def again(client: str, address: str, key: str) -> Samples:
    """Read the object once more."""
    for _ in chunks(client, address, key):
        pass
    return whole(client, address, key)


def scattered(client: str, address: str, key: str) -> Samples:
    """Read parts at random places. `blocks`: those that they touch."""
    rng = random.Random(key)
    touched: set[int] = set()
    with Milena(address, timeout=TIMEOUT) as cache, cache.open(key) as file:
        started = time.perf_counter()
        for _ in range(RANDOM_READS):
            offset = rng.randrange(file.stat.size - RANDOM_BYTES)
            file.seek(offset)
            assert len(file.read(RANDOM_BYTES)) == RANDOM_BYTES
            touched.update(range(offset // BLOCK_BYTES, (offset + RANDOM_BYTES - 1) // BLOCK_BYTES + 1))
        seconds = time.perf_counter() - started
    return {"per_s": RANDOM_READS / seconds, "blocks": float(len(touched))}


if __name__ == "__main__":
    work = {"whole": whole, "again": again, "random": scattered}[sys.argv[1]]
    print_samples(work(*sys.argv[2:5]))
