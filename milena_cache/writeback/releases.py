"""Pure. The seam by which write-back gives up what made a write durable, once S3 has the write or a later one.

It is the half of `milena_cache.writes.durable` that is about the end of a write. The journal implements both.
"""

from __future__ import annotations

from typing import Protocol


class Releases(Protocol):
    """Gives up what was kept for writes that are over."""

    def release(self, seq: int, key: bytes) -> None:
        """Give up the record `seq` of `key`, before long. Until then a crash may bring it back."""

    async def has_released(self, key: bytes) -> bool:
        """Return True once no released record of `key` can come back; False if one still can."""
