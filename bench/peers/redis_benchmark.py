"""Shell. redis-benchmark: Redis's own load generator, in C, on random keys of a keyspace.

It runs as a process, and its CSV output is parsed. A node and a Redis server get the same load.
"""

from __future__ import annotations

import csv
import shutil
import subprocess

from bench.case import Samples
from bench.workload.new_objects import VALUE_BYTES
from milena_common.network.addresses import parse_address

CONNECTIONS = 50
_SECONDS = 300


def why_not() -> str:
    """Return the reason why it cannot be run here; "" if it can."""
    return "" if shutil.which("redis-benchmark") else "redis-benchmark is not installed"


def redis_benchmark(
    address: str, command: str, number: int, keys: int, pipeline: int = 1, *, ca: str = "", cluster: bool = False
) -> Samples:
    """Send `number` commands, `get` or `set`, of `keys` keys that `hot_key` names; values are 1 KiB.

    `incr` is of keys of its own, of one key COUNTER.

    Each connection sends `pipeline` commands at a time. `ca`: a file with the authority of the server's
    certificate, for TLS. `cluster`: the commands are spread over all nodes, and each has keys of its own. It does
    not check the replies: hits must be verified by the caller.
    """
    at = parse_address(address)
    options = {
        "-h": at.host,
        "-p": at.port,
        "-c": CONNECTIONS,
        "-n": number,
        "-r": keys,
        "-d": VALUE_BYTES,
        "-P": pipeline,
        "-t": command,
    }
    arguments = [str(part) for option in options.items() for part in option]
    arguments += ["--tls", "--cacert", ca] if ca else []
    arguments += ["--cluster"] if cluster else []
    done = subprocess.run(
        ["redis-benchmark", *arguments, "--csv"], capture_output=True, text=True, timeout=_SECONDS, check=True
    )
    return samples(done.stdout)


def samples(output: str) -> Samples:
    """Return the samples of the single command in redis-benchmark's CSV."""
    (row,) = csv.DictReader(line for line in output.splitlines() if line.startswith('"'))
    return {
        "per_s": float(row["rps"]),
        "p50_us": float(row["p50_latency_ms"]) * 1000,
        "p99_us": float(row["p99_latency_ms"]) * 1000,
    }


# The key that `incr` of one key increments.
COUNTER = b"counter:000000000000"


def hot_key(number: int) -> bytes:
    """Return the key with that number, as redis-benchmark names it."""
    return b"key:%012d" % number
