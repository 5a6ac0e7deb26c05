"""The handshaking of handshakes on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from milena_common.network import handshakes
from milena_common.network.handshake_throttle import BURST_SECONDS, SHARE
from milena_common.network.handshakes import Handshakes, TooManyHandshakes

COST = 0.001


def busy() -> Callable[[], int]:
    """Return a count of commands that grows whenever it is read."""
    count = 0

    def served() -> int:
        nonlocal count
        count += 1
        return count

    return served


async def test_handshakes_have_a_share_of_the_loop_while_commands_run() -> None:
    handshaking, loop = Handshakes(busy()), asyncio.get_running_loop()
    begun: list[float] = []

    async def one() -> None:
        await handshaking.wait_turn("resp", "a", COST)
        begun.append(loop.time())

    started = loop.time()
    await asyncio.gather(*(one() for _ in range(40)))
    # However slow this machine is, no more may begin than the time until then has room for.
    for number, when in enumerate(begun):
        assert number * COST <= (when - started + BURST_SECONDS) * SHARE + COST


async def test_one_of_another_source_does_not_wait_for_all_of_a_greedy_one() -> None:
    handshaking, begun = Handshakes(busy()), []

    async def one(source: str) -> None:
        await handshaking.wait_turn("resp", source, COST)
        begun.append(source)

    greedy = [asyncio.create_task(one("greedy")) for _ in range(50)]
    await asyncio.gather(*greedy[:1])
    await one("other")
    assert begun.index("other") <= 3
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_those_that_have_waited_too_long_are_ended_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handshaking = Handshakes(lambda: 0)
    monkeypatch.setattr(handshakes, "MAX_WAIT_SECONDS", -1.0)
    late = [asyncio.create_task(handshaking.wait_turn("resp", "a", COST)) for _ in range(40)]
    await asyncio.sleep(0)
    monkeypatch.undo()
    in_time = asyncio.create_task(handshaking.wait_turn("resp", "b", COST))
    found = await asyncio.gather(*late, return_exceptions=True)
    assert all(isinstance(each, TimeoutError) for each in found)
    await in_time
    assert not len(handshaking)


async def test_a_cancelled_one_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "MAX_WAITING", 2)
    handshaking = Handshakes(lambda: 0)
    waiting = [asyncio.create_task(handshaking.wait_turn("resp", "a", COST)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError, type(None), TooManyHandshakes]
    assert not len(handshaking)
