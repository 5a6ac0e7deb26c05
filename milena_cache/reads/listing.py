"""Coordination. Pages of S3's listing, without what this node has deleted.

A page is merged with what is dirty, and with the uploads that ended while S3 was asked for it (`recent_uploads`):
a key whose delete was acknowledged before the listing began is in none. The deletes of other nodes are seen when
S3 has them.
"""

from __future__ import annotations

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Page, Readable
from milena_cache.origin.requests import within
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.recent_uploads import Listing
from milena_cache.writes.writer import Writes
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import MAX_KEY_BYTES, cache_key
from milena_common.runtime.clock import Clock


class Listings:
    """Listings of the buckets of one node."""

    def __init__(self, store: Readable, buckets: Buckets, dirty: Dirty, writes: Writes, clock: Clock) -> None:
        self._store = store
        self._buckets = buckets
        self._dirty = dirty
        self._writes = writes
        self._clock = clock

    async def page(self, bucket: str, prefix: bytes, cursor: str, limit: int, timeout: float) -> Page:
        """Return a page of the bucket's keys, without S3_PREFIX, within `timeout` seconds.

        It may have fewer objects than `limit`, or none, although more follow. Raises InvalidRequest, AccessDenied,
        OriginUnavailable.
        """
        name = self._buckets.canonical(bucket)
        if len(prefix) > MAX_KEY_BYTES or 0 in prefix:
            raise InvalidRequest(f"prefix: allowed are at most {MAX_KEY_BYTES} bytes of UTF-8 without NUL")
        hidden = self._buckets.prefix_of(name)
        try:
            full_prefix = hidden + prefix.decode()
        except UnicodeDecodeError:
            raise InvalidRequest("prefix: is not UTF-8; keys are UTF-8") from None
        deadline = self._clock.now() + timeout
        while True:
            with self._writes.recent.listing() as listing:
                asking = self._store.list(name or self._buckets.default, full_prefix, cursor, limit)
                page = await within(asking, max(0.0, deadline - self._clock.now()), "S3 list")
                if listing.complete:
                    page = page.without_prefix(hidden) if hidden else page
                    found = [info for info in page.objects if not self._is_deleted(name, info.key, listing)]
                    return Page(found, page.cursor)

    def _is_deleted(self, bucket: str, key: str, listing: Listing) -> bool:
        """Return whether this node has deleted an object that S3 has listed."""
        entry_key = cache_key(bucket, key.encode())
        dirty = self._dirty.get(entry_key)
        if dirty is not None:
            # One of an earlier start or ownership may have been overtaken by another node's put.
            return dirty.owned_since >= 0 and self._writes.is_gone(dirty)
        return listing.state(entry_key) is False
