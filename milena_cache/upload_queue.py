"""Pure. Whose upload is next: new keys go in the order of their coming, those that failed after their backoff."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf


class UploadQueue:
    """Keys, each with the moment from which it may go; monotonic seconds."""

    def __init__(self) -> None:
        self._fresh: deque[tuple[float, bytes]] = deque()
        self._retries: list[tuple[float, int, bytes]] = []
        self._order = count()

    def add(self, key: bytes, due: float) -> bool:
        """Have `key` go after all that were added before; whether it is the only one of these now."""
        self._fresh.append((due, key))
        return len(self._fresh) == 1

    def add_retry(self, key: bytes, due: float) -> None:
        """Have `key` go when it is due, before those that come for the first time."""
        heappush(self._retries, (due, next(self._order), key))

    def next(self, now: float, fits: Callable[[bytes], bool], *, hurry: bool) -> tuple[bytes | None, float]:
        """The key whose turn it is, which leaves the queue; or None and the seconds until there may be one.

        `fits`: whether there is room for it now; if not, none goes. `hurry`: who comes for the first time does not
        have to be due.
        """
        if self._retries and self._retries[0][0] <= now:
            key = self._retries[0][2]
            if not fits(key):
                return None, inf
            heappop(self._retries)
            return key, 0.0
        if self._fresh and (hurry or self._fresh[0][0] <= now):
            key = self._fresh[0][1]
            if not fits(key):
                return None, inf
            self._fresh.popleft()
            return key, 0.0
        dues = [waiting[0][0] for waiting in (self._retries, self._fresh) if waiting]
        return None, min(dues) - now if dues else inf
