"""Clients of the router's Redis port while a node is killed and another joins: no wrong value, no lost write."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio
from redis.exceptions import RedisError

from milena_common.network.addresses import parse_address
from tests.e2e.conftest import StartCluster
from tests.support.ports import ReservedPort
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e

WORKERS = 6
KEYS = 8


class Worker:
    """Writes growing numbers to keys of its own, and reads them again.

    acknowledged: by key, the newest acknowledged number; what is read must not be below it, nor above `newest`
    """

    def __init__(self, number: int, address: str) -> None:
        at = parse_address(address)
        self.client = redis.asyncio.Redis(host=at.host, port=at.port, socket_timeout=30, protocol=3)
        self.keys = [f"worker/{number}/{key}" for key in range(KEYS)]
        self.acknowledged = dict.fromkeys(self.keys, 0)
        self.newest = 0
        self.wrong: list[str] = []
        self.errors: list[str] = []
        self.rounds = 0
        self.more = asyncio.Event()  # set after each round

    def check(self, key: str, value: bytes | None) -> None:
        found = int(value or b"0")
        if not self.acknowledged[key] <= found <= self.newest:
            self.wrong.append(f"{key}: {found}, acknowledged {self.acknowledged[key]}, sent {self.newest}")

    async def run(self, ends: asyncio.Event) -> None:
        while not ends.is_set():
            self.rounds += 1
            self.more.set()
            self.newest += 1
            # In one pipeline each key is read behind its write, and has to show it.
            pipeline = self.client.pipeline(transaction=False)
            for key in self.keys:
                pipeline.set(key, self.newest).get(key)
            replies = await pipeline.execute(raise_on_error=False)
            for key, wrote, read in zip(self.keys, replies[::2], replies[1::2], strict=True):
                if wrote is True:
                    self.acknowledged[key] = self.newest
                else:
                    self.errors.append(str(wrote))
                if isinstance(read, RedisError):
                    self.errors.append(str(read))
                else:
                    self.check(key, read)
            try:
                for key, value in zip(self.keys, await self.client.mget(self.keys), strict=True):
                    self.check(key, value)
            except RedisError as error:
                self.errors.append(str(error))


async def test_no_wrong_value_while_a_node_is_killed_and_one_joins(start_cluster: StartCluster) -> None:
    with ReservedPort() as port:
        environment = {"RESP_ADDR": port.address, "LEASE_SECONDS": "2", "REQUEST_TIMEOUT_SECONDS": "10"}
        nodes = {"COPIES": "2"}
        cluster = await asyncio.to_thread(lambda: start_cluster(3, router_env=environment, node_env=nodes))

        def has_copies() -> bool:
            metrics = cluster.router.metrics()
            return (
                metrics.value("milena_router_ring_copies_target") == 2
                and metrics.value("milena_router_ring_slots_missing_copies") == 0
            )

        async def ring_of(number: int) -> None:
            """Wait until the ring has `number` nodes, and each write two journals."""
            await asyncio.to_thread(cluster.wait_for_ring, number, 90)
            await asyncio.to_thread(wait_until, "every slot has its copies", has_copies, 90)

        await ring_of(3)
        workers = [Worker(number, port.address) for number in range(WORKERS)]
        ends = asyncio.Event()
        running = [asyncio.create_task(worker.run(ends)) for worker in workers]
        try:

            async def rounds(number: int) -> None:
                """Wait until each worker has done `number` more rounds."""
                for worker in workers:
                    for _ in range(number):
                        worker.more.clear()
                        await worker.more.wait()

            await rounds(5)
            cluster.kill_node(cluster.nodes[1])
            await ring_of(2)
            await rounds(5)
            await asyncio.to_thread(cluster.add_node)
            await ring_of(3)
            await rounds(5)
        finally:
            ends.set()
        await asyncio.gather(*running)
        for worker in workers:
            for key in worker.keys:
                worker.check(key, await worker.client.get(key))
            await worker.client.aclose()
        assert [line for worker in workers for line in worker.wrong] == []
        codes = {error.partition(" ")[0] for worker in workers for error in worker.errors}
        assert codes <= {"NODELOST", "TIMEOUT", "TRYAGAIN", "CLUSTERDOWN", "BUSY", "NODEUNREACHABLE", "WRONGNODE"}
        assert cluster.router.metrics().value("milena_router_resp_repeated_total") > 0
