"""Flights by themselves; what the node makes of them is in test_node."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.flights import Flight, Flights
from milena_cache.turns import Turns


async def test_a_detached_flight_is_neither_joined_nor_kept() -> None:
    flights: Flights[int] = Flights()
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return int(flight.attached)

    first = flights.start(b"k", 1, read)
    assert flights.join(b"k", 1) is first
    flights.detach(b"k")
    assert flights.join(b"k", 1) is None
    second = flights.start(b"k", 1, read)
    go.set()
    assert (await first.task, await second.task) == (0, 1)


async def test_a_flight_of_an_earlier_ownership_is_not_joined() -> None:
    flights: Flights[int] = Flights()
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return 0

    first = flights.start(b"k", 5, read)
    assert flights.join(b"k", 4) is first
    assert flights.join(b"k", 6) is None
    assert not first.attached
    go.set()
    await first.task


async def test_a_landed_flight_is_gone_and_an_unheard_error_makes_no_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights: Flights[int] = Flights()

    async def fail(flight: Flight[int]) -> int:
        raise ValueError("nobody waits for this")

    flight = flights.start(b"k", 0, fail)
    assert await flights.wait(flight, 5)
    await asyncio.sleep(0)
    assert flights.join(b"k", 0) is None
    assert len(flights) == 0
    del flight
    with caplog.at_level(logging.DEBUG):
        await asyncio.sleep(0)
    assert not caplog.records


async def test_waiting_ends_with_the_time_and_leaves_the_flight_alone() -> None:
    flights: Flights[int] = Flights()
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return 7

    flight = flights.start(b"k", 0, read)
    assert not await flights.wait(flight, 0)
    go.set()
    assert await flights.wait(flight, 5)
    assert flight.task.result() == 7


async def test_cancelling_all_ends_every_flight() -> None:
    flights: Flights[int] = Flights()

    async def read(flight: Flight[int]) -> int:
        await asyncio.Event().wait()
        return 0

    for key in (b"a", b"b"):
        flights.start(key, 0, read)
    await flights.cancel_all()
    await asyncio.sleep(0)
    assert len(flights) == 0


async def test_turns_are_taken_in_order_and_other_keys_do_not_wait() -> None:
    turns = Turns()
    order: list[int] = []
    go = asyncio.Event()

    async def take(number: int) -> None:
        async with turns.turn(b"k", 5):
            await go.wait()
            order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(4)]
    await asyncio.sleep(0)
    async with turns.turn(b"other", 5):
        pass
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3]
