"""Values from S3 take their bytes before they are received, and hold them until they are handed over."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.origin.s3.fetch_bytes import fetch_bytes
from milena_common.api.errors import Overloaded
from milena_common.limits.byte_budget import ByteBudget
from milena_common.limits.call_bytes import COPIES, SMALL_BYTES, CallBytes

SIZE = 10 * SMALL_BYTES
SOON = 10.0


async def test_fetches_beyond_the_budget_wait_until_those_before_them_are_handed_over() -> None:
    budget = ByteBudget(2 * COPIES * SIZE)
    reading, maximum, arrived = 0, 0, asyncio.Event()

    async def fetch() -> int:
        nonlocal reading, maximum
        async with fetch_bytes(budget, SIZE, SOON):
            reading += 1
            maximum = max(maximum, reading)
            await arrived.wait()
        reading -= 1
        return SIZE

    fetches = [asyncio.create_task(fetch()) for _ in range(6)]
    await asyncio.sleep(0)
    assert (budget.used, budget.queued) == (budget.limit, 4)
    arrived.set()
    assert await asyncio.gather(*fetches) == [SIZE] * 6
    assert maximum == 2


async def test_a_waiter_of_a_fetch_charges_its_result_before_the_bytes_go_to_another_fetch() -> None:
    budget = ByteBudget(COPIES * SIZE)
    used_when_the_second_began: list[int] = []
    replied = asyncio.Event()

    async def fetch() -> None:
        async with fetch_bytes(budget, SIZE, SOON):
            used_when_the_second_began.append(budget.used)
            await asyncio.sleep(0)

    async def read(fetching: asyncio.Task[None]) -> None:
        await asyncio.wait((fetching,))
        CallBytes(budget).set_total(COPIES * SIZE)
        await replied.wait()

    first = asyncio.create_task(fetch())
    reader = asyncio.create_task(read(first))
    await asyncio.sleep(0)
    second = asyncio.create_task(fetch())
    await first
    for _ in range(10):
        await asyncio.sleep(0)
    assert used_when_the_second_began == [COPIES * SIZE]
    assert not second.done()
    replied.set()
    await asyncio.gather(reader, second)
    assert used_when_the_second_began == [COPIES * SIZE] * 2


async def test_an_attempt_that_fails_gives_back_its_bytes_before_the_next() -> None:
    budget = ByteBudget(COPIES * SIZE)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            async with fetch_bytes(budget, SIZE, SOON):
                raise ConnectionError
        assert budget.used == 0


async def test_a_fetch_waits_for_half_of_its_time_at_most() -> None:
    budget = ByteBudget(COPIES * SIZE)
    assert budget.try_take(COPIES * SIZE)
    with pytest.raises(Overloaded, match="MAX_IN_FLIGHT_BYTES"):
        async with fetch_bytes(budget, SIZE, 0.02):
            raise AssertionError("there was no room")


async def test_small_values_wait_for_nothing() -> None:
    budget = ByteBudget(1)
    assert budget.try_take(1)
    async with fetch_bytes(budget, SMALL_BYTES, SOON):
        assert budget.used == 1
