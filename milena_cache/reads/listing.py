"""Coordination. Pages of S3's listing, with the writes and without the objects that this node has changed since.

A page is merged with the dirty entries, and with the uploads that finished while the page was requested
(`recent_uploads` has the interleaving). So the writes and deletes that this node acknowledged before the listing
began are in it; the puts and deletes of other nodes by `cluster_listing`.

The dirty entries are taken *before* S3 is listed. Taken afterwards: (1) S3 lists the page, without k; (2) the dirty
entry of k is uploaded and removed; (3) the page arrives, and k is in neither. Deletes have the same gap the other
way round, which `recent_uploads` closes.

A common prefix that S3 lists stays until S3 has the delete of its last key: whether there are others is not known
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from heapq import nsmallest
from itertools import islice

from milena_cache.objects.names import Buckets
from milena_cache.objects.object_store import Info, Page, Readable
from milena_cache.objects.unlisted import Names, Unlisted
from milena_cache.origin.requests import within
from milena_cache.reads.merged_page import decode_cursor, merge, name_of
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.recent_uploads import Listing, RecentUploads
from milena_common.api.errors import InvalidRequest
from milena_common.api.keys import MAX_KEY_BYTES, SCHEME, cache_key, split_cache_key
from milena_common.runtime.clock import Clock

# Dirty entries that are compared in one step of the event loop: about 1 ms of work.
COMPARED_AT_ONCE = 2048
# The ETag of a larger value is listed only if it is known: a page has 1,000 objects.
HASHED_BYTES = 4096


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

    async def page(
        self,
        bucket: str,
        prefix: bytes,
        cursor: str,
        limit: int,
        timeout: float,
        delimiter: bytes = b"",
        others: Sequence[Unlisted] = (),
    ) -> Page:
        """Return a page of the bucket's keys, without S3_PREFIX, within `timeout` seconds.

        With `delimiter`, keys that have it behind `prefix` are replaced by their common prefix. A page may have
        fewer names than `limit`, or none, although more follow. `others`: what other nodes had written before this
        was called. Raises InvalidRequest, AccessDenied,
        OriginUnavailable.
        """
        name = self._buckets.canonical(bucket)
        requested = names_of(prefix, cursor, limit, delimiter)
        shown, separator = requested.prefix, requested.delimiter
        position = decode_cursor(cursor)
        hidden = self._buckets.prefix_of(name)
        deadline = self._clock.now() + timeout
        while True:
            with self._recent.listing() as listing:
                before = await self._collect_dirty(name, requested)
                after = hidden + position.last if position.last and not position.cursor else ""
                asking = self._store.list(
                    name or self._buckets.default, hidden + shown, position.cursor, limit, separator, after
                )
                page = await within(asking, max(0.0, deadline - self._clock.now()), "S3 list")
                if not listing.complete:
                    continue
                page = page.without_prefix(hidden) if hidden else page
                deleted = frozenset(info.key for info in page.objects if self._is_deleted(name, info.key, listing))
                own = self._unlisted(before, listing)
                written = {name: info for each in (*others, own) for name, info in each.names.items()}
                untils = [each.until for each in (*others, own) if each.until is not None]
                return merge(page, deleted, written, position, limit, min(untils, default=None))

    async def unlisted(self, bucket: str, requested: Names) -> Unlisted:
        """Return what this node has written, and S3 may not have, for a page that another node lists."""
        name = self._buckets.canonical(bucket)
        with self._recent.listing() as listing:
            return self._unlisted(await self._collect_dirty(name, requested), listing)

    def _unlisted(self, writes: _Writes, listing: Listing) -> Unlisted:
        names: dict[str, Info | None] = {}
        for listed_as, puts in writes.names.items():
            found = (self._written(key, entry, listing) for key, entry in puts)
            if (info := next(filter(None, found), None)) is not None:
                names[listed_as] = info if listed_as == info.key else None
        return Unlisted(names, writes.until)

    async def _collect_dirty(self, bucket: str, requested: Names) -> _Writes:
        """Return the dirty puts that a page may have; in parts, between which the event loop runs."""
        writes, prefix = _Writes(*requested), requested.prefix.encode()
        start = cache_key(bucket, prefix)
        remaining = iter(list(self._dirty.values()))
        while part := list(islice(remaining, COMPARED_AT_ONCE)):
            # Most entries end at the first comparison.
            for entry in part:
                entry_key = entry.key
                if entry_key.startswith(start) and not entry.deleted:
                    of, key = split_cache_key(entry_key) if entry_key.startswith(SCHEME) else ("", entry_key)
                    if of == bucket:
                        writes.add(key.decode(), entry)
            writes.shrink()
            if len(part) == COMPARED_AT_ONCE:
                await asyncio.sleep(0)
        return writes

    def _written(self, key: str, entry: DirtyEntry, listing: Listing) -> Info | None:
        """Return an object that was dirty before S3 was listed, as it is now; None if it no longer exists."""
        now = self._dirty.get(entry.key)
        if now is None and listing.state(entry.key) is False:
            return None
        if now is not None and self._dirty_writes.is_gone(now):
            return None
        entry = now or entry
        age = max(0.0, self._clock.now() - entry.acknowledged_at)
        is_cheap = entry.value is not None and entry.size <= HASHED_BYTES
        etag = self._dirty_writes.etag(entry) if is_cheap else entry.etag
        return Info(key, entry.size, etag, self._clock.wall() - age)

    def _is_deleted(self, bucket: str, key: str, listing: Listing) -> bool:
        return is_deleted(cache_key(bucket, key.encode()), self._dirty, self._dirty_writes, listing)


def is_deleted(key: bytes, dirty: Dirty, dirty_writes: DirtyWrites, listing: Listing) -> bool:
    """True if this node has deleted the object of a cache key that S3 has in its page of `listing`."""
    entry = dirty.get(key)
    if entry is not None:
        # A delete from before a restart or under an earlier ownership may be older than another node's put.
        return not entry.belief.late and dirty_writes.is_gone(entry)
    return listing.state(key) is False


class _Writes:
    """The dirty puts that one page may list, by the name under which it does: the first ones behind `last`.

    A page has at most `limit` names, so that no more are kept. `until`: the last name that is kept if others were
    dropped; None if all are here.
    """

    def __init__(self, prefix: str, delimiter: str, last: str, limit: int) -> None:
        self.names: dict[str, list[tuple[str, DirtyEntry]]] = {}
        self.until: str | None = None
        self._prefix = prefix
        self._delimiter = delimiter
        self._last = last
        self._limit = limit

    def add(self, key: str, entry: DirtyEntry) -> None:
        name = name_of(key, self._prefix, self._delimiter)
        if name > self._last and (self.until is None or name <= self.until):
            self.names.setdefault(name, []).append((key, entry))

    def shrink(self) -> None:
        """Drop the names that cannot be on the page."""
        if len(self.names) > self._limit:
            names = nsmallest(self._limit, self.names)
            self.names = {name: self.names[name] for name in names}
            self.until = names[-1]


def names_of(prefix: bytes, cursor: str, limit: int, delimiter: bytes) -> Names:
    """Return which names a page has. Raises InvalidRequest."""
    return Names(_text("prefix", prefix), _text("delimiter", delimiter), decode_cursor(cursor).last, limit)


def _text(field: str, value: bytes) -> str:
    """Return a prefix or delimiter as text. Raises InvalidRequest."""
    if len(value) > MAX_KEY_BYTES or 0 in value:
        raise InvalidRequest(f"{field}: allowed are at most {MAX_KEY_BYTES} bytes of UTF-8 without NUL")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{field}: is not UTF-8; keys are UTF-8") from None
