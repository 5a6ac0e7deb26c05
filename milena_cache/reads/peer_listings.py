"""Coordination. Listings that other nodes make: what this node has written, and which of the listed keys it has
deleted.

Another node's page of S3's listing may be older than a delete of this node that is in S3 by the time that the page
is compared with what is dirty here (`recent_uploads` has the interleaving). So the other node sends two requests:
`begin_listing` before it lists S3, which returns this node's dirty puts, and from which on it records its uploads;
and `end_listing` with the keys of the page that this node owns.

    other node ── begin ── S3 listed ────── page ── end(keys) ── merged
    this node      recording ────────────────────────┘

A listing is dropped when its time is over, whether or not its node has sent `end_listing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from milena_cache.membership.ownership import Ownership
from milena_cache.objects.unlisted import Names, Unlisted
from milena_cache.reads.listing import Listings, is_deleted
from milena_cache.writeback.dirty_table import Dirty
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.recent_uploads import Listing, RecentUploads
from milena_common.api.errors import InvalidRequest, Overloaded
from milena_common.cluster.slots import slot_of
from milena_common.runtime.clock import Clock

# Maximum number of listings in flight: some 300 bytes each; the records of uploads have their own bound.
MAX_LISTINGS = 4096
# Maximum number of keys in a page of a listing.
MAX_KEYS = 1000
# Maximum time of a listing, seconds.
MAX_SECONDS = 300.0


class _Open(NamedTuple):
    """listing: the record of uploads; epoch: of the ring known at its beginning; until: monotonic seconds."""

    listing: Listing
    epoch: int
    until: float


class PeerListings:
    """The listings in flight at other nodes, by number."""

    def __init__(
        self,
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        recent: RecentUploads,
        ownership: Ownership,
        clock: Clock,
        listings: Listings,
    ) -> None:
        self._listings = listings
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._recent = recent
        self._ownership = ownership
        self._clock = clock
        self._number = 0
        self._open: dict[int, _Open] = {}
        self._expiry: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._open)

    def begin_listing(self, seconds: float) -> int:
        """Record uploads for a listing that ends within `seconds`; return its number. Raises Overloaded."""
        if len(self._open) >= MAX_LISTINGS:
            raise Overloaded(f"{MAX_LISTINGS} listings of other nodes are in flight here, and no more are allowed")
        self._number += 1
        until = self._clock.now() + min(seconds, MAX_SECONDS)
        self._open[self._number] = _Open(self._recent.open(), self._ownership.epoch, until)
        if self._expiry is None:
            self._expiry = asyncio.get_running_loop().create_task(self._expire())
        return self._number

    async def unlisted(self, bucket: str, names: Names) -> Unlisted:
        """Return what this node has written of a page, and S3 may not have; for a listing that has begun here.

        Raises InvalidRequest.
        """
        if not 0 < names.limit <= MAX_KEYS:
            raise InvalidRequest(f"limit: got {names.limit}; allowed: 1 to {MAX_KEYS}")
        return await self._listings.unlisted(bucket, names)

    def end_listing(self, number: int, keys: Sequence[bytes]) -> Sequence[bytes] | None:
        """End a listing; return those of its cache keys whose delete was acknowledged here before it began.

        None if that is not known, and the listing has to be made again: its time is over, there were more uploads
        than are recorded, or a key's slot has not been this node's since the listing began. Raises InvalidRequest.
        """
        if len(keys) > MAX_KEYS:
            raise InvalidRequest(f"keys: got {len(keys)}; allowed: up to {MAX_KEYS}")
        opened = self._open.pop(number, None)
        if opened is None:
            return None
        listing, epoch, _ = opened
        since = self._ownership.since
        try:
            # A slot that came to this node after the listing began (`since` > `epoch`): a delete by the previous
            # owner in that time is not recorded here.
            if not listing.complete or any(not 0 <= since[slot_of(key)] <= epoch for key in keys):
                return None
            return [key for key in keys if is_deleted(key, self._dirty, self._dirty_writes, listing)]
        finally:
            self._recent.close(listing)  # drops the records, if it was the last listing

    async def _expire(self) -> None:
        while self._open:
            now = self._clock.now()
            for number in [number for number, each in self._open.items() if each.until <= now]:
                self._recent.close(self._open.pop(number).listing)
            if self._open:
                await self._clock.sleep(min(each.until for each in self._open.values()) - now)
        self._expiry = None

    def cancel(self) -> None:
        """Cancel the task that drops listings whose time is over, at the end of the process."""
        if self._expiry is not None:
            self._expiry.cancel()
