"""A `RingStore` in memory, and its faults: it is away, it is slow, a request or a reply is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from milena_common.api.errors import Unavailable
from milena_router.shared.ring_store import ABSENT, MAX_RECORDS, Record, Snapshot, Update, Write


class MemoryRing:
    """What all connections share. `history` has every change; those before `compacted` cannot be followed."""

    def __init__(self) -> None:
        self.revision = 1
        self.state = ABSENT
        self.records: dict[str, Record] = {}
        self.history: list[Update] = []
        self.compacted = 0
        self.states: list[bytes] = []  # all that there were
        self.changed = asyncio.Event()

    def write(self, change: Write) -> int | None:
        assert len(change.records) <= MAX_RECORDS
        assert len(change.unchanged) <= MAX_RECORDS
        if self.state.revision != change.expected or any(
            self.records.get(name, ABSENT).revision != revision for name, revision in change.unchanged.items()
        ):
            return None
        self.revision += 1
        changed: dict[str, Record] = {}
        for name, value in change.records.items():
            changed[name] = ABSENT if value is None else Record(value, self.revision)
            if value is None:
                self.records.pop(name, None)
            else:
                self.records[name] = changed[name]
        state = None
        if change.state is not None:
            state = self.state = Record(change.state, self.revision)
            self.states.append(change.state)
        self._record(Update(self.revision, state, changed))
        return self.revision

    def clear(self) -> None:
        """Lose everything."""
        self.revision += 1
        self._record(Update(self.revision, ABSENT, dict.fromkeys(self.records, ABSENT)))
        self.state, self.records = ABSENT, {}

    def _record(self, update: Update) -> None:
        self.history.append(update)
        self.changed.set()
        self.changed = asyncio.Event()


class MemoryRingStore:
    """A router's connection.

    away: nothing arrives
    loses: "request" or "reply", for the next change
    silent: followers get nothing, and no error
    gate: set it to an event that is not set, to hold the next calls before they take effect
    """

    def __init__(self, ring: MemoryRing) -> None:
        self.ring = ring
        self.away = False
        self.loses = ""
        self.silent = False
        self.gate: asyncio.Event | None = None
        self.writes = 0

    async def read(self, timeout: float) -> Snapshot:
        await self._pass()
        return Snapshot(self.ring.revision, self.ring.state, dict(self.ring.records))

    async def write(self, change: Write, timeout: float) -> int | None:
        await self._pass()
        loses, self.loses = self.loses, ""
        if loses == "request":
            raise Unavailable("the request was lost")
        self.writes += 1
        revision = self.ring.write(change)
        if loses == "reply":
            raise Unavailable("the reply was lost")
        return revision

    async def follow(self, revision: int) -> AsyncGenerator[Update, None]:
        await self._pass()
        if revision <= self.ring.compacted:
            raise Unavailable("compacted")
        yield Update(0, None, {})
        seen = revision - 1
        while True:
            changed = self.ring.changed
            if self.away:
                raise Unavailable("the store is away")
            if not self.silent:
                for update in [update for update in self.ring.history if update.revision > seen]:
                    seen = update.revision
                    yield update
            if changed is self.ring.changed:
                await changed.wait()

    async def close(self) -> None:
        self.away = True

    async def _pass(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("the store is away")
