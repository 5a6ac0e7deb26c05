"""Coordination. Pages of S3's listing, without the objects that this node has deleted.

A page is merged with the dirty entries, and with the uploads that finished while the page was requested
(`recent_uploads` has the interleaving): a key whose delete was acknowledged before the listing began is in no page.
`cluster_listing` does the same for the deletes of other nodes.
"""

from __future__ import annotations

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Page, Readable
from milena_cache.origin.requests import within
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.recent_uploads import Listing, RecentUploads
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import MAX_KEY_BYTES, cache_key
from milena_common.runtime.clock import Clock


class Listings:
    """Listings of the buckets of one node."""

    def __init__(
        self,
        store: Readable,
        buckets: Buckets,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        recent: RecentUploads,
        clock: Clock,
    ) -> None:
        self._store = store
        self._buckets = buckets
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._recent = recent
        self._clock = clock

    async def page(self, bucket: str, prefix: bytes, cursor: str, limit: int, timeout: float) -> Page:
        """Return a page of the bucket's keys, without S3_PREFIX, within `timeout` seconds.

        A page may have fewer objects than `limit`, or none, although more follow. Raises InvalidRequest,
        AccessDenied, OriginUnavailable.
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
            with self._recent.listing() as listing:
                asking = self._store.list(name or self._buckets.default, full_prefix, cursor, limit)
                page = await within(asking, max(0.0, deadline - self._clock.now()), "S3 list")
                if listing.complete:
                    page = page.without_prefix(hidden) if hidden else page
                    found = [info for info in page.objects if not self._is_deleted(name, info.key, listing)]
                    return Page(found, page.cursor)

    def _is_deleted(self, bucket: str, key: str, listing: Listing) -> bool:
        return is_deleted(cache_key(bucket, key.encode()), self._dirty, self._dirty_writes, listing)


def is_deleted(key: bytes, dirty: Dirty, dirty_writes: DirtyWrites, listing: Listing) -> bool:
    """True if this node has deleted the object of a cache key that S3 has in its page of `listing`."""
    entry = dirty.get(key)
    if entry is not None:
        # A delete from before a restart or under an earlier ownership may be older than another node's put.
        return not entry.belief.late and dirty_writes.is_gone(entry)
    return listing.state(key) is False
