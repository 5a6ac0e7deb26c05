"""Shell. Clients that are not Milena's: the generated stubs, as any program may use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from milena_common.api.pb import cache_server_pb2_grpc, router_server_pb2_grpc


@contextmanager
def router_stub(address: str) -> Iterator[Any]:
    """The Router service at `address`."""
    with grpc.insecure_channel(address) as channel:
        yield router_server_pb2_grpc.RouterStub(channel)


@contextmanager
def cache_stub(address: str) -> Iterator[Any]:
    """The Cache service at `address`."""
    with grpc.insecure_channel(address) as channel:
        yield cache_server_pb2_grpc.CacheStub(channel)


def rejection(call: Callable[[], object]) -> tuple[str, str]:
    """Status name and details of a call that must fail."""
    try:
        reply = call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    raise AssertionError(f"answered {reply!r}")
