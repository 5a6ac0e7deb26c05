"""Coordination. Drops clean entries without a request to S3, for use after another program has written the bucket.

A dropped entry is read from S3 at the next request, and clients with near caches are notified. Dirty entries stay:
they were acknowledged, and S3 does not have them yet.

A read of S3 in flight began before the refresh and may return the old object: `Entries.invalidate` detaches it,
with or without an entry. It is not enough to drop the entries that exist: (1) a GET misses and reads the old
object; (2) REFRESH finds no entry and returns; (3) the read of step 1 is kept, and the old object is served as
fresh.

A prefix may have a million keys. They are processed in parts, between which the event loop runs other work, and
there is no list of all of them (`python -m tests.cache.reads.large_refresh`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from milena_cache.memory.entries import Entries
from milena_cache.writeback.dirty_table import Dirty

# Keys that are dropped, and keys that are only compared, in one step of the event loop: about 1 ms of work each.
# The memory looks for removed keys with each that is dropped.
DROPPED_AT_ONCE = 64
COMPARED_AT_ONCE = 2048


# Takes cache keys.
Change = Callable[[Iterable[bytes]], None]


class Walk:
    """A walk through the clean entries whose cache keys match, and the reads in flight of such keys.

    Each step holds up the event loop for about 1 ms; anything else may run between two of them.

    examined: entries that it has come to, of all keys
    dirty: objects that match and are dirty, known at the end
    """

    def __init__(self, entries: Entries, dirty: Dirty, matches: Callable[[bytes], bool]) -> None:
        self.examined = 0
        self.dirty = 0
        self._entries = entries
        self._dirty = dirty
        self._matches = matches

    def steps(self, change: Change, fence: Change) -> Iterator[None]:
        """Call `change` with the keys of all entries that match, a part in each step; some may be dirty by then.

        Before the first step ends, `fence` is called with those of reads in flight, which may have an entry or not.
        Entries that come into memory meanwhile were read from S3 after the walk began; they are changed, or not.
        """
        # First the reads in flight, before anything else runs: what they bring is older than the walk, and they
        # would keep it where the walk has passed already.
        for part in _parts(self._entries.in_flight(), COMPARED_AT_ONCE):
            fence(filter(self._matches, part))
        for keys in self._entries.walk_entries():
            for part in _parts(filter(self._matches, keys), DROPPED_AT_ONCE):
                change(part)
                yield
            self.examined += len(keys)
            yield
        for part in _parts(list(self._dirty), COMPARED_AT_ONCE):
            self.dirty += sum(map(self._matches, part))
            yield


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
        for part in _parts(keys, DROPPED_AT_ONCE):
            done = self.now(part)
            refreshed += done.refreshed
            dirty += done.dirty
            await asyncio.sleep(0)
        return Refreshed(refreshed, dirty)

    async def matching(self, matches: Callable[[bytes], bool]) -> Refreshed:
        """Drop the entries of all cache keys that match."""
        refreshed = 0

        def drop(keys: Iterable[bytes]) -> None:
            nonlocal refreshed
            refreshed += self.now(keys).refreshed

        self._entries.doubt_copies()
        walk = Walk(self._entries, self._dirty, matches)
        for _ in walk.steps(drop, drop):
            await asyncio.sleep(0)
        return Refreshed(refreshed, walk.dirty)


def _parts(keys: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    left = iter(keys)
    while part := list(islice(left, size)):
        yield part
