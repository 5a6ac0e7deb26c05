"""Pure. Notifies a subscriber of each cache key for which the next read may return something else.

`on_change` is called in the same step of the event loop in which the next read may return something else: at the
acknowledgement of a write or delete, when S3 holds something else than the entry, when an entry or a dirty entry is
removed for any reason, and when an object's expiry is noticed. Spurious notifications are allowed, missing ones are
not.

A read that began before a notification may still return the old value after it, so a subscriber that tracks keys
for readers registers a key when the read begins, not when its reply is sent.

Without a read the expiry of an object goes unnoticed. A subscriber that tracks a key with an expiry registers it
with `expect_expiry` and calls `due` periodically.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush

# Expiries that are waited for at the same time; further ones are rejected by `expect_expiry`.
MAX_EXPIRIES = 1_000_000


class ChangeFeed:
    """The change notifications of one node, for at most one subscriber.

    on_change: called with each changed cache key; None without a subscriber
    is_needed: returns False while the subscriber would do nothing with any key
    drop_copy: called with each of these keys but evicted ones, needed or not, to drop what the disk cache has of
        it; None without one
    on_event: called with the name of an event and its cache key: `set` and `del` at the acknowledgement of a write,
        `expired` when an expiry is noticed, and `evicted` when an entry is; None: there is no listener
    """

    def __init__(self, max_expiries: int = MAX_EXPIRIES) -> None:
        self.on_change: Callable[[bytes], None] | None = None
        self.drop_copy: Callable[[bytes], None] | None = None
        self.is_needed: Callable[[], bool] = lambda: True
        self.on_event: Callable[[str, bytes], None] | None = None
        self._max_expiries = max_expiries
        self._expiries: list[tuple[float, bytes]] = []

    def notify(self, key: bytes) -> None:
        """Notify the subscriber that the next read of `key` may return something else."""
        if self.drop_copy is not None:
            self.drop_copy(key)
        self._notify_subscriber(key)

    def evicted(self, key: bytes) -> None:
        """Notify the subscriber that the entry of `key` is no longer there; a copy on disk is as good as it was."""
        self._notify_subscriber(key)
        self.event("evicted", key)

    def _notify_subscriber(self, key: bytes) -> None:
        on_change = self.on_change
        if on_change is not None and self.is_needed():
            on_change(key)

    def event(self, name: str, key: bytes) -> None:
        """Notify of an event; see `on_event`."""
        if self.on_event is not None:
            self.on_event(name, key)

    def notify_all(self, keys: Iterable[bytes]) -> None:
        """Notify the subscriber of each of `keys`, in their order."""
        if self.drop_copy is not None:
            keys = tuple(keys)
            for key in keys:
                self.drop_copy(key)
        on_change = self.on_change
        if on_change is not None and self.is_needed():
            for key in keys:
                on_change(key)

    def expect_expiry(self, key: bytes, expires_at: float) -> bool:
        """Have `due` notify of `key` at `expires_at` (seconds since 1970); False if there is no room for it."""
        if len(self._expiries) >= self._max_expiries:
            return False
        heappush(self._expiries, (expires_at, key))
        return True

    def due(self, wall: float) -> int:
        """Notify once of each expiry up to `wall` (seconds since 1970). Return the number of notifications."""
        notified = 0
        while self._expiries and self._expiries[0][0] <= wall:
            self.notify(heappop(self._expiries)[1])
            notified += 1
        return notified
