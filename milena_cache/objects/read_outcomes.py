"""Pure. Counts of reads by outcome: plain integers, because a hit pays for each of them.

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

HITS = ("hit", "stale", "stale_error", "stale_fenced", "negative_hit")
MISSES = ("miss", "revalidated", "changed", "coalesced", "bypass", "error")


class ReadCounts:
    """Reads by outcome, and the bytes of values served from memory and from S3."""

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys((*HITS, *MISSES), 0)
        self.hit_bytes = 0
        self.miss_bytes = 0

    @property
    def hits(self) -> int:
        return sum(self.outcomes[outcome] for outcome in HITS)

    @property
    def misses(self) -> int:
        return sum(self.outcomes[outcome] for outcome in MISSES)
