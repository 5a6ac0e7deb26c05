"""Pure. The node's memory at another size, simulated for a sample of the keys (Waldspurger et al., ATC 2017).

What happens to a key in a cache depends on which other keys come between two of its uses, and on how many, but not
on which these are. So a cache of a hundredth of the size, which gets all the uses of a hundredth of the keys, has a
hundredth of the misses. It is a real `Memory` with the eviction policy of the node, whose entries have no values,
and 8 bytes of a hash for a key.

A key is in the sample as `memory.read_samples` says. If there are more than `max_keys` entries,
the threshold is lowered: keys that are not in the sample any more go, and the memory's bounds become smaller.

Only misses are estimated, each for as many as its key stands for. A hit ratio needs the number of all reads, which
the node counts: to estimate it as well would add the error of whether the sample has the few most frequent keys.
"""

from __future__ import annotations

from typing import Final

from milena_cache.memory.freshness import Freshness, Window
from milena_cache.memory.lru import Memory
from milena_cache.memory.read_samples import ALL_KEYS, sample_number
from milena_cache.objects.entry import SizedEntry

# The part of a sample that is kept when there are too many keys in it.
KEPT_SHARE: Final = 0.75
# Bytes of a hash that stand for a key.
KEY_BYTES: Final = 8


class Miniature:
    """The memory of `max_entries` and `max_bytes`, both times `scale`.

    threshold: keys are simulated whose `sample_number` is below it
    misses: reads that would have waited for S3, since the start; estimated, as the next two
    requests: requests to S3 for these reads, and for entries within their grace
    bytes: bytes that S3 would have returned for them
    """

    def __init__(
        self,
        scale: float,
        max_entries: int,
        max_bytes: int,
        policy: str,
        freshness: Freshness,
        max_keys: int,
        threshold: int = ALL_KEYS,
    ) -> None:
        self.scale = scale
        self.threshold = threshold
        self.misses = 0.0
        self.requests = 0.0
        self.bytes = 0.0
        self._entries = max_entries * scale
        self._bytes = max_bytes * scale
        self._max_keys = max_keys
        self._freshness = freshness
        self._lent = 0.0
        part = threshold / ALL_KEYS
        self.memory = Memory(max(1, int(self._entries * part)), max(1, int(self._bytes * part)), policy)
        self.memory.admit_as(int(self._bytes))

    def read(self, key: bytes, key_size: int, size: int | None, now: float) -> None:
        """Simulate a read at `now` (monotonic seconds) of a key that is in the sample.

        key: KEY_BYTES of its hash
        key_size: its length in bytes
        size: of its value in bytes; None if the object does not exist
        """
        entry = self.memory.get(key)
        weight = ALL_KEYS / self.threshold
        if entry is not None:
            window = self._freshness.window(key, now - entry.checked_at, negative=entry.value is None)
            if window is Window.FRESH:
                return
            self.requests += weight
            if window is not Window.GRACE:
                self.misses += weight
            if window is Window.GONE:
                self.bytes += weight * (size or 0)
        else:
            self.misses += weight
            self.requests += weight
            self.bytes += weight * (size or 0)
        self._keep(key, key_size, size, now)

    def store(self, key: bytes, key_size: int, size: int | None, now: float) -> None:
        """Simulate that the node stored an entry: after a read, which was simulated before, or a write."""
        before = self.memory.peek(key)
        if before is None or before.value is None or size is None or before.size != _simulated(key_size, size):
            self._keep(key, key_size, size, now)

    def drop_key(self, key: bytes) -> None:
        """Simulate that the node dropped its entry, which was written or invalidated."""
        self.memory.remove(key)

    def lend(self, share: float) -> None:
        """Have a share (0 to 1) of the memory used by something else than entries."""
        size = int(share * self.memory.max_bytes)
        if size != self.memory.lent:
            self.memory.lend(size - self.memory.lent)

    def thin(self) -> None:
        """Take a part of the keys out of the sample."""
        self.threshold = max(1, int(self.threshold * KEPT_SHARE))
        memory = self.memory
        for key in [key for key in memory if sample_number(int.from_bytes(key, "little")) >= self.threshold]:
            memory.remove(key)
        part = self.threshold / ALL_KEYS
        memory.max_entries = max(1, int(self._entries * part))
        memory.max_bytes = max(1, int(self._bytes * part))

    def _keep(self, key: bytes, key_size: int, size: int | None, now: float) -> None:
        entry = SizedEntry(None if size is None else _simulated(key_size, size), now)
        self.memory.store(key, entry)
        if len(self.memory) > self._max_keys:
            self.thin()


def _simulated(key_size: int, size: int) -> int:
    """Return the size of an entry's value with which it takes as many bytes as the node's, under its longer key."""
    return max(0, size + key_size - KEY_BYTES)
