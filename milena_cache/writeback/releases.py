"""Pure. The seam by which write-back gives up what made a write durable, once S3 has the write or a later one.

It is the half of `milena_cache.writes.durable` that is about the end of a write. The journal implements both.
"""

from __future__ import annotations

from typing import Protocol

from milena_cache.objects.version import Version


class Releases(Protocol):
    """Gives up what was kept for writes that are over."""

    def release(self, seq: int, key: bytes) -> None:
        """Give up the record `seq` of `key`, before long. Until then a crash may bring it back."""

    def retired(self, key: bytes, version: Version) -> None:
        """Give up all other copies of writes of `key`, before long: S3 has `version`, or it was given up."""

    async def copies_released(self, key: bytes) -> bool:
        """Return True once no other node has a copy of a write of `key` that is over; it may take long."""

    async def has_released(self, key: bytes) -> bool:
        """Return True once no released record of `key` can come back; False if one still can."""
