"""Pure. Uploads that reached S3 while listings were in flight.

A page of a listing may be older than an upload that ends before the page arrives:

    listing ── requested ───── S3 reads its index ────────────── page arrives, is merged with the dirty entries
    delete of k          acknowledged ── uploaded ── its dirty entry is removed

The page still has k, and no dirty entry is left to hide it. So while a listing is in flight, each upload is
recorded, and the page is merged with these records too. S3's listings are consistent: a listing that begins after
an upload shows it. The records are dropped when no listing is in flight; at most `MAX_KEYS` are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

MAX_KEYS = 100_000


class Listing:
    """A listing in flight. `complete` is False if there were more uploads than are recorded: list again."""

    def __init__(self, began: int, uploads: dict[bytes, tuple[int, bool]]) -> None:
        self.complete = True
        self._began = began
        self._uploads = uploads

    def state(self, key: bytes) -> bool | None:
        """Return True if this cache key was put since the listing began, False if deleted, None if neither."""
        number, exists = self._uploads.get(key, (0, False))
        return exists if number > self._began else None

    def uploaded(self) -> list[bytes]:
        """Return the cache keys that have been put to S3 since the listing began."""
        return [key for key, (number, exists) in self._uploads.items() if exists and number > self._began]


class RecentUploads:
    """The uploads of one node since its oldest listing in flight began; at most MAX_KEYS keys."""

    def __init__(self) -> None:
        self._number = 0
        self._uploads: dict[bytes, tuple[int, bool]] = {}
        self._listings: list[Listing] = []

    def __len__(self) -> int:
        return len(self._uploads)

    @contextmanager
    def listing(self) -> Iterator[Listing]:
        """Record uploads while the context is open: from before the request to S3 until the page is merged."""
        listing = self.open()
        try:
            yield listing
        finally:
            self.close(listing)

    def open(self) -> Listing:
        """Record uploads for a listing from now on, until `close`."""
        listing = Listing(self._number, self._uploads)
        self._listings.append(listing)
        return listing

    def close(self, listing: Listing) -> None:
        """End the record for `listing`."""
        self._listings.remove(listing)
        if not self._listings:
            self._uploads.clear()

    def add(self, key: bytes, *, exists: bool) -> None:
        """Record that a put (`exists`) or a delete of this cache key reached S3."""
        if not self._listings:
            return
        if len(self._uploads) >= MAX_KEYS and key not in self._uploads:
            for listing in self._listings:
                listing.complete = False
            self._uploads.clear()
        self._number += 1
        self._uploads[key] = (self._number, exists)

    def discard(self, key: bytes) -> None:
        """Remove the record of a key that another writer's object has replaced: S3's page is right about it."""
        self._uploads.pop(key, None)
