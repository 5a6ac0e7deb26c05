"""Coordination. Clients of three kinds that read and write the same keys while the ring has faults.

Each key has a client that goes through the router, one that goes straight to the nodes, and one of Redis' cluster
protocol, so that one of them that waits for a lost node does not keep others from calls for its key. None repeats a
write whose outcome is unknown.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, RedisClusterException, RedisError, TryAgainError

from milena_client import AsyncMilena, ConditionFailed, MilenaError, Overloaded, RateLimited
from milena_common.api.durability import Durability
from tests.faults.harness.history import History
from tests.faults.harness.load import NO_RETRY
from tests.faults.ring_faults.availability import Availability
from tests.faults.ring_faults.counters import Counters

ROUTER, DIRECT, REDIS = "router", "direct", "redis"
TIMEOUT_SECONDS = 0.6
# Each client of a key pauses between two calls, and longer after an error, which costs redis-py a new table of all
# slots: all keys together have about 200 calls a second.
PAUSE_SECONDS = 0.2
ERROR_SECONDS = 0.2
# redis-py is the slowest of the clients: only so many of the registers have one.
REDIS_REGISTERS = 6

# How calls fail. redis-py 8.1.0 raises a KeyError for a slot that is in no node's table, as slots are that wait for
# their lost holders, and an AttributeError for a connection that another call has closed meanwhile.
FAILURES = (MilenaError, RedisError, RedisClusterException, OSError, TimeoutError, LookupError, AttributeError)

# Replies of Redis clients that say that nothing was done.
_NOTHING_DONE = (ClusterDownError, MovedError, TryAgainError)


class RingLoad:
    """Load on `registers`, `through` and `counters`, keys of one round.

    registers: values acknowledged by the journal; through: values acknowledged by S3
    addresses: where RESP servers listen, by the addresses that they advertise; redis-py connects there
    """

    def __init__(
        self,
        address: str,
        addresses: Mapping[str, str],
        names: tuple[list[str], list[str], list[str]],
        seed: str,
    ) -> None:
        self.registers, self.through, self.counted = names
        self.history = History([*self.registers, *self.through], large_bytes=20_000)
        self.counters = Counters()
        self.availability = Availability()
        self.errors: Counter[str] = Counter()
        self._address = address
        self._addresses = addresses
        self._seed = seed
        self._ends = False

    @property
    def keys(self) -> list[str]:
        return [*self.registers, *self.through, *self.counted]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients are at work inside the block; after it no call is in flight."""
        # One for each key: after an error redis-py closes all connections of a client, and finds the nodes anew.
        redis = {key: self._redis_client() for key in (*self.registers[:REDIS_REGISTERS], *self.counted)}
        async with (
            AsyncMilena(self._address, timeout=TIMEOUT_SECONDS, retry=NO_RETRY, direct=False) as router,
            AsyncMilena(self._address, timeout=TIMEOUT_SECONDS, retry=NO_RETRY) as direct,
        ):
            work = []
            for key in (*self.registers, *self.through):
                durability: Durability = "through" if key in self.through else "back"
                for way, client in ((ROUTER, router), (DIRECT, direct)):
                    work.append(self._repeat(key, way, self._milena(client, key, way, durability)))
            for key in self.registers[:REDIS_REGISTERS]:
                work.append(self._repeat(key, REDIS, self._redis(redis[key], key)))
            for key in self.counted:
                for number in range(2):
                    work.append(self._repeat(key, REDIS, self._count(redis[key], key), number))
                work.append(self._repeat(key, DIRECT, self._look(direct, key)))
            tasks = [asyncio.create_task(each) for each in work]
            try:
                yield
            finally:
                self._ends = True
                await asyncio.gather(*tasks)
                await asyncio.gather(*(client.aclose() for client in redis.values()))

    def _redis_client(self) -> RedisCluster:
        return RedisCluster(
            startup_nodes=[ClusterNode(*_host_and_port(each)) for each in self._addresses.values()],
            address_remap=self._remap,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=TIMEOUT_SECONDS,
            socket_connect_timeout=TIMEOUT_SECONDS,
            require_full_coverage=False,
        )

    def _remap(self, address: tuple[str, int]) -> tuple[str, int]:
        host, port = address
        return _host_and_port(self._addresses.get(f"{host}:{port}", f"{host}:{port}"))

    async def _repeat(
        self, key: str, way: str, call: Callable[[Random, str], Awaitable[bool]], number: int = 0
    ) -> None:
        random = Random(f"{self._seed} {key} {way} {number}")
        process = f"{way} {number} {key}"
        while not self._ends:
            try:
                if await call(random, process):
                    self.availability.succeeded(key, way, time.monotonic())
            except FAILURES as error:
                self.errors[f"{way}: {type(error).__name__}"] += 1
                await asyncio.sleep(ERROR_SECONDS)
            await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE_SECONDS)

    # ---- registers

    def _milena(
        self, client: AsyncMilena, key: str, way: str, durability: Durability
    ) -> Callable[[Random, str], Awaitable[bool]]:
        history = self.history

        async def call(random: Random, process: str) -> bool:
            drawn = random.random()
            if drawn < 0.5:
                mark = history.mark(key)
                entry = await client.get_entry(key)
                value = None if entry is None else entry.value
                history.observed(key, value, mark, process)
                if drawn < 0.4 or entry is None:
                    return True
                write = history.begin(key, process=process, only_over=entry.value)
                etag = entry.etag
            else:
                write, etag = history.begin(key, delete=drawn > 0.9, process=process), None
            try:
                if write.value is None:
                    await client.delete(key, durability=durability, if_match=etag)
                else:
                    await client.set(key, write.value, durability=durability, if_match=etag)
            except ConditionFailed:
                history.condition_failed(write)
                return True
            except (RateLimited, Overloaded):
                history.rejected(write)
                raise
            history.acknowledge(write)
            return True

        return call

    def _redis(self, client: RedisCluster, key: str) -> Callable[[Random, str], Awaitable[bool]]:
        history = self.history

        async def call(random: Random, process: str) -> bool:
            drawn = random.random()
            if drawn < 0.5:
                mark = history.mark(key)
                history.observed(key, await client.get(key), mark, process)
                return True
            only_if_absent = drawn > 0.9
            # A plain Redis client tells no node until when a command is wanted: one that it has given up, and that
            # a partition has held, may take effect after a later command of this client, as it may with Redis.
            write = history.begin(
                key,
                delete=drawn < 0.6,
                process=process,
                only_over=None if only_if_absent else True,
                in_order=False,
            )
            try:
                if write.value is None:
                    await client.delete(key)
                    done: Any = True
                else:
                    done = await client.set(key, write.value, nx=only_if_absent)
            except _NOTHING_DONE:
                history.rejected(write)
                raise
            if done:
                history.acknowledge(write)
            else:
                history.condition_failed(write)
            return True

        return call

    # ---- counters

    def _count(self, client: RedisCluster, key: str) -> Callable[[Random, str], Awaitable[bool]]:
        async def call(random: Random, process: str) -> bool:
            increment = self.counters.begin(key, time.monotonic())
            try:
                number = await client.incr(key)
            except _NOTHING_DONE:
                self.counters.rejected(key, increment)
                raise
            self.counters.returned(increment, time.monotonic(), int(number))
            return True

        return call

    def _look(self, client: AsyncMilena, key: str) -> Callable[[Random, str], Awaitable[bool]]:
        async def call(random: Random, process: str) -> bool:
            read = self.counters.begin(key, time.monotonic(), is_read=True)
            value = await client.get(key)
            self.counters.returned(read, time.monotonic(), int(value or b"0"))
            return True

        return call


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
