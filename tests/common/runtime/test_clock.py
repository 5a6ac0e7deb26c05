"""The clocks: the machine's, and the one that tests use in its place."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.runtime.clock import Clock, SystemClock
from tests.support.fake_clock import FakeClock


async def test_the_systems_clock_goes_on() -> None:
    clock: Clock = SystemClock()
    now, wall = clock.now(), clock.wall()
    await clock.sleep(0.001)
    assert clock.now() > now
    assert clock.wall() > 1_700_000_000
    assert wall == pytest.approx(clock.wall(), abs=60)


async def test_sleepers_wake_in_order_each_at_its_time() -> None:
    clock = FakeClock(100.0)
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *pauses: float) -> None:
        for pause in pauses:
            await clock.sleep(pause)
            woken.append((name, clock.now()))

    tasks = [asyncio.create_task(sleeper("a", 2, 2)), asyncio.create_task(sleeper("b", 1, 1.5, 9))]
    await clock.advance(5)
    assert woken == [("b", 101), ("a", 102), ("b", 102.5), ("a", 104)]
    assert clock.now() == 105
    assert clock.sleeping == 1
    tasks[1].cancel()
    await clock.advance(20)
    assert len(woken) == 4
    assert clock.sleeping == 0


async def test_tick_wakes_no_sleeper_until_the_next_advance() -> None:
    clock = FakeClock()
    sleeper = asyncio.create_task(clock.sleep(1))
    await clock.advance(0)
    clock.tick(5)
    await asyncio.sleep(0)
    assert not sleeper.done()
    await clock.advance(0)
    assert sleeper.done()
    assert clock.now() == 1005


async def test_the_wall_clock_goes_along_and_can_be_set() -> None:
    clock: FakeClock = FakeClock(wall=5000.0)
    await clock.advance(2)
    assert clock.wall() == 5002
    clock.set_wall(100)
    clock.tick(1)
    assert (clock.wall(), clock.now()) == (101, 1003)
