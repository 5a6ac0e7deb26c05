"""Coordination. Lets tasks of an event loop wait for the result of a computation of another task.

`core.cached_results` decides which caller computes. A waiting task that is cancelled cancels nothing for the
others.
"""

from __future__ import annotations

import asyncio

from milena_client.core.cached_results import Outcome

current_caller = asyncio.current_task


class AsyncCompletion:
    """The outcome of a computation, for the tasks of one event loop."""

    def __init__(self) -> None:
        self._outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def complete(self, outcome: Outcome) -> None:
        """Set `outcome`, and wake the waiting tasks."""
        self._outcome.set_result(outcome)

    async def wait(self) -> Outcome:
        """Return the outcome once it is set."""
        # A task that is cancelled while it waits must not cancel the future that the others wait for.
        return await asyncio.shield(self._outcome)
