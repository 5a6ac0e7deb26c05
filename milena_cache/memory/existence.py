"""Coordination. HEAD requests, one at a time for each key and shared by its readers, and their results.

A result has no value and is no cache entry: only requests for existence, size and expiry use it (EXISTS, STRLEN,
TTL), a GET never does. That an object does not exist is kept in memory instead, as after a GET.

A result is dropped by everything newer or more complete for its key: an entry that is kept, the beginning and end
of a write, an invalidation. Otherwise:

    1. STRLEN: a HEAD finds 5 bytes, and its result is kept here
    2. a GET reads 7 bytes; the entry is kept in memory, and evicted later
    3. STRLEN finds no entry, uses the result of step 1, and goes back to 5
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

from milena_cache.memory.freshness import Freshness
from milena_cache.memory.known_properties import KnownProperties, PropertyTable
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.entry import Entry, entry_of
from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import NEVER, expiry_of, is_expired
from milena_cache.objects.object_store import Info, Ref
from milena_common.runtime.clock import Clock

# Results that are kept; the least recently used is evicted. About 4 MB with keys of 50 bytes, 14 MB with the
# longest.
MAX_KNOWN = 10_000


class Known(NamedTuple):
    """The result of a HEAD.

    size: bytes; None if the object does not exist
    etag: as S3 spells it, quotes included
    expires_at: seconds since 1970; NEVER (0) if the object does not expire
    checked_at: when the HEAD was sent, monotonic seconds
    owned_since: the ring epoch since which this node owned the key's slot at that time
    """

    size: int | None
    etag: str
    expires_at: float
    checked_at: float
    owned_since: int

    def is_same(self, entry: Entry) -> bool:
        """Return True if `entry` may be of this version of the object; without ETags, if it has the same size."""
        if self.size is None or entry.value is None:
            return self.size is None and entry.value is None
        if self.expires_at != entry.expires_at:
            return False
        if self.etag or entry.etag:
            return same_etag(self.etag, entry.etag)
        return self.size == entry.size

    def stand_in(self) -> Entry:
        """Return an entry for replies, with an empty value in place of the one that was not read."""
        value = None if self.size is None else b""
        return entry_of(value, self.etag, self.checked_at, self.owned_since, self.expires_at)


def known_of(found: Info | None, ref: Ref, checked_at: float, owned_since: int) -> Known:
    """Return the result of a HEAD that was sent at `checked_at`; `found`: None if the object does not exist."""
    if found is None:
        return Known(None, "", NEVER, checked_at, owned_since)
    return Known(found.size, found.etag, expiry_of(found.metadata, ref), checked_at, owned_since)


class Existence:
    """The HEADs of one node in flight, and the results of earlier ones.

    A result is used as long as an entry of the same age would be fresh: TTL_SECONDS, without grace and keep,
    because another HEAD costs no more than the revalidation of an entry.
    """

    def __init__(self, freshness: Freshness, clock: Clock, late_after: float) -> None:
        self.heads: SingleFlight[Known] = SingleFlight(late_after)
        # The same for what S3 keeps with objects; its HEADs are others, since not every client reports it.
        self.properties = PropertyTable()
        self.describing: SingleFlight[KnownProperties | None] = SingleFlight(late_after)
        self._freshness = freshness
        self._clock = clock
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys with a result or a HEAD in flight."""
        yield from self._known
        yield from self.heads

    def get(self, key: bytes, owned_since: int) -> Known | None:
        """Return the result for an object that exists; None if it is too old, or from before `owned_since`."""
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
        """Keep the result, evicting the least recently used one beyond MAX_KNOWN. No effect if TTL_SECONDS is 0."""
        if not self._freshness.ttl:
            return
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    @property
    def keeps_results(self) -> bool:
        """True if a result is used again; False with TTL_SECONDS at 0: each read is to ask S3."""
        return bool(self._freshness.ttl)

    @property
    def has_any(self) -> bool:
        """True if there is a result, or a HEAD in flight."""
        return bool(self._known or self.heads.by_key)

    def clear_known(self, key: bytes) -> None:
        """Drop the results, and detach the HEADs in flight."""
        if self.properties:
            self.properties.clear_properties(key)
        if self.describing.by_key:
            self.describing.detach(key)
        if self._known:
            self._known.pop(key, None)
        if self.heads.by_key:
            self.heads.detach(key)
