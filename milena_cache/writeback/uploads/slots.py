"""Pure. The uploads in flight, and whether another one may begin beside them.

Keys whose upload has failed before (retries) and new keys (fresh) have separate slots. With shared slots, a few
keys that S3 answers with 500, or not at all, would hold every slot for the whole request timeout and delay all
other keys. So retries leave a quarter of the slots free, and have only a quarter while fresh keys wait. The memory
of the values in flight is divided in the same way.
"""

from __future__ import annotations


class UploadSlots:
    """Counts uploads in flight, whose values have at most `memory_limit` bytes; one of each kind always fits."""

    def __init__(self, memory_limit: int) -> None:
        self.fresh = 0
        self.retries = 0
        self._memory_limit = memory_limit
        self._fresh_bytes = 0
        self._retry_bytes = 0

    def take(self, size: int, *, retry: bool) -> None:
        """Count an upload of `size` bytes that begins."""
        if retry:
            self.retries += 1
            self._retry_bytes += size
        else:
            self.fresh += 1
            self._fresh_bytes += size

    def release(self, size: int, *, retry: bool) -> None:
        """Count an upload of `size` bytes that has finished."""
        if retry:
            self.retries -= 1
            self._retry_bytes -= size
        else:
            self.fresh -= 1
            self._fresh_bytes -= size

    def has_slot(self, limit: int, *, retry: bool, fresh_wait: bool) -> bool:
        """Return True if one of `limit` slots is free for an upload of this kind.

        Each kind always has one slot, even if `limit` is 1. `fresh_wait`: fresh keys wait for a slot.
        """
        if not retry:
            return self.fresh < max(1, limit - self.retries)
        quarter = max(1, limit // 4)
        return self.retries < (quarter if fresh_wait else max(1, limit - quarter)) and (
            self.retries < max(1, limit - self.fresh)
        )

    def has_memory(self, size: int, *, retry: bool) -> bool:
        """Return True if a value of `size` bytes fits beside those in flight."""
        if retry:
            return not self.retries or self._retry_bytes + size <= self._memory_limit // 4
        return not self.fresh or self._fresh_bytes + self._retry_bytes + size <= self._memory_limit
