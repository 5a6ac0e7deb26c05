"""Work that leaves the event loop to others between a few items."""

from __future__ import annotations

import asyncio

import pytest

from milena_common.runtime.spread_work import SpreadWork


async def test_a_few_items_in_one_iteration_in_order() -> None:
    done: list[int] = []
    work = SpreadWork(done.append, 3)
    work.spread(range(8))
    seen = [len(done)]
    while len(done) < 8:
        await asyncio.sleep(0)
        seen.append(len(done))
    assert seen == [3, 6, 8]
    assert done == list(range(8))


async def test_new_items_replace_those_that_wait_and_no_iteration_does_more() -> None:
    done: list[int] = []
    work = SpreadWork(done.append, 2)
    work.spread(range(5))
    work.spread(range(10, 13))
    assert done == [0, 1]
    for expected in ([0, 1, 10, 11], [0, 1, 10, 11, 12], [0, 1, 10, 11, 12]):
        await asyncio.sleep(0)
        assert done == expected


async def test_an_item_that_fails_does_not_end_the_others() -> None:
    done: list[int] = []

    def act(item: int) -> None:
        if item == 0:
            raise ValueError(item)
        done.append(item)

    work = SpreadWork(act, 1)
    with pytest.raises(ValueError, match="0"):
        work.spread(range(3))
    for _ in range(2):
        await asyncio.sleep(0)
    assert done == [1, 2]
