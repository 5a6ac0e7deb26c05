"""RATE_LIMIT at the node's gRPC server: which methods it counts, and the errors beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from milena_common.api.errors import RateLimited
from milena_common.api.pb import cache_server_pb2 as pb
from tests.cache.servers.resp.server_under_test import ServerUnderTest

LIMITED: dict[str, Any] = {
    "Put": pb.PutRequest(key=b"k", value=b"v"),
    "Get": pb.GetRequest(key=b"k"),
    "List": pb.ListRequest(),
    "Delete": pb.DeleteRequest(key=b"k"),
}


class Limited:
    """The methods of a node with RATE_LIMIT."""

    def __init__(self, rate: float) -> None:
        self.server = ServerUnderTest({"RATE_LIMIT": str(rate)})
        self.limiter = self.server.requests.limiter

    async def call(self, name: str) -> bytes:
        _, request_class, method = self.server.servers.grpc_methods[name]
        return await method(LIMITED.get(name) or request_class(), 3.0)  # type: ignore[call-arg]


async def test_within_the_limit_nothing_is_changed() -> None:
    node = Limited(len(LIMITED))
    assert pb.PutResponse.FromString(await node.call("Put")).successful
    assert pb.GetResponse.FromString(await node.call("Get")).value == b"v"
    assert [each.key for each in pb.ListResponse.FromString(await node.call("List")).objects] == [b"k"]
    assert pb.DeleteResponse.FromString(await node.call("Delete")).successful
    assert node.limiter.rejected == 0


async def test_over_it_the_methods_of_objects_are_rejected_with_the_time_to_wait() -> None:
    node = Limited(2)
    for _ in range(2):
        await node.call("Get")
    for name in LIMITED:
        with pytest.raises(RateLimited, match="this node's RATE_LIMIT of 2 requests a second") as rejected:
            await node.call(name)
        assert rejected.value.retry_after == 0.5
    assert node.limiter.rejected == len(LIMITED)
    node.server.t.clock.tick(0.5)
    await node.call("Put")


async def test_operators_and_the_router_are_never_rejected() -> None:
    node = Limited(1)
    for name in ("Get", "Stats", "Flush", "Stats", "Flush"):
        await node.call(name)
    assert node.limiter.rejected == 0


async def test_without_a_limit_nothing_is_rejected() -> None:
    node = Limited(0)
    for name in (*LIMITED, "Get", "Get"):
        await node.call(name)
    assert node.limiter.rejected == 0
