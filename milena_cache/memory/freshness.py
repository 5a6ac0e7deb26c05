"""Pure. What a copy's age allows: the three windows of a copy, one after the other.

    age   0 ........ ttl ............ + grace ............... + keep ..........
          FRESH      GRACE            KEEP                    GONE
          serve it   serve it, and    ask S3 first; serve it  as if it were
                     ask S3 meanwhile if S3 fails             not there

"Ask" is a conditional GET with the copy's ETag. The ttl is shortened for each key by up to `jitter` of itself,
so that what was loaded together does not expire together. Terms as in RFC 5861 (stale-while-revalidate is the
grace, stale-if-error the serving in keep).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Window(Enum):
    FRESH = "fresh"
    GRACE = "grace"
    KEEP = "keep"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Freshness:
    """The lengths of the windows, in seconds; `jitter` is a share of the ttl, 0 to 1."""

    ttl: float
    jitter: float
    grace: float
    keep: float
    stale_if_error: float
    negative_ttl: float

    def fresh_for(self, key: bytes) -> float:
        """The ttl of this key's copies: the same in this process each time."""
        return self.ttl * (1.0 - self.jitter * (hash(key) & 0xFFFF) / 0x10000)

    def window(self, key: bytes, age: float, *, negative: bool) -> Window:
        """The window of a copy of that age; a negative entry is fresh or gone."""
        if negative:
            return Window.FRESH if age < self.negative_ttl else Window.GONE
        stale = age - self.fresh_for(key)
        if stale < 0:
            return Window.FRESH
        if stale < self.grace:
            return Window.GRACE
        return Window.KEEP if stale < self.grace + self.keep else Window.GONE

    def may_serve_on_error(self, key: bytes, age: float) -> bool:
        """Whether a copy of that age may be served because S3 cannot be asked."""
        stale = age - self.fresh_for(key)
        return stale < min(self.grace + self.keep, self.stale_if_error)

    def age_at_end_of_grace(self, key: bytes) -> float:
        """The age from which S3 is asked before a copy is served."""
        return self.fresh_for(key) + self.grace
