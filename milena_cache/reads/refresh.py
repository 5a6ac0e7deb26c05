"""Coordination. Drops clean entries without a request to S3, for use after another program has written the bucket.

A dropped entry is read from S3 at the next request, and clients with near caches are notified. Dirty entries stay:
they were acknowledged, and S3 does not have them yet.

A read of S3 in flight began before the refresh and may return the old object: `Entries.invalidate` detaches it,
with or without an entry. It is not enough to drop the entries that exist: (1) a GET misses and reads the old
object; (2) REFRESH finds no entry and returns; (3) the read of step 1 is kept, and the old object is served as
fresh.

A prefix may have a million keys. They are processed in parts, between which the event loop runs other work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from milena_cache.memory.entries import Entries
from milena_cache.writeback.dirty_table import Dirty

# Keys that are dropped, and keys that are only compared, in one step of the event loop: about 1 ms of work each.
DROPPED_AT_ONCE = 256
COMPARED_AT_ONCE = 2048


class Refreshed(NamedTuple):
    """The result of a refresh.

    refreshed: how many entries were dropped
    dirty: how many objects were left as they are, since S3 does not have them yet
    """

    refreshed: int
    dirty: int


class Refresher:
    """Drops clean entries of one node."""

    def __init__(self, entries: Entries, dirty: Dirty) -> None:
        self._entries = entries
        self._dirty = dirty

    def now(self, keys: Iterable[bytes]) -> Refreshed:
        """Drop the entries of these cache keys in one step of the event loop."""
        refreshed = dirty = 0
        for key in keys:
            if key in self._dirty:
                dirty += 1
            else:
                refreshed += self._entries.invalidate(key)
        return Refreshed(refreshed, dirty)

    async def keys(self, keys: Iterable[bytes]) -> Refreshed:
        """Drop the entries of these cache keys in parts, for any number of keys."""
        refreshed = dirty = 0
        left = iter(keys)
        while part := list(islice(left, DROPPED_AT_ONCE)):
            done = self.now(part)
            refreshed += done.refreshed
            dirty += done.dirty
            await asyncio.sleep(0)
        return Refreshed(refreshed, dirty)

    async def matching(self, matches: Callable[[bytes], bool]) -> Refreshed:
        """Drop the entries of all cache keys that match.

        Entries that come into memory meanwhile were read from S3 after the refresh began, and stay.
        """
        matching: list[bytes] = []
        left = iter([*self._entries.known(), *self._dirty])
        while part := list(islice(left, COMPARED_AT_ONCE)):
            matching += filter(matches, part)
            await asyncio.sleep(0)
        return await self.keys(dict.fromkeys(matching))
