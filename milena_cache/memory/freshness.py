"""Pure. Decides by the age of an entry if it may be served: three windows, one after the other.

    age   0 ........ ttl ............ + grace ............... + keep ..........
          FRESH      GRACE            KEEP                    GONE
          serve      serve, and       revalidate first;       treat as
                     revalidate in    serve stale if          not cached
                     the background   S3 fails

Revalidation is a conditional GET with the entry's ETag. The ttl is shortened for each key by up to `jitter` of
itself: entries that were loaded together would otherwise expire together, and S3 would get all their revalidations
at once. The shortening depends on the key alone, so that an entry does not change its window back and forth. Terms
as in RFC 5861: grace is stale-while-revalidate, serving within keep is stale-if-error.

Where S3 reports changes, see `milena_cache.events`, entries are fresh for longer than the ttl while these reports
arrive in time: up to the age `vouched`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Window(Enum):
    """The window of an entry's age, see the module's docstring."""

    FRESH = "fresh"
    GRACE = "grace"
    KEEP = "keep"
    GONE = "gone"


@dataclass(slots=True)
class Freshness:
    """The lengths of the windows, all in seconds but `jitter`. Only `vouched` changes.

    ttl: age up to which an entry is fresh
    jitter: the greatest share of the ttl, 0 to 1, by which a key's ttl is shortened
    grace: seconds after the ttl in which it is served and revalidated in the background
    keep: seconds after the grace in which it is kept for revalidation
    stale_if_error: seconds after the ttl in which it may be served if S3 fails; at most grace and keep count
    negative_ttl: age up to which the absence of an object is served
    vouched: the ttl while it is more than `ttl`, since any later change would have been reported
    """

    ttl: float
    jitter: float
    grace: float
    keep: float
    stale_if_error: float
    negative_ttl: float
    vouched: float = 0.0

    def fresh_for(self, key: bytes) -> float:
        """Return the ttl of this key's entries in seconds, shortened always alike within one process."""
        ttl = self.vouched if self.vouched > self.ttl else self.ttl
        return ttl * (1.0 - self.jitter * (hash(key) & 0xFFFF) / 0x10000)

    def window(self, key: bytes, age: float, *, negative: bool) -> Window:
        """Return the window of an entry of that age; a negative entry is FRESH or GONE."""
        if negative:
            return Window.FRESH if age < self.negative_ttl else Window.GONE
        stale = age - self.fresh_for(key)
        if stale < 0:
            return Window.FRESH
        if stale < self.grace:
            return Window.GRACE
        return Window.KEEP if stale < self.grace + self.keep else Window.GONE

    def may_serve_on_error(self, key: bytes, age: float) -> bool:
        """True if an entry of that age may be served when S3 fails."""
        stale = age - self.fresh_for(key)
        return stale < min(self.grace + self.keep, self.stale_if_error)

    def age_at_end_of_grace(self, key: bytes) -> float:
        """Return the age in seconds from which an entry is revalidated before it is served."""
        return self.fresh_for(key) + self.grace
