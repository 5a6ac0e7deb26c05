"""Pure. What a node counts about reads: plain integers, because a hit pays for each of them.

Every read has exactly one outcome. Hits are those that did not wait for S3:

    hit             a fresh copy; for requests without the value, what a recent HEAD said
    stale           a copy in its grace; S3 is asked meanwhile
    stale_error     a copy in its keep, because S3 cannot be asked
    negative_hit    the fresh knowledge that there is no such object

Misses are those that did:

    miss            there was no copy that could be confirmed
    revalidated     S3 confirmed the copy (304)
    changed         S3 had another version
    coalesced       shared a read that somebody else had started
    bypass          larger than the byte budget: served, and not kept
    error           no answer could be had
"""

from __future__ import annotations

HITS = ("hit", "stale", "stale_error", "negative_hit")
MISSES = ("miss", "revalidated", "changed", "coalesced", "bypass", "error")


class ReadCounts:
    """Outcomes, and the bytes of values that were served from memory and after asking S3."""

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
