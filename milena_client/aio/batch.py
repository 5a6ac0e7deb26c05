"""Coordination. Runs a batch in an event loop: a task for each place in the window, which takes key after key.

A call keeps its place while it waits for its next attempt, as in `core.batch`, because its task waits with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from milena_client.aio.caller import AsyncCaller
from milena_client.core.batch import FirstAttempts, Outcomes
from milena_client.core.limits import BATCH_WINDOW
from milena_client.core.operations import Operation
from milena_client.core.values import KeyT, checked_timeout
from milena_common.api.errors import MilenaError

A = TypeVar("A")


async def run_batch(
    caller: AsyncCaller,
    keys: Sequence[KeyT],
    build: Callable[[KeyT], Operation[A]],
    timeout: float | None,
    first: FirstAttempts[KeyT, A] | None = None,
) -> dict[KeyT, A]:
    """Return what the function of the same name in `milena_client.sync.batch` does, and raise as it does."""
    if timeout is not None:
        checked_timeout(timeout)
    first = first or FirstAttempts()
    outcomes: Outcomes[KeyT, A] = Outcomes(first.results)
    remaining = iter(keys)

    async def work() -> None:
        for key in remaining:
            try:
                outcomes.results[key] = await caller.run(build(key), timeout, first.failed.get(key))
            except MilenaError as error:
                outcomes.add_failure(key, error)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(BATCH_WINDOW, len(keys))):
                group.create_task(work())
    except ExceptionGroup as errors:  # of an invalid argument; raised alone, as the sync batch does
        raise errors.exceptions[0] from None
    return outcomes.checked_results()
