"""Pure. Counts of reads by outcome: plain integers, because a hit pays for each of them.

One read in `one_in` on average is sampled, for the statistics of hot keys. How many are left out until the next one
is different each time: a client that reads the same 64 keys again and again would otherwise have one of them
sampled alone.

Every read has exactly one outcome. Hits are those that did not wait for S3:

    hit             a fresh entry; for requests without the value, the result of a recent HEAD
    stale           an entry within its grace, revalidated in the background
    stale_error     an entry within its keep, because S3 cannot be reached
    stale_fenced    a clean entry of any age, because the fence is closed (FENCED_READS=stale)
    negative_hit    a fresh entry for an absent object

Misses are those that did:

    miss            there was no entry to revalidate
    revalidated     S3 confirmed the entry (304)
    changed         S3 had another version
    coalesced       shared the fetch of another reader
    bypass          larger than the byte budget: served, and not cached
    error           the read failed
"""

from __future__ import annotations

from collections.abc import Callable

HITS = ("hit", "stale", "stale_error", "stale_fenced", "negative_hit")
MISSES = ("miss", "revalidated", "changed", "coalesced", "bypass", "error")


class ReadCounts:
    """Reads by outcome, and the bytes of values served from memory and from S3.

    due: reads until the next one is sampled; what counts hits by itself calls `take_sample` when it is 0 or less
    one_in: reads of which one is sampled, on average
    on_sample: called with the cache key of a sampled read, and the bytes of the value that was served
    """

    def __init__(self) -> None:
        self.due = self.one_in = 1
        self.on_sample: Callable[[bytes, int], None] | None = None
        self._random = 1
        self.outcomes = dict.fromkeys((*HITS, *MISSES), 0)
        self.hit_bytes = 0
        self.miss_bytes = 0

    def hit(self, outcome: str, key: bytes, size: int) -> None:
        """Count a read of `size` bytes that did not wait for S3, with its outcome."""
        self.outcomes[outcome] += 1
        self.hit_bytes += size
        self.due -= 1
        if self.due <= 0:
            self.take_sample(key, size)

    def miss(self, outcome: str, key: bytes, size: int) -> None:
        """Count a read of `size` bytes that waited for S3, with its outcome."""
        self.outcomes[outcome] += 1
        self.miss_bytes += size
        self.due -= 1
        if self.due <= 0:
            self.take_sample(key, size)

    def take_sample(self, key: bytes, size: int) -> None:
        """Sample a read that is due, and set when the next one is."""
        self._random = (self._random * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        self.due += 1 + (self._random >> 16) % (2 * self.one_in - 1)
        if self.on_sample is not None:
            self.on_sample(key, size)

    @property
    def hits(self) -> int:
        return sum(self.outcomes[outcome] for outcome in HITS)

    @property
    def misses(self) -> int:
        return sum(self.outcomes[outcome] for outcome in MISSES)
