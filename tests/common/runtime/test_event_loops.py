"""An async client that is used in several event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator

import pytest

from milena_client import AsyncMilena, FailedPrecondition, NearCache
from tests.client.direct_cluster import WARM, DirectCluster
from tests.support.waiting import wait_until

LONG = 30.0
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def cluster() -> Iterator[DirectCluster]:
    with DirectCluster(3) as cluster:
        yield cluster


async def until_direct(client: AsyncMilena, cluster: DirectCluster) -> None:
    """Read until a round of reads sends nothing to the router."""
    async with asyncio.timeout(LONG):
        while True:
            requested = len(cluster.requested)
            values = [await client.get(key) for key in WARM]
            assert values == [b"v"] * len(WARM)
            assert await client.get_many(WARM) == dict.fromkeys(WARM, b"v")
            if len(cluster.requested) == requested:
                return


@pytest.mark.parametrize("near", [False, True])
def test_a_client_works_in_one_asyncio_run_after_another(cluster: DirectCluster, near: bool) -> None:
    client = AsyncMilena(cluster.address, near_cache=NearCache(2**20, 60.0) if near else None)
    asyncio.run(client.set_many(dict.fromkeys(WARM, b"v")))  # type: ignore[arg-type]
    for _ in range(3):
        asyncio.run(until_direct(client, cluster))
    asyncio.run(client.close())
    with pytest.raises(FailedPrecondition, match="closed"):
        asyncio.run(client.get("k"))
    del client
    gc.collect()
    wait_until("connections are closed", lambda: not any(node.connections for node in cluster.nodes), LONG)


def test_a_client_that_goes_through_the_router_works_in_one_run_after_another(cluster: DirectCluster) -> None:
    client = AsyncMilena(cluster.address, direct=False)
    for number in range(3):
        asyncio.run(_round(client, str(number).encode()))
    asyncio.run(client.close())


async def _round(client: AsyncMilena, value: bytes) -> None:
    await client.set("k", value)
    assert await client.get("k") == value


@pytest.mark.parametrize("direct", [True, False])
def test_a_client_of_a_loop_that_still_runs_says_so_in_another_one(cluster: DirectCluster, direct: bool) -> None:
    client = AsyncMilena(cluster.address, direct=direct)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        assert asyncio.run_coroutine_threadsafe(client.get("k"), loop).result(LONG) is None
        for call in (client.get("k"), client.get_many(["k"]), client.set("k", b"v"), client.close()):
            with pytest.raises(Exception, match="another event loop") as raised:
                asyncio.run(call)  # type: ignore[arg-type]
            assert type(raised.value).__module__ == "milena_common.api.errors"
        assert asyncio.run_coroutine_threadsafe(client.get("k"), loop).result(LONG) is None
        asyncio.run_coroutine_threadsafe(client.close(), loop).result(LONG)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_closing_a_client_whose_loop_is_gone_is_no_error(cluster: DirectCluster) -> None:
    client = AsyncMilena(cluster.address)
    asyncio.run(client.get("k"))
    asyncio.run(client.close())
