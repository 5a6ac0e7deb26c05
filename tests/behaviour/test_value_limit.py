"""Values that are too large are rejected in the client: before they are copied, and before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest

from milena_client import AsyncMilena, Milena
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import MAX_VALUE_BYTES
from milena_common.api.pb import router_server_pb2 as pb
from tests.client.direct_cluster import DirectCluster
from tests.support.waiting import eventually


class Huge(bytes):
    """Says that it has more bytes than any server takes."""

    def __len__(self) -> int:
        return MAX_VALUE_BYTES + 1


class Never:
    """A transport that must not be used."""

    def call(self, *_: object) -> Any:
        raise AssertionError("sent")

    start = call

    def close(self) -> None:
        pass


def test_a_value_that_no_server_takes_is_not_sent() -> None:
    client = Milena(transport=Never())
    with pytest.raises(InvalidRequest, match=f"value: has {MAX_VALUE_BYTES + 1} bytes; allowed are at most"):
        client.set("k", Huge())
    with pytest.raises(InvalidRequest, match="MAX_VALUE_BYTES"):
        client.set_many({"small": b"v", "k": Huge()})


@pytest.mark.parametrize("size", [101, 5000])
def test_the_routers_limit_is_learnt_with_the_ring(size: int) -> None:
    with DirectCluster(1) as cluster:
        cluster.update.max_value_bytes = 100
        with Milena(cluster.address) as client:
            cluster.wait_until_direct(client)
            client.set("k", bytes(100))
            requested = len(cluster.requested), len(cluster.nodes[0].commands)
            with pytest.raises(InvalidRequest, match=f"value: has {size} bytes; allowed are at most 100"):
                client.set("k", bytes(size))
            assert (len(cluster.requested), len(cluster.nodes[0].commands)) == requested


async def test_the_async_client_learns_it_too() -> None:
    with DirectCluster(1) as cluster:
        cluster.update.max_value_bytes = 100
        async with AsyncMilena(cluster.address) as client:
            await client.get("k")
            await eventually(lambda: client._max_value_bytes == 100)
            with pytest.raises(InvalidRequest, match="allowed are at most 100"):
                await client.set("k", bytes(101))


def test_an_older_router_says_nothing_and_every_size_may_be_sent() -> None:
    assert pb.RingUpdate().max_value_bytes == 0
    with DirectCluster(1) as cluster, Milena(cluster.address) as client:
        cluster.wait_until_direct(client)
        client.set("k", bytes(5000))
