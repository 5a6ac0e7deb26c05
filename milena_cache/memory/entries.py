"""Coordination. What is known of objects in S3: copies in memory, and the reads under way that may bring new ones.

The two change together: a write of a key makes worthless what a read that began before it brings. So whoever writes
says so here, and both the copy and the flight go.
"""

from __future__ import annotations

from typing import Any

from milena_cache.memory.existence import Existence, Known
from milena_cache.memory.freshness import Freshness, Window
from milena_cache.memory.lru import Entry, ExpiringEntry, Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.expiry import is_expired
from milena_cache.objects.version import ABSENT, UNKNOWN, Base
from milena_common.runtime.clock import Clock


class Entries:
    """The copies of one node."""

    def __init__(self, memory: Memory, fetches: SingleFlight[Any], freshness: Freshness, clock: Clock) -> None:
        self.change_feed = memory.change_feed
        self.existence = Existence(freshness, clock, fetches.late_after)
        self._memory = memory
        self._fetches = fetches
        self._freshness = freshness
        self._clock = clock

    def keep(self, key: bytes, entry: Entry) -> bool:
        """Put `entry` into memory; False if it does not fit there."""
        self.existence.invalidate(key)
        if entry.value is None and not self._freshness.negative_ttl:
            self._memory.remove(key)
            self.change_feed.notify(key)  # readers are told what nobody will compare with anything
            return True
        return self._memory.store(key, entry)

    def invalidate(self, key: bytes) -> bool:
        """Know nothing of the object any more; True if there was a copy."""
        self.fence_reads(key)
        if key in self._memory:
            self._memory.remove(key)
            return True
        self.change_feed.notify(key)
        return False

    def known(self) -> list[bytes]:
        """The keys of all objects of which something is known, or is being read."""
        return [*self._memory, *self._fetches, *self.existence]

    def fence_reads(self, key: bytes) -> None:
        """A write of the object begins or ends: no read that is under way may be believed."""
        self._fetches.detach(key)
        self.existence.invalidate(key)

    def mark_stale(self, key: bytes) -> None:
        """Make S3 be asked before the copy is served again: a write of the object may have happened there."""
        self.existence.invalidate(key)
        entry = self._memory.get(key)
        if entry is None:
            return
        if entry.value is None:
            self._memory.remove(key)
            return
        oldest = self._clock.now() - self._freshness.age_at_end_of_grace(key)
        checked_at = min(entry.checked_at, oldest)
        self._memory.store(
            key,
            ExpiringEntry(
                entry.value, entry.etag, checked_at, entry.owned_since, entry.expires_at, indeterminate=True
            ),
        )

    def found(self, key: bytes, known: Known) -> None:
        """Keep what a HEAD found, unless a read of the value is in flight, which will say more of a later time."""
        if key not in self._fetches:
            self.existence.keep(key, known)
        self.change_feed.notify(key)  # readers are told what nobody will compare with anything

    def _known(self, key: bytes, owned_since: int) -> Entry | None:
        """The copy by which a reader would be answered without S3 being asked."""
        if key not in self._memory:
            return None
        entry = self._memory.get(key)
        if entry is None or entry.owned_since < owned_since:
            return None
        age = self._clock.now() - entry.checked_at
        window = self._freshness.window(key, age, negative=entry.value is None)
        return entry if window in (Window.FRESH, Window.GRACE) else None

    def current(self, key: bytes, owned_since: int) -> Base:
        """What the object is, as a reader would be told without S3 being asked."""
        entry = self._known(key, owned_since)
        if entry is None:
            return UNKNOWN
        if entry.value is None or is_expired(entry.expires_at, self._clock.wall()):
            return ABSENT
        return entry.etag or UNKNOWN

    def base(self, key: bytes, owned_since: int) -> tuple[Base, bool]:
        """What S3 holds, as far as is known, and whether it may also hold nothing: the object ends by itself."""
        entry = self._known(key, owned_since)
        if entry is None:
            return UNKNOWN, False
        if entry.value is None:
            return ABSENT, False
        return entry.etag or UNKNOWN, bool(entry.expires_at)
