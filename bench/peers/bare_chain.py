"""Shell. What gRPC alone costs: client → router → node as two bare grpcio servers that do nothing.

    python -m bench.peers.bare_chain VALUE_BYTES             a node: answers every call with so many bytes
    python -m bench.peers.bare_chain VALUE_BYTES ROUTER_FOR  a router: passes calls on to the node at that address

No serialization, no ring, no cache, no counters, and no code of Milena. The distance between this and Milena is
what Milena's own work costs; the rest of a call is gRPC's. Prints its address and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import grpc

METHOD = "/bare.Bare/Get"


async def serve(value_bytes: int, node: str) -> None:
    value = bytes(value_bytes)
    response: Callable[[bytes, object], Awaitable[bytes]]
    if node:
        forward: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        forward = grpc.aio.insecure_channel(node).unary_unary(METHOD)

        async def response(request: bytes, _: object) -> bytes:
            responded: bytes = await forward(request, timeout=5)
            return responded
    else:

        async def response(request: bytes, _: object) -> bytes:
            return value

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler: grpc.RpcMethodHandler[bytes, bytes]
    handler = grpc.unary_unary_rpc_method_handler(response)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", {"Get": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
