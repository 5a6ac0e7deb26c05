"""Flights by themselves; what the node makes of them is in test_node."""

from __future__ import annotations

import asyncio
import logging

import pytest

from milena_cache.memory.single_flight import MAX_READS, SharedCall, SingleFlight
from milena_common.runtime.key_locks import KeyLocks

LATE = 3.0


async def test_a_detached_fetch_is_neither_joined_nor_kept() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)
    go = asyncio.Event()

    async def read(call: SharedCall[int]) -> int:
        await go.wait()
        return int(call.attached)

    first = calls.start(b"k", 1, read, 0.0)
    assert calls.join(b"k", 1, 0.0) is first
    calls.detach(b"k")
    assert calls.join(b"k", 1, 0.0) is None
    second = calls.start(b"k", 1, read, 0.0)
    go.set()
    assert (await first.outcome, await second.outcome) == (0, 1)


async def test_a_fetch_of_an_earlier_ownership_is_not_joined() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)
    go = asyncio.Event()

    async def read(call: SharedCall[int]) -> int:
        await go.wait()
        return 0

    first = calls.start(b"k", 5, read, 0.0)
    assert calls.join(b"k", 4, 0.0) is first
    assert calls.join(b"k", 6, 0.0) is None
    assert not first.attached
    go.set()
    await first.outcome


async def test_a_finished_fetch_is_gone_and_an_error_without_waiters_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)

    async def fail(call: SharedCall[int]) -> int:
        raise ValueError("nobody waits for this")

    call = calls.start(b"k", 0, fail, 0.0)
    assert await calls.wait(call, 5)
    await asyncio.sleep(0)
    assert calls.join(b"k", 0, 0.0) is None
    assert len(calls) == 0
    del call
    with caplog.at_level(logging.DEBUG):
        await asyncio.sleep(0)
    assert not caplog.records


async def test_waiting_ends_at_the_timeout_and_does_not_cancel_the_fetch() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)
    go = asyncio.Event()

    async def read(call: SharedCall[int]) -> int:
        await go.wait()
        return 7

    call = calls.start(b"k", 0, read, 0.0)
    assert not await calls.wait(call, 0)
    go.set()
    assert await calls.wait(call, 5)
    assert call.outcome.result() == 7


async def test_cancelling_all_ends_every_fetch() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)

    async def read(call: SharedCall[int]) -> int:
        await asyncio.Event().wait()
        return 0

    for key in (b"a", b"b"):
        calls.start(key, 0, read, 0.0)
    await calls.cancel_all()
    await asyncio.sleep(0)
    assert len(calls) == 0


async def test_a_reader_that_joins_a_late_fetch_starts_another_read_whose_result_is_for_all() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)
    begun: list[asyncio.Future[int]] = []

    async def read(call: SharedCall[int]) -> int:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    call = calls.start(b"k", 0, read, 0.0)
    assert calls.join(b"k", 0, LATE - 0.1) is call
    await asyncio.sleep(0)
    assert len(begun) == 1
    assert calls.join(b"k", 0, LATE) is call
    assert calls.join(b"k", 0, LATE + 0.1) is call, "the second read is not late"
    await asyncio.sleep(0)
    assert len(begun) == 2
    begun[1].set_result(7)
    assert await calls.wait(call, 5)
    assert call.outcome.result() == 7
    await asyncio.sleep(0)
    assert begun[0].cancelled()
    assert calls.join(b"k", 0, LATE) is None
    assert len(calls) == 0


async def test_the_reads_of_a_fetch_are_bounded_and_the_last_error_is_raised_when_all_have_failed() -> None:
    calls: SingleFlight[int] = SingleFlight(late_after=LATE)
    begun: list[asyncio.Future[int]] = []

    async def read(call: SharedCall[int]) -> int:
        begun.append(asyncio.get_running_loop().create_future())
        return await begun[-1]

    call = calls.start(b"k", 0, read, 0.0)
    for number in range(1, 3 * MAX_READS):
        assert calls.join(b"k", 0, number * LATE) is call
    await asyncio.sleep(0)
    assert len(begun) == MAX_READS
    for number, each in enumerate(begun):
        assert not call.outcome.done()
        each.set_exception(ValueError(number))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with pytest.raises(ValueError, match=str(MAX_READS - 1)):
        await call.outcome


async def test_locks_are_granted_in_order_and_other_keys_do_not_wait() -> None:
    locks = KeyLocks()
    order: list[int] = []
    go = asyncio.Event()

    async def take(number: int) -> None:
        async with locks.hold(b"k", 5):
            await go.wait()
            order.append(number)

    tasks = [asyncio.create_task(take(number)) for number in range(4)]
    await asyncio.sleep(0)
    async with locks.hold(b"other", 5):
        pass
    tasks[1].cancel()
    await asyncio.gather(tasks[1], return_exceptions=True)
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 2, 3]
