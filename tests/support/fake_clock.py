"""A clock that stands still until a test moves it, so that no test sleeps."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count

# A woken task often wakes others; each link of such a chain takes the loop one round.
ROUNDS = 25


async def run_ready_tasks() -> None:
    """Let the loop run until whatever is ready has run, and whatever that made ready."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


class FakeClock:
    """Implements `milena_common.runtime.clock.Clock`; `now()` begins at `start`, `wall()` at `wall`, both in
    seconds.

    `await clock.advance(3)` lives through three seconds: sleepers wake in the order and at the moment they are
    due, and what they set off runs before time goes on. `clock.tick(3)` only moves the hands; sleepers that
    are overdue then wake with the next `advance`.
    """

    def __init__(self, start: float = 1000.0, wall: float = 1_700_000_000.0) -> None:
        self._now = start
        self._wall_ahead = wall - start
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()
        self.reading_takes = 0.0

    def now(self) -> float:
        self._now += self.reading_takes
        return self._now

    def wall(self) -> float:
        return self._now + self._wall_ahead

    def cpu(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Return when time has been moved on by `seconds`."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + seconds, next(self._order), woken))
        await woken

    @property
    def sleeping(self) -> int:
        """How many wait in `sleep`."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    def tick(self, seconds: float) -> None:
        """Move time on by `seconds`, and wake no sleeper."""
        assert seconds >= 0, "time does not go back"
        self._now += seconds

    def set_wall(self, wall: float) -> None:
        """Set the wall clock, as an operator or NTP does; `now()` takes no notice."""
        self._wall_ahead = wall - self._now

    async def advance(self, seconds: float) -> None:
        """Live through `seconds`; `advance(0)` lets everything that is ready run."""
        assert seconds >= 0, "time does not go back"
        end = self._now + seconds
        await run_ready_tasks()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():  # a cancelled sleeper is not waited for
                self._now = max(self._now, due)
                woken.set_result(None)
                await run_ready_tasks()
        self._now = max(self._now, end)
