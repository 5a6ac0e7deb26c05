"""Coordination. Which memory the node needs: has the miss-ratio curve follow its reads, and says what it has seen.

The events of the sample (`memory.read_samples`) are simulated in the background, in steps of STEP_SECONDS, with at
most CPU_SHARE of the time. If that is not enough, the sample becomes smaller until it is.

The estimates are of the last ESTIMATE_HOURS. The first hour of the process is left out once there is another: all
simulated memories were empty at its beginning, the large ones for longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from milena_cache.memory.lru import Memory
from milena_cache.memory.read_samples import DROPPED, READ, Event
from milena_cache.sampling.curve import Curve, share_of
from milena_common.runtime.clock import Clock

TICK_SECONDS: Final = 0.1
STEP_SECONDS: Final = 0.001
CPU_SHARE: Final = 0.02
# Seconds of work that may be done at once, after a time without any.
MAX_ALLOWANCE: Final = 0.02
# Events between two looks at the clock.
_EVENTS_AT_ONCE: Final = 8
HOUR: Final = 3600.0
ESTIMATE_HOURS: Final = 24
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Prices:
    """What S3 costs: 1,000 GETs, 1,000 PUTs, and 10^9 bytes read from it."""

    get: float
    put: float
    gigabyte: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the node has counted since its start.

    reads: all reads whose outcome is counted; hits: those that did not wait for S3
    gets, puts: requests to S3 that cost as much as a GET, and as a PUT
    """

    reads: int = 0
    hits: int = 0
    gets: int = 0
    puts: int = 0


@dataclass(frozen=True, slots=True)
class SizePoint:
    """The estimate for one size of the memory.

    scale: in parts of the present one
    hit_ratio: 0 to 1; 1 without reads
    gets, puts, read_bytes: requests to S3 and bytes read from it, a day
    cost: of these, a day
    sample: the share of the keys that was simulated, 0 to 1
    """

    scale: float
    max_entries: float
    max_bytes: float
    hit_ratio: float
    gets: float
    puts: float
    read_bytes: float
    cost: float
    sample: float


@dataclass(frozen=True, slots=True)
class SizeEstimates:
    """The estimates for all sizes.

    seconds: of which time; reads: in it; hit_ratio: what the node has counted, not an estimate
    """

    seconds: float
    reads: float
    hit_ratio: float
    points: tuple[SizePoint, ...]


@dataclass(frozen=True, slots=True)
class _Totals:
    """What was counted until `at`: by the node, and by each simulated memory (misses, requests, bytes)."""

    at: float
    traffic: Traffic
    simulated: tuple[tuple[float, float, float], ...]


class Sizing:
    """The estimates of one node. `traffic` returns what the node has counted.

    curve: the simulated memories
    """

    def __init__(
        self, memory: Memory, curve: Curve, traffic: Callable[[], Traffic], prices: Prices, clock: Clock
    ) -> None:
        self.curve = curve
        self._memory = memory
        self._traffic = traffic
        self._prices = prices
        self._clock = clock
        self._allowance = MAX_ALLOWANCE
        self._waiting: deque[Event] = deque()
        self._lost = 0
        # At the start of the process, then at each hour.
        self._past: deque[_Totals] = deque([self._totals()], ESTIMATE_HOURS + 1)
        self._cold = True

    async def run(self) -> None:
        """Simulate what happens in the memory, until cancelled."""
        self._memory.samples.threshold = self.curve.threshold
        last = self._clock.now()
        while True:
            await self._clock.sleep(TICK_SECONDS)
            now = self._clock.now()
            self._allowance = min(MAX_ALLOWANCE, self._allowance + CPU_SHARE * (now - last))
            last = now
            while self.step():
                await self._clock.sleep(0)

    def step(self) -> bool:
        """Simulate for STEP_SECONDS; True if there is more to simulate, and time for it."""
        began = now = self._clock.now()
        cpu = self._clock.cpu()
        self._keep_totals(now)
        memory, curve, waiting, samples = self._memory, self.curve, self._waiting, self._memory.samples
        taken = samples.take_events()
        waiting += taken
        # More than there is room for in a step: each of these hits has paid for its event, and most for nothing.
        lost, self._lost = samples.lost - self._lost, samples.lost
        target = curve.threshold * len(taken) // (len(taken) + lost) if lost else 0
        while target and curve.threshold > target:
            curve.thin()
        curve.lend(memory.lent / memory.max_bytes if memory.max_bytes else 0.0)
        # Ages are compared with seconds and minutes; entries with the same time share it, which saves memory.
        at = now // 1.0
        while waiting and now - began < min(STEP_SECONDS, self._allowance):
            for _ in range(min(_EVENTS_AT_ONCE, len(waiting))):
                kind, key_hash, key_size, size = waiting.popleft()
                if kind == DROPPED:
                    curve.drop_key(key_hash)
                elif kind == READ:
                    curve.read(key_hash, key_size, None if size < 0 else size, at)
                else:
                    curve.store(key_hash, key_size, None if size < 0 else size, at)
            now = self._clock.now()
        self._allowance -= self._clock.cpu() - cpu
        if waiting and self._allowance <= 0:
            curve.thin()
            # What is not in the sample any more needs no time.
            self._waiting = deque(each for each in waiting if curve.simulates(each[1]))
        samples.threshold = curve.threshold
        return bool(waiting) and self._allowance > 0

    def estimates(self) -> SizeEstimates:
        """Return the estimates."""
        now = self._totals()
        first = self._past[0]
        seconds = max(now.at - first.at, 1e-9)
        reads = now.traffic.reads - first.traffic.reads
        hits = now.traffic.hits - first.traffic.hits
        daily = DAY / seconds
        simulated = [
            tuple(one - other for one, other in zip(new, old, strict=True))
            for new, old in zip(now.simulated, first.simulated, strict=True)
        ]
        (present,) = (
            requests
            for each, (_, requests, _) in zip(self.curve.miniatures, simulated, strict=True)
            if each.scale == 1
        )
        # HEADs, blocks and listings, for example: requests that do not depend on this memory.
        others = max(0.0, now.traffic.gets - first.traffic.gets - present)
        puts = (now.traffic.puts - first.traffic.puts) * daily
        points = []
        for each, (misses, requests, size) in zip(self.curve.miniatures, simulated, strict=True):
            gets, read = (requests + others) * daily, size * daily
            cost = (gets * self._prices.get + puts * self._prices.put) / 1000 + read / 1e9 * self._prices.gigabyte
            points.append(
                SizePoint(
                    each.scale,
                    self._memory.max_entries * each.scale,
                    self._memory.max_bytes * each.scale,
                    max(0.0, 1 - misses / reads) if reads else 1.0,
                    gets,
                    puts,
                    read,
                    cost,
                    share_of(each.threshold),
                )
            )
        return SizeEstimates(seconds, reads, hits / reads if reads else 1.0, tuple(points))

    def _totals(self) -> _Totals:
        simulated = tuple((each.misses, each.requests, each.bytes) for each in self.curve.miniatures)
        return _Totals(self._clock.now(), self._traffic(), simulated)

    def _keep_totals(self, now: float) -> None:
        if now - self._past[-1].at < HOUR:
            return
        self._past.append(self._totals())
        if self._cold and len(self._past) > 2:
            self._past.popleft()
            self._cold = False
