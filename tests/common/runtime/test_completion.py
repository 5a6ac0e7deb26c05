"""Waiting a bounded time for one future."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.runtime.completion import done_within


async def test_what_is_done_is_waited_for_no_longer() -> None:
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(done_within(future, 60.0))
    await asyncio.sleep(0)
    future.set_exception(ValueError("the result is for others"))
    assert await waiting
    assert await done_within(future, 0.0)
    assert isinstance(future.exception(), ValueError)


async def test_what_is_not_done_in_time_goes_on() -> None:
    future = asyncio.get_running_loop().create_future()
    assert not await done_within(future, 0.0)
    assert not await done_within(future, -1.0)
    assert not future.cancelled()


async def test_a_waiter_that_is_cancelled_cancels_nothing() -> None:
    future = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(done_within(future, 60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not future.done()
    future.set_result(None)
