"""Hedged reads: the first response counts, and nothing of the other request is left."""

from __future__ import annotations

import asyncio

import pytest

from milena_cache.objects.object_store import Fault, OriginFailure, Ref
from milena_cache.origin.hedging import Hedge
from tests.support.fake_clock import run_ready_tasks


class Requests:
    """Two requests whose results the test sets."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[str] = loop.create_future()
        self.second: asyncio.Future[str] = loop.create_future()
        self.sending = asyncio.Event()
        self.hedge = Hedge(self._again, lambda: True, 0.0)

    async def _again(self) -> str:
        self.sending.set()
        return await self.second

    async def begun(self) -> asyncio.Task[tuple[str, bool]]:
        """Start the read, and return it when its second request is in flight."""
        reading = asyncio.create_task(self.hedge.first_result(self.first))
        await self.sending.wait()
        return reading


def failure(fault: Fault) -> OriginFailure:
    return OriginFailure(fault, "get", Ref("bucket", "key"), "code", "500")


async def test_the_first_response_counts_whichever_request_it_is_of() -> None:
    for number, result in enumerate((("one", False), ("two", True))):
        requests = Requests()
        reading = await requests.begun()
        (requests.first, requests.second)[number].set_result(result[0])
        assert await reading == result
        await run_ready_tasks()
        assert (requests.second, requests.first)[number].cancelled(), "the other request was ended"


async def test_both_in_one_iteration_of_the_loop_give_one_result() -> None:
    requests = Requests()
    reading = await requests.begun()
    requests.second.set_result("two")
    await asyncio.sleep(0)  # the second request's task has its result, and its callback comes next
    requests.first.set_result("one")
    assert (await reading)[0] in ("one", "two")
    assert asyncio.current_task() is not None


async def test_a_cancellation_by_the_caller_is_passed_on_even_if_the_second_has_its_result() -> None:
    requests = Requests()
    reading = await requests.begun()
    requests.second.set_result("two")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_transient_failure_waits_for_the_other_request() -> None:
    requests = Requests()
    reading = await requests.begun()
    requests.first.set_exception(failure(Fault.SERVER))
    await run_ready_tasks()
    assert not reading.done()
    requests.second.set_result("two")
    assert await reading == ("two", True)


async def test_the_failure_of_the_last_one_is_raised_and_one_about_the_object_at_once() -> None:
    requests = Requests()
    reading = await requests.begun()
    requests.second.set_exception(failure(Fault.SERVER))
    await run_ready_tasks()
    requests.first.set_exception(failure(Fault.TIMEOUT))
    with pytest.raises(OriginFailure) as caught:
        await reading
    assert caught.value.fault is Fault.TIMEOUT
    requests = Requests()
    reading = await requests.begun()
    requests.second.set_exception(failure(Fault.DENIED))
    with pytest.raises(OriginFailure) as caught:
        await reading
    assert caught.value.fault is Fault.DENIED
