"""Milena's clients without direct access use the router's Redis port, and its gRPC where it has none."""

from __future__ import annotations

import asyncio

import pytest

from milena_client import AsyncMilena, Milena, NearCache
from milena_common.api.errors import ConditionFailed
from tests.e2e.conftest import StartCluster
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e
WITHHELD = {"DIRECT_ACCESS": "false"}


def test_reads_and_writes_use_the_port(start_cluster: StartCluster) -> None:
    with ReservedPort() as port:
        cluster = start_cluster(2, router_env={**WITHHELD, "RESP_ADDR": port.address})
        cluster.wait_for_ring(2)
        with Milena(cluster.address) as milena:
            milena.set("a", b"1")

            def commands(operation: str = "get") -> float:
                return cluster.router.metrics().value("milena_router_resp_commands_total", operation=operation)

            def used() -> bool:
                assert milena.get("a") == b"1"
                return commands() > 0

            wait_until("reads use the port", used, 30.0)
            before = commands()
            assert milena.get_many([*(f"k{number}" for number in range(50)), "a"]) == {"a": b"1"}
            assert milena.get("missing") is None
            assert commands() - before == 2
            milena.set("b", b"2", if_none_match="*")
            with pytest.raises(ConditionFailed):
                milena.set("b", b"3", if_none_match="*")
            milena.delete("a")
            assert milena.get("a") is None
            assert [info.key for info in milena.scan()] == ["b"]
            assert commands("put") >= 2


async def test_a_near_cache_has_no_node_to_notify_it_and_reads_are_right(start_cluster: StartCluster) -> None:
    with ReservedPort() as port:
        cluster = start_cluster(1, router_env={**WITHHELD, "RESP_ADDR": port.address})
        async with (
            AsyncMilena(cluster.address) as writer,
            AsyncMilena(cluster.address, near_cache=NearCache(2**20, 60)) as near,
        ):
            for number in range(20):
                await writer.set("a", b"%d" % number)
                assert await near.get("a") == b"%d" % number

    def in_a_thread() -> None:
        with Milena(cluster.address, near_cache=NearCache(2**20, 60)) as near:
            near.set("b", b"1")
            assert near.get("b") == b"1"

    await asyncio.to_thread(in_a_thread)


async def test_the_async_client_and_a_router_without_a_port(start_cluster: StartCluster) -> None:
    cluster = start_cluster(1, router_env=WITHHELD)
    async with AsyncMilena(cluster.address) as milena:
        await milena.set("a", b"1")
        assert await milena.get("a") == b"1"


async def test_a_rate_limit_is_that_of_the_router(start_cluster: StartCluster) -> None:
    with ReservedPort() as port:
        cluster = start_cluster(1, router_env={**WITHHELD, "RESP_ADDR": port.address, "RATE_LIMIT": "50"})
        async with AsyncMilena(cluster.address) as milena:
            for _ in range(150):
                await milena.get("a")
        metrics = cluster.router.metrics()
        assert metrics.value("milena_router_rate_limited_total") > 0
        assert metrics.value("milena_router_resp_commands_total", operation="get") > 100
