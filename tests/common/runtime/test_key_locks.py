"""One at a time for each key, in order, and nothing left behind."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.runtime.key_locks import KeyLocks
from tests.support.fake_clock import run_ready_tasks


async def hold(locks: KeyLocks, key: bytes, order: list[str], name: str, go: asyncio.Event) -> None:
    async with locks.hold(key, None):
        order.append(f"{name} in")
        await go.wait()
        order.append(f"{name} out")


async def test_holders_of_one_key_never_overlap_and_come_in_order() -> None:
    locks, order, go = KeyLocks(), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(hold(locks, b"k", order, name, go)) for name in "abc"]
    await run_ready_tasks()
    assert order == ["a in"]
    go.set()
    await asyncio.gather(*tasks)
    assert order == ["a in", "a out", "b in", "b out", "c in", "c out"]


async def test_another_key_does_not_wait_even_with_a_timeout_of_zero() -> None:
    locks, order, go = KeyLocks(), list[str](), asyncio.Event()
    task = asyncio.create_task(hold(locks, b"k", order, "a", go))
    await run_ready_tasks()
    async with locks.hold(b"other", 0.0):
        assert b"other" in locks
    go.set()
    await task


async def test_a_lock_that_is_not_granted_in_time_is_a_timeout_and_the_next_is_not_skipped() -> None:
    locks, order, go = KeyLocks(), list[str](), asyncio.Event()
    first = asyncio.create_task(hold(locks, b"k", order, "a", go))
    await run_ready_tasks()

    async def impatient() -> None:
        async with locks.hold(b"k", 0.0):
            order.append("impatient in")

    hurried = asyncio.create_task(impatient())
    second = asyncio.create_task(hold(locks, b"k", order, "b", go))
    with pytest.raises(TimeoutError):
        await hurried
    assert order == ["a in"]
    go.set()
    await asyncio.gather(first, second)
    assert order == ["a in", "a out", "b in", "b out"]
    assert b"k" not in locks


async def test_the_timeout_is_for_acquiring_and_not_for_holding_the_lock() -> None:
    locks = KeyLocks()
    async with locks.hold(b"k", 0.0):
        await run_ready_tasks()


async def test_a_cancelled_waiter_does_not_block_others() -> None:
    locks, order, go = KeyLocks(), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(hold(locks, b"k", order, name, go)) for name in "abc"]
    await run_ready_tasks()
    tasks[1].cancel()
    await run_ready_tasks()
    assert order == ["a in"]
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a in", "a out", "c in", "c out"]
    assert b"k" not in locks


async def test_a_holder_that_is_cancelled_or_fails_releases_the_lock() -> None:
    locks, order, go = KeyLocks(), list[str](), asyncio.Event()

    async def fail() -> None:
        async with locks.hold(b"k", None):
            raise ZeroDivisionError

    tasks = [asyncio.create_task(hold(locks, b"k", order, "a", go)), asyncio.create_task(fail())]
    tasks.append(asyncio.create_task(hold(locks, b"k", order, "c", go)))
    await run_ready_tasks()
    tasks[0].cancel()
    await run_ready_tasks()
    assert order == ["a in", "c in"]
    go.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(end) for end in ends] == [asyncio.CancelledError, ZeroDivisionError, type(None)]


async def test_a_key_is_known_as_long_as_its_lock_is_held_or_awaited() -> None:
    locks, order = KeyLocks(), list[str]()
    gates = [asyncio.Event(), asyncio.Event()]
    assert b"k" not in locks
    tasks = [asyncio.create_task(hold(locks, b"k", order, "x", go)) for go in gates]
    await run_ready_tasks()
    assert b"k" in locks
    gates[0].set()
    await tasks[0]
    assert b"k" in locks
    gates[1].set()
    await tasks[1]
    assert b"k" not in locks
