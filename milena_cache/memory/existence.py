"""Coordination. What S3 says of objects without their values: one HEAD per key for all who wait, and its result.

The result is no copy: it has no value, and only requests for existence, size and end see it (EXISTS, STRLEN, TTL).
A GET never looks here. That an object does not exist is kept in memory instead, as after a GET.

An entry goes with everything that says more, or something later, of its key: a value that is kept, a write that
begins or ends, an invalidation. Otherwise this could happen: a HEAD finds 5 bytes; a GET brings 7 bytes, which are
kept and then evicted; the next STRLEN answers 5 again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from milena_cache.memory.freshness import Freshness
from milena_cache.memory.lru import Entry, entry_of
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.expiry import is_expired
from milena_common.runtime.clock import Clock

# The most entries; the least recently used goes first. About 4 MB with keys of 50 bytes, 14 MB with the longest.
MAX_KNOWN = 10_000


class Known(NamedTuple):
    """An object without its value.

    size: bytes; None if the object does not exist
    etag: as S3 spells it, quotes included
    expires_at: when the object ends, seconds since 1970; NEVER (0) if it does not
    checked_at: when S3 was asked, monotonic seconds
    owned_since: the ring epoch since which this node owned the key's slot then
    """

    size: int | None
    etag: str
    expires_at: float
    checked_at: float
    owned_since: int

    def stand_in(self) -> Entry:
        """Return an entry for replies: an empty value stands for one that was not read."""
        value = None if self.size is None else b""
        return entry_of(value, self.etag, self.checked_at, self.owned_since, self.expires_at)


class Existence:
    """The HEADs of one node in flight, and what earlier ones found.

    An entry is used as long as a copy of the same age would be fresh: TTL_SECONDS, without grace and keep, because
    asking again costs no more than what a copy's revalidation costs.
    """

    def __init__(self, freshness: Freshness, clock: Clock, late_after: float) -> None:
        self.heads: SingleFlight[Known] = SingleFlight(late_after)
        self._freshness = freshness
        self._clock = clock
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[bytes]:
        """The keys of which something is known, or is being asked."""
        yield from self._known
        yield from self.heads

    def get(self, key: bytes, owned_since: int) -> Known | None:
        """Return what is known of an object that exists, if it may be told to a request of this ownership."""
        known = self._known.get(key)
        if known is None or known.owned_since < owned_since:
            return None
        old = self._clock.now() - known.checked_at >= self._freshness.fresh_for(key)
        if old or is_expired(known.expires_at, self._clock.wall()):
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return known

    def keep(self, key: bytes, known: Known) -> None:
        """Remember the object."""
        if not self._freshness.ttl:
            return
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def invalidate(self, key: bytes) -> None:
        """Know nothing of the object any more, and believe no HEAD that is in flight."""
        self._known.pop(key, None)
        self.heads.detach(key)
