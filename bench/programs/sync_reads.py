"""Shell. Reads by blocking clients.

    python -m bench.programs.sync_reads milena  HOST:PORT WORK SECONDS  of the cluster whose router has that address
    python -m bench.programs.sync_reads redis_py HOST:PORT WORK SECONDS    of the Redis server at that address
    python -m bench.programs.sync_reads boto3  S3_URL  cold SECONDS  new keys, straight from S3, with many threads

WORK is `one`, hot keys one after another; `many`, a hundred of them at a time; `near`, hot keys from the client's
near cache; or the size of large values in bytes. Before the measurement everything was read once, successfully.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count, cycle

from bench.case import Samples
from bench.child import print_samples
from bench.fixtures import BOTO3_THREADS, BUCKET
from bench.workload.hot_keys import HOT_KEYS, large_keys
from bench.workload.load import WARM_UP, one_after_another, with_threads
from milena_client import Milena, NearCache
from milena_common.network.addresses import parse_address
from tests.support.s3.moto_server import s3_client

_BATCH = 100
_NEAR_BYTES = 64 * 2**20
_NEAR_AGE = 60.0

Get = Callable[[str], bytes | None]


def milena(address: str, work: str, seconds: float) -> Samples:
    if work == "near":
        with Milena(address, near_cache=NearCache(_NEAR_BYTES, _NEAR_AGE)) as near:
            return _near(near.get, seconds)
    with Milena(address) as client:

        def get_many(keys: Sequence[str]) -> None:
            assert len(client.get_many(keys)) == len(keys)

        return _read(client.get, get_many, work, seconds)


def redis_py(address: str, work: str, seconds: float) -> Samples:
    from redis import Redis  # imported here: redis-py is optional

    at = parse_address(address)
    with Redis(host=at.host, port=at.port) as client:

        def get_many(keys: Sequence[str]) -> None:
            assert None not in client.mget(keys)

        return _read(client.get, get_many, work, seconds)


def _read(get: Get, get_many: Callable[[Sequence[str]], None], work: str, seconds: float) -> Samples:
    if work == "many":
        batches = [HOT_KEYS[first : first + _BATCH] for first in range(0, len(HOT_KEYS), _BATCH)]
        for batch in batches:
            get_many(batch)
        hundred = cycle(batches)
        return _measured(lambda: get_many(next(hundred)), seconds)
    names = HOT_KEYS if work == "one" else large_keys(int(work))
    assert None not in map(get, names)
    keys = cycle(names)
    samples = _measured(lambda: get(next(keys)), seconds)
    if work != "one":
        samples["mib_per_s"] = samples["per_s"] * int(work) / 2**20
    return samples


def _measured(call: Callable[[], object], seconds: float) -> Samples:
    """Return samples in which `cpu_us` is the client's processor time for each call."""
    cpu = time.process_time()
    samples = one_after_another(call, seconds)
    return {**samples, "cpu_us": (time.process_time() - cpu) / samples["calls"] * 1e6}


def _near(get: Get, seconds: float) -> Samples:
    """Measure a thousand calls at a time: reading a clock twice for each would cost as much as the call."""
    keys = HOT_KEYS[:1000]
    assert None not in map(get, keys)

    def rate(length: float) -> float:
        rounds, started = 0, time.perf_counter()
        while (took := time.perf_counter() - started) < length:
            for key in keys:
                get(key)
            rounds += 1
        return rounds * len(keys) / took

    rate(seconds * WARM_UP)
    per_s = rate(seconds)
    return {"per_s": per_s, "us_per_hit": 1e6 / per_s}


def boto3(endpoint_url: str, _: str, seconds: float) -> Samples:
    s3 = s3_client(endpoint_url, connections=BOTO3_THREADS)
    numbers, series = count(), secrets.token_hex(4)

    def call() -> None:
        s3.get_object(Bucket=BUCKET, Key=f"cold/{series}/{next(numbers)}")["Body"].read()

    return with_threads(call, BOTO3_THREADS, seconds)


if __name__ == "__main__":
    read = {"milena": milena, "redis_py": redis_py, "boto3": boto3}[sys.argv[1]]
    print_samples(read(sys.argv[2], sys.argv[3], float(sys.argv[4])))
