"""Coordination. Clients that write, delete and read, and record in a `History` what they got."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random

from milena_client import AsyncMilena, ConditionFailed, MilenaError, Overloaded, RateLimited, RetryPolicy
from milena_common.api.durability import Durability
from tests.faults.harness.history import History

NO_RETRY = RetryPolicy(tokens=0)
# A client whose call was rejected pauses before the next.
PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of what clients do; the rest are puts.

    `through`: how many writes ask for S3 to have them first; `conditions`: how many are conditional on what their
    client has just read. `shared`: every client writes every key; otherwise each has keys of its own. `hot`: half
    of the calls are for so many of the keys.
    """

    reads: float = 0.2
    deletes: float = 0.15
    through: float = 0.0
    conditions: float = 0.0
    shared: bool = False
    hot: int = 0


class Load:
    """`clients` clients of the router at `address`; each writes its part of the history's keys and reads all.

    `reached` counts acknowledged writes by durability class, `errors` failed calls by what was said.
    """

    def __init__(self, address: str, history: History, clients: int, seed: int, mix: Mix = Mix()) -> None:
        self.reached: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.history = history
        self._address = address
        self._mix = mix
        self._keys = [history.keys if mix.shared else history.keys[number::clients] for number in range(clients)]
        self._randoms = [Random(f"{seed} {number}") for number in range(clients)]
        self._may_go_on = asyncio.Event()
        self._may_go_on.set()
        self._at_work = 0
        self._all_rest = asyncio.Event()
        self._draining = False
        self._left: int | None = None
        self._enough = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The clients are at work inside the block; after it no call is in flight."""
        self._draining = False
        work = [
            asyncio.create_task(self._work(f"client {number}", keys, random))
            for number, (keys, random) in enumerate(zip(self._keys, self._randoms, strict=True))
        ]
        try:
            yield
        finally:
            self._draining = True
            self._may_go_on.set()
            await asyncio.gather(*work)

    async def write(self, number: int) -> None:
        """Have the clients try so many writes."""
        self._left = number
        self._enough.clear()
        async with self.running():
            await self._enough.wait()
        self._left = None

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Inside the block no call is in flight."""
        self._all_rest.clear()
        self._may_go_on.clear()
        await self._all_rest.wait()
        try:
            yield
        finally:
            self._may_go_on.set()

    def _rests(self) -> None:
        self._at_work -= 1
        if not self._at_work:
            self._all_rest.set()

    async def _work(self, name: str, keys: Sequence[str], random: Random) -> None:
        self._at_work += 1
        try:
            async with AsyncMilena(self._address, timeout=5, retry=NO_RETRY) as m:
                while not self._draining and self._left != 0:
                    if not self._may_go_on.is_set():
                        self._rests()
                        await self._may_go_on.wait()
                        self._at_work += 1
                    try:
                        await self._one(m, name, keys, random)
                    except MilenaError as error:
                        self.errors[type(error).__name__] += 1
                        await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._rests()

    def _choose(self, keys: Sequence[str], random: Random) -> str:
        hot = self._mix.hot
        return random.choice(keys[:hot] if hot and random.random() < 0.5 else keys)

    async def _one(self, m: AsyncMilena, name: str, keys: Sequence[str], random: Random) -> None:
        mix = self._mix
        drawn = random.random()
        if drawn < mix.reads:
            key = self._choose(self.history.keys, random)
            mark = self.history.mark(key)
            self.history.observed(key, await m.get(key), mark, name)
            return
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._enough.set()
        key, delete = self._choose(keys, random), drawn < mix.reads + mix.deletes
        durability: Durability | None = "through" if random.random() < mix.through else None
        only_over: bytes | bool | None = True
        if_match = if_none_match = None
        if random.random() < mix.conditions:
            mark = self.history.mark(key)
            entry = await m.get_entry(key)
            only_over = None if entry is None else entry.value
            self.history.observed(key, only_over, mark, name)
            if entry is not None:
                if_match = entry.etag
            else:
                delete, if_none_match = False, "*"
        write = self.history.begin(key, delete=delete, process=name, only_over=only_over)
        try:
            if write.value is None:
                written = await m.delete(key, durability=durability, if_match=if_match)
            else:
                written = await m.set(
                    key, write.value, durability=durability, if_match=if_match, if_none_match=if_none_match
                )
        except ConditionFailed as error:
            self.history.condition_failed(write)
            self.errors[type(error).__name__] += 1
            return
        except (RateLimited, Overloaded):
            self.history.rejected(write)
            raise
        self.history.acknowledge(write)
        self.reached[written.durability] += 1


async def read_all(address: str, history: History, where: str, timeout: float = 30.0) -> None:
    """Read every key, with all retries that it takes, and record what is returned. Raises MilenaError."""
    several = asyncio.Semaphore(16)

    async def read(m: AsyncMilena, key: str) -> None:
        async with several:
            mark = history.mark(key)
            history.observed(key, await m.get(key, timeout=timeout), mark, where)

    async with AsyncMilena(address, timeout=timeout) as m:
        await asyncio.gather(*(read(m, key) for key in history.keys))
