"""Pure. Whose upload is next: new keys go in the order of their coming, those that failed after their backoff."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Set
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple


class QueuedUpload(NamedTuple):
    """A key that is due for its upload; `retry`: an earlier attempt has failed; `newest`: it came last."""

    key: bytes
    retry: bool
    newest: bool = False


class UploadQueue:
    """Keys, each with the moment from which it may go; monotonic seconds.

    `wake` is called when the first key has come, and when others are due earlier: what waits for them looks again.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._fresh: deque[tuple[float, bytes]] = deque()
        self._retries: list[tuple[float, int, bytes]] = []
        self._order = count()

    def add(self, key: bytes, due: float) -> None:
        """Have `key` go after all that were added before."""
        self._fresh.append((due, key))
        if len(self._fresh) == 1:
            self._wake()

    def add_retry(self, key: bytes, due: float) -> None:
        """Have `key` go when it is due."""
        heappush(self._retries, (due, next(self._order), key))

    def hasten(self, keys: Set[bytes], due: float) -> None:
        """Have those of `keys` that wait for a retry go at `due`, in place of the end of their backoff."""
        self._retries = [(due if key in keys else then, order, key) for then, order, key in self._retries]
        heapify(self._retries)
        self._wake()

    def due(
        self, now: float, *, hurry: bool, newest: bool = False
    ) -> tuple[QueuedUpload | None, QueuedUpload | None, float]:
        """Return the fresh key and the retry that are due, and the seconds until another one may be.

        `hurry`: fresh keys do not have to be due. `newest`: not the oldest fresh key, but the newest if it is due.
        """
        fresh = retry = None
        next_due = inf
        if self._fresh:
            due, key = self._fresh[0]
            if hurry or due <= now:
                last_due, last = self._fresh[-1]
                newest = newest and (hurry or last_due <= now)
                fresh = QueuedUpload(last, retry=False, newest=True) if newest else QueuedUpload(key, retry=False)
            else:
                next_due = due
        if self._retries:
            due, _, key = self._retries[0]
            if due <= now:
                retry = QueuedUpload(key, retry=True)
            else:
                next_due = min(next_due, due)
        return fresh, retry, next_due - now

    def take(self, upload: QueuedUpload) -> None:
        """Remove one that `due` has just returned."""
        if upload.retry:
            heappop(self._retries)
        elif upload.newest:
            self._fresh.pop()
        else:
            self._fresh.popleft()
