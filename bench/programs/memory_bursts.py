"""Shell. Measures the peak memory of router and node under bursts of large values over gRPC, against their budgets.

    python -m bench.programs.memory_bursts [--count 24] [--mib 16] [--seconds 60]

Each case starts its own router and node: puts and cold reads, through the router and at the node, by callers that
announce the size of their request and by others that do not. All calls of a case are concurrent, each over its own
connection. `allowed` is base + LRU_BYTES + DIRTY_MEMORY_BYTES + MAX_IN_FLIGHT_BYTES + 20 %. Exit code 1 if a
process dies or exceeds it. Ends within a few minutes: each call has a timeout of `--seconds`.
"""

from __future__ import annotations

import argparse
import http.client
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from bench.peers.stub_process import StubProcess
from milena_common.api.methods import GET, PUT
from milena_common.api.pb import cache_server_pb2 as pb
from milena_common.rpc.options import REQUEST_BYTES, channel_options
from tests.support.cluster import Cluster
from tests.support.processes import Server

MIB = 2**20
LRU, DIRTY, IN_FLIGHT = 64, 32, 128
# As the image sets them.
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
SLACK = 1.2
BUCKET = "bench"
CASES = ("put", "put unannounced", "get")


def memory(server: Server, field: str) -> float:
    """Return the memory of a process in MiB: `VmRSS`, current, or `VmHWM`, peak. 0 if it has ended."""
    status = Path(f"/proc/{server.pid}/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":")), 0.0)


def call(address: str, through_router: bool, case: str, number: int, size: int, seconds: float) -> str:
    """Make one call and return its status."""
    put = case.startswith("put")
    key = f"{case}-{number}".encode()
    request = pb.PutRequest(key=key, value=bytes(size)) if put else pb.GetRequest(key=key)
    data = request.SerializeToString()
    metadata = ((REQUEST_BYTES, str(len(data))),) if case == "put" else None
    options = [*channel_options(), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            method = PUT if put else GET
            path = method.router_path if through_router else method.node_path
            channel.unary_unary(path)(data, timeout=seconds, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


def store(endpoint_url: str, keys: Sequence[str], size: int) -> None:
    """Put objects of `size` bytes into the stub."""
    connection = http.client.HTTPConnection(endpoint_url.removeprefix("http://"), timeout=60)
    try:
        for key in keys:
            connection.request("PUT", f"/{BUCKET}/{key}", body=bytes(size))
            connection.getresponse().read()
    finally:
        connection.close()


def burst(case: str, through_router: bool, count: int, size: int, seconds: float) -> bool:
    """Run one case, print a line for each process, and return True if both stayed within their budgets."""
    shared = {**MALLOC, "MAX_IN_FLIGHT_BYTES": f"{IN_FLIGHT}MiB", "REQUEST_TIMEOUT_SECONDS": str(seconds)}
    node_env = {
        **shared,
        "LRU_BYTES": f"{LRU}MiB",
        "DIRTY_MEMORY_BYTES": f"{DIRTY}MiB",
        "S3_TIMEOUT_SECONDS": str(seconds),
    }
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            StubProcess(directory) as s3,
            Cluster(directory, s3.endpoint_url, BUCKET, 1, router_env=shared, node_env=node_env) as cluster,
        ):
            if case == "get":
                store(s3.endpoint_url, [f"{case}-{number}" for number in range(count)], size)
            node, router = cluster.nodes[0], cluster.router
            allowed = {
                router: SLACK * (memory(router, "VmRSS") + IN_FLIGHT),
                node: SLACK * (memory(node, "VmRSS") + LRU + DIRTY + IN_FLIGHT),
            }
            address = router.address if through_router else node.address
            with ThreadPoolExecutor(count) as callers:
                responses = Counter(
                    callers.map(
                        lambda number: call(address, through_router, case, number, size, seconds), range(count)
                    )
                )
            print(f"{case} {'through the router' if through_router else 'at the node'}: {dict(responses)}")
            fine = True
            for process, limit in allowed.items():
                peak = memory(process, "VmHWM")
                fine = fine and 0 < peak <= limit
                print(f"  {'router' if process is router else 'node':6} peak {peak:6.0f} MiB, allowed {limit:6.0f}")
            return fine


def main() -> int:
    """Run all cases and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60)
    chosen = parser.parse_args()
    results = [
        burst(case, through_router, chosen.count, chosen.mib * MIB, chosen.seconds)
        for case in CASES
        for through_router in (True, False)
    ]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
