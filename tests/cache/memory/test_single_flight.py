"""Flights by themselves; what the node makes of them is in test_node."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.memory.single_flight import MAX_READS, Flight, Flights
from milena_common.runtime.key_locks import Turns

LATE = 3.0


async def test_a_detached_flight_is_neither_joined_nor_kept() -> None:
    flights: Flights[int] = Flights(late_after=LATE)
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return int(flight.attached)

    first = flights.start(b"k", 1, read, 0.0)
    assert flights.join(b"k", 1, 0.0) is first
    flights.detach(b"k")
    assert flights.join(b"k", 1, 0.0) is None
    second = flights.start(b"k", 1, read, 0.0)
    go.set()
    assert (await first.landed, await second.landed) == (0, 1)


async def test_a_flight_of_an_earlier_ownership_is_not_joined() -> None:
    flights: Flights[int] = Flights(late_after=LATE)
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return 0

    first = flights.start(b"k", 5, read, 0.0)
    assert flights.join(b"k", 4, 0.0) is first
    assert flights.join(b"k", 6, 0.0) is None
    assert not first.attached
    go.set()
    await first.landed


async def test_a_landed_flight_is_gone_and_an_unheard_error_makes_no_noise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights: Flights[int] = Flights(late_after=LATE)

    async def fail(flight: Flight[int]) -> int:
        raise ValueError("nobody waits for this")

    flight = flights.start(b"k", 0, fail, 0.0)
    assert await flights.wait(flight, 5)
    await asyncio.sleep(0)
    assert flights.join(b"k", 0, 0.0) is None
    assert len(flights) == 0
    del flight
    with caplog.at_level(logging.DEBUG):
        await asyncio.sleep(0)
    assert not caplog.records


async def test_waiting_ends_with_the_time_and_leaves_the_flight_alone() -> None:
    flights: Flights[int] = Flights(late_after=LATE)
    go = asyncio.Event()

    async def read(flight: Flight[int]) -> int:
        await go.wait()
        return 7

    flight = flights.start(b"k", 0, read, 0.0)
    assert not await flights.wait(flight, 0)
    go.set()
    assert await flights.wait(flight, 5)
    assert flight.landed.result() == 7


async def test_cancelling_all_ends_every_flight() -> None:
    flights: Flights[int] = Flights(late_after=LATE)

    async def read(flight: Flight[int]) -> int:
        await asyncio.Event().wait()
        return 0

    for key in (b"a", b"b"):
        flights.start(key, 0, read, 0.0)
    await flights.cancel_all()
    await asyncio.sleep(0)
    assert len(flights) == 0


async def test_a_reader_that_joins_a_late_flight_starts_another_read_whose_result_is_for_all() -> None:
    flights: Flights[int] = Flights(late_after=LATE)
    begun: list[asyncio.Future[int]] = []

    async def read(flight: Flight[int]) -> int:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    flight = flights.start(b"k", 0, read, 0.0)
    assert flights.join(b"k", 0, LATE - 0.1) is flight
    await asyncio.sleep(0)
    assert len(begun) == 1
    assert flights.join(b"k", 0, LATE) is flight
    assert flights.join(b"k", 0, LATE + 0.1) is flight, "the second read is not late"
    await asyncio.sleep(0)
    assert len(begun) == 2
    begun[1].set_result(7)
    assert await flights.wait(flight, 5)
    assert flight.landed.result() == 7
    await asyncio.sleep(0)
    assert begun[0].cancelled()
    assert flights.join(b"k", 0, LATE) is None
    assert len(flights) == 0


async def test_the_reads_of_a_flight_are_bounded_and_the_last_error_is_told_when_all_have_failed() -> None:
    flights: Flights[int] = Flights(late_after=LATE)
    begun: list[asyncio.Future[int]] = []

    async def read(flight: Flight[int]) -> int:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    flight = flights.start(b"k", 0, read, 0.0)
    for number in range(1, 3 * MAX_READS):
        assert flights.join(b"k", 0, number * LATE) is flight
    await asyncio.sleep(0)
    assert len(begun) == MAX_READS
    for number, each in enumerate(begun):
        assert not flight.landed.done()
        each.set_exception(ValueError(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match=str(MAX_READS - 1)):
        await flight.landed


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
