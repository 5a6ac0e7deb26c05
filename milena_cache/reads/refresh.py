"""Coordination. Drops clean copies without touching S3, for when something else has written the bucket.

A copy that is dropped is read from S3 at the next request; readers with near caches are told. What is dirty stays
as it is: it was acknowledged, and S3 does not have it yet.

A read of S3 that is under way began before the refresh and may bring the old object. It answers those who wait for
it and is not kept: `Entries.invalidate` detaches it, whether or not there is a copy.

A prefix may have a million keys. They are gone through in parts, and others have their turn in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from milena_cache.memory.entries import Entries
from milena_cache.writeback.dirty_table import Dirty

# Keys that are dropped, and keys that are only compared, before others have their turn: about 1 ms of work each.
DROPPED_AT_ONCE = 256
COMPARED_AT_ONCE = 2048


class Refreshed(NamedTuple):
    """`refreshed`: copies that were dropped. `dirty`: objects that were kept, since S3 does not have them yet."""

    refreshed: int
    dirty: int


class Refresher:
    """Drops copies of one node."""

    def __init__(self, entries: Entries, dirty: Dirty) -> None:
        self._entries = entries
        self._dirty = dirty

    def now(self, keys: Iterable[bytes]) -> Refreshed:
        """Drop the copies of `keys`, which are cache keys, in one go."""
        refreshed = dirty = 0
        for key in keys:
            if key in self._dirty:
                dirty += 1
            else:
                refreshed += self._entries.invalidate(key)
        return Refreshed(refreshed, dirty)

    async def keys(self, keys: Iterable[bytes]) -> Refreshed:
        """As `now`, for very many keys."""
        refreshed = dirty = 0
        left = iter(keys)
        while part := list(islice(left, DROPPED_AT_ONCE)):
            done = self.now(part)
            refreshed += done.refreshed
            dirty += done.dirty
            await asyncio.sleep(0)
        return Refreshed(refreshed, dirty)

    async def matching(self, matches: Callable[[bytes], bool]) -> Refreshed:
        """Drop the copies of all cache keys that match.

        Those that come into memory while this goes on were read from S3 after it began, and stay.
        """
        matching: list[bytes] = []
        left = iter([*self._entries.known(), *self._dirty.entries])
        while part := list(islice(left, COMPARED_AT_ONCE)):
            matching += filter(matches, part)
            await asyncio.sleep(0)
        return await self.keys(dict.fromkeys(matching))
