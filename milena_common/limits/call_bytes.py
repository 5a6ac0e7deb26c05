"""Coordination. The bytes that one task has in flight: taken from the process's budget, released at its end.

The task is that of a gRPC call, which ends when its response was sent or its caller has gone, or that of a fetch
from S3. A `finally` in a call's method would run before the response was sent, and never for a call that ends
before its request was read.
"""

from __future__ import annotations

import asyncio

from milena_common.limits.byte_budget import ByteBudget

# Size allowed in a message for key, bucket and the other fields besides the value.
ENVELOPE_BYTES = 64 * 1024
# Copies of a message that exist at the same time while it is received, parsed, built and sent: gRPC's own buffer,
# the serialized message, and the value in it. Measured: bursts of requests take 2 to 3 times their bytes.
COPIES = 3
# Messages up to this many bytes are not counted: the number of calls bounds them.
SMALL_BYTES = 64 * 1024
# Iterations of the event loop between the end of a task and the release of its bytes. From S3 to a reader a value
# passes through the tasks of the attempt, of the fetch, and of the reader.
HAND_OVER_ITERATIONS = 8


class CallBytes:
    """The part of `budget` that the running task holds; `held` is in bytes, copies of the message included."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0
        task = asyncio.current_task()
        assert task is not None, "a call runs in a task"
        task.add_done_callback(self._hand_over)

    async def take(self, size: int, timeout: float | None) -> None:
        """Wait up to `timeout` seconds (None: no limit) for `size` further bytes. Raises Overloaded."""
        await self._budget.take(size, timeout)
        self.held += size

    def set_total(self, size: int) -> None:
        """Hold `size` bytes from now on: release the excess, or take the difference even beyond the limit.

        For bytes that are in memory already: waiting for room would only keep them there longer.
        """
        if size > self.held:
            self._budget.add(size - self.held)
        else:
            self._budget.release(self.held - size)
        self.held = size

    def _hand_over(self, task: asyncio.Task[object]) -> None:
        # Not at once: the result passes from task to task, an iteration or two for each, to the waiting readers,
        # which then charge their own copies. Released earlier, the bytes would be granted to another fetch while
        # they are still in memory.
        if self.held:
            self._release_after(task.get_loop(), HAND_OVER_ITERATIONS)

    def _release_after(self, loop: asyncio.AbstractEventLoop, iterations: int) -> None:
        if iterations:
            loop.call_soon(self._release_after, loop, iterations - 1)
        else:
            self._release()

    def _release(self) -> None:
        self._budget.release(self.held)
        self.held = 0
