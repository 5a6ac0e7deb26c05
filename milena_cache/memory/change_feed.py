"""Pure. Tells whoever follows keys that what readers are told of one may be another thing from now on.

`on_change` is called with the cache key, in the same step of the event loop in which the next reader may get
something else: at the acknowledgement of a write or delete, when S3 turns out to hold something else than the
copy, when a copy or a dirty entry goes for whatever reason, and when an object's own end is noticed. It may be
called when nothing has changed. A read that began before the call may be answered after it with what was before:
who follows a key for a reader must do so from the moment the read begins.

An end with nobody reading is noticed by nobody. Who follows a key with an end says so with `ends`, and asks for
`due` from time to time.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

MAX_EXPIRIES = 1_000_000


class ChangeFeed:
    """`on_change` None: nobody follows anything. At most `max_ends` ends are kept."""

    def __init__(self, max_expiries: int = MAX_EXPIRIES) -> None:
        self.on_change: Callable[[bytes], None] | None = None
        self._max_expiries = max_expiries
        self._expiries: list[tuple[float, bytes]] = []

    def notify(self, key: bytes) -> None:
        """What is told of `key` may be another thing from now on."""
        on_change = self.on_change
        if on_change is not None:
            on_change(key)

    def expect_expiry(self, key: bytes, expires_at: float) -> bool:
        """Have `due` tell of this end (seconds since 1970); False if there is no room, and it will not."""
        if len(self._expiries) >= self._max_expiries:
            return False
        heappush(self._expiries, (expires_at, key))
        return True

    def due(self, wall: float) -> int:
        """Tell of every end until `wall` (seconds since 1970), once each; how many those were."""
        notified = 0
        while self._expiries and self._expiries[0][0] <= wall:
            self.notify(heappop(self._expiries)[1])
            notified += 1
        return notified
