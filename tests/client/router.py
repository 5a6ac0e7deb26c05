"""A router in this process: real gRPC, replies from memory or from whatever function a test gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from milena_common.api.errors import MilenaError
from milena_common.api.methods import JOIN, METHODS, ROUTER_SERVICE, WATCH_RING
from milena_common.api.pb import router_server_pb2 as pb
from milena_common.rpc.options import server_options
from milena_common.rpc.status import to_grpc

Reply = Callable[[str, Any, grpc.ServicerContext], Message]
Watch = Callable[[grpc.ServicerContext], Iterator[pb.RingUpdate]]

# All that clients call.
UNARY = tuple(method.name for method in METHODS if method.router and method.form == "unary" and method is not JOIN)


# Not the second after which a real server ends a call that it could not start: that is for overload, and on a busy
# machine these threads may not run for as long.
OPTIONS = [*{**dict(server_options(64 * 2**20)), "grpc.server_max_unrequested_time_in_server": 60}.items()]


@contextmanager
def router(
    reply: Reply, methods: tuple[str, ...] = UNARY, port: int = 0, watch: Watch | None = None
) -> Iterator[str]:
    """Serve `methods` of the router's API with `reply`; gives the address. Port 0 is any free one.

    `watch` gives the rings that WatchRing sends; without it there is no such method.
    """

    def stream(_: Any, context: grpc.ServicerContext) -> Iterator[pb.RingUpdate]:
        assert watch is not None
        try:
            yield from watch(context)
        except MilenaError as error:
            status, details, metadata = to_grpc(error)
            context.set_trailing_metadata(metadata)
            context.abort(status, details)

    def handler(method: str) -> Any:
        def handle(request: Any, context: grpc.ServicerContext) -> Message:
            try:
                return reply(method, request, context)
            except MilenaError as error:
                status, details, metadata = to_grpc(error)
                context.set_trailing_metadata(metadata)
                context.abort(status, details)
                raise AssertionError("abort raises") from None

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=getattr(pb, f"{method}Request").FromString,
            response_serializer=getattr(pb, f"{method}Response").SerializeToString,
        )

    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=OPTIONS)
        handlers = {method: handler(method) for method in methods}
        if watch is not None:
            handlers[WATCH_RING.name] = grpc.unary_stream_rpc_method_handler(
                stream,
                request_deserializer=pb.WatchRingRequest.FromString,
                response_serializer=pb.RingUpdate.SerializeToString,
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(ROUTER_SERVICE, handlers),))
        port = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(0).wait()
