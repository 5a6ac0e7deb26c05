"""Shell. Hits through the router's gRPC server by a bare gRPC client, on uvloop.

    python -m bench.programs.router_reads HOST:PORT CALLERS SECONDS

`client_us` is the client's processor time for each call.
"""

from __future__ import annotations

import sys
import time
from itertools import cycle

import grpc

from bench.case import Samples
from bench.child import run_and_print
from bench.workload.hot_keys import HOT_KEYS
from bench.workload.load import with_callers
from milena_common.api.methods import GET
from milena_common.api.pb import router_server_pb2 as pb

_CALL_SECONDS = 5
_KEYS = [key.encode() for key in HOT_KEYS[:100]]


async def read(address: str, callers: int, seconds: float) -> Samples:
    async with grpc.aio.insecure_channel(address) as channel:
        get: grpc.aio.UnaryUnaryMultiCallable[pb.GetRequest, pb.GetResponse]
        get = channel.unary_unary(GET.router_path, pb.GetRequest.SerializeToString, pb.GetResponse.FromString)
        for key in _KEYS:
            assert (await get(pb.GetRequest(key=key), timeout=_CALL_SECONDS)).successful
        keys = cycle(_KEYS)

        async def call() -> None:
            assert (await get(pb.GetRequest(key=next(keys)), timeout=_CALL_SECONDS)).outcome == "hit"

        cpu = time.process_time()
        samples = await with_callers(call, callers, seconds)
        return {**samples, "client_us": (time.process_time() - cpu) / samples["calls"] * 1e6}


if __name__ == "__main__":
    run_and_print(read(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
