"""Coordination. The bytes that one task has in flight: taken from the process's budget, given back at its end.

The task is a gRPC call's, which ends when its answer has left or its caller has gone, or that of a fetch from S3. A
`finally` in a call's method would come too early for the answer, and never for a call that ends before its request
was read.
"""

from __future__ import annotations

import asyncio

from milena_common.limits.byte_budget import ByteBudget

# Room in a message for key, bucket and the other fields beside the value.
ENVELOPE_BYTES = 64 * 1024
# Copies of a message that exist at the same time while it is received, parsed, built and sent: gRPC's own buffer,
# the serialized message, and the value in it. Measured: bursts of requests take 2 to 3 times their bytes.
COPIES = 3
# Messages up to this many bytes are not counted: the number of calls bounds them.
SMALL_BYTES = 64 * 1024
# Turns of the event loop after the end of a task until its bytes are given back. From S3 to a reader a value passes
# through the tasks of the attempt, of the fetch, and of the reader.
HAND_OVER_ITERATIONS = 8


class CallBytes:
    """What the running task holds of `budget`; `held` is in bytes, copies included."""

    __slots__ = ("_budget", "held")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.held = 0
        task = asyncio.current_task()
        assert task is not None, "a call is worked on in a task"
        task.add_done_callback(self._hand_over)

    async def take(self, size: int, timeout: float | None) -> None:
        """Wait up to `timeout` seconds (None: without end) for `size` bytes more. Raises Overloaded."""
        await self._budget.take(size, timeout)
        self.held += size

    def set_total(self, size: int) -> None:
        """Hold `size` bytes from now on: give back what is above, or go over the limit by what is missing.

        For bytes that are in memory already: waiting for room would keep them there longer.
        """
        if size > self.held:
            self._budget.add(size - self.held)
        else:
            self._budget.release(self.held - size)
        self.held = size

    def _hand_over(self, task: asyncio.Task[object]) -> None:
        # Not at once: the result passes from task to task, a turn or two for each, to those who wait for it, and
        # they charge what they go on with. Given back before, the bytes would be granted to another fetch and be in
        # flight twice.
        self._release_after(task.get_loop(), HAND_OVER_ITERATIONS)

    def _release_after(self, loop: asyncio.AbstractEventLoop, iterations: int) -> None:
        if iterations:
            loop.call_soon(self._release_after, loop, iterations - 1)
        else:
            self._release()

    def _release(self) -> None:
        self._budget.release(self.held)
        self.held = 0
