"""The thread of the journal's disk."""

from __future__ import annotations

import asyncio
import threading

import pytest

from milena_cache.journal.disk_thread import DiskThread


async def test_work_is_done_in_order_in_one_other_thread_and_raises_what_it_raises() -> None:
    thread, done = DiskThread("disk"), []

    def work(number: int) -> None:
        done.append((number, threading.current_thread().name))
        if number == 2:
            raise OSError("no disk")

    futures = [thread.run(lambda number=number: work(number)) for number in range(1, 4)]  # type: ignore[misc]
    await futures[0]
    with pytest.raises(OSError, match="no disk"):
        await futures[1]
    await futures[2]
    assert done == [(number, "disk") for number in range(1, 4)]
    thread.close()


async def test_a_caller_that_was_cancelled_keeps_it_from_nothing() -> None:
    thread = DiskThread("disk")
    gate = threading.Event()
    first = thread.run(gate.wait)  # type: ignore[arg-type]
    second = thread.run(lambda: None)
    first.cancel()
    gate.set()
    await second
    thread.close()
    assert first.cancelled()


def test_a_loop_that_has_ended_keeps_it_from_nothing() -> None:
    thread = DiskThread("disk")
    gate = threading.Event()

    async def begin() -> None:
        thread.run(gate.wait)  # type: ignore[arg-type]

    asyncio.run(begin())
    gate.set()
    assert asyncio.run(_number(thread)) == 7
    thread.close()


async def _number(thread: DiskThread) -> int:
    found: list[int] = []
    await thread.run(lambda: found.append(7))
    return found[0]


def test_it_ends_when_it_is_closed() -> None:
    before = threading.active_count()
    thread = DiskThread("disk")
    assert asyncio.run(_number(thread)) == 7
    thread.close()
    assert threading.active_count() == before
    DiskThread("unused").close()
