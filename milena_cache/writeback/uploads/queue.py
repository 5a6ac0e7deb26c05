"""Pure. The queue of uploads: new keys in order of arrival, failed keys by the end of their backoff.

It holds keys only; the dirty table has their entries. A key is in it at most once (`UploadState.queued`), and its
newest write at the start of the upload is the one that is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Set
from heapq import heapify, heappop, heappush
from itertools import count, islice
from math import inf
from typing import NamedTuple


class QueuedUpload(NamedTuple):
    """A key that is due for its upload.

    key: the cache key.
    retry: True if an earlier attempt failed.
    newest: True if it was taken from the end of the queue of new keys.
    """

    key: bytes
    retry: bool
    newest: bool = False


class UploadQueue:
    """Keys, each with the time from which it may be uploaded, in monotonic seconds.

    `wake` is called when a key enters the empty queue of new keys, and when `hasten` makes retries due earlier.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._fresh: deque[tuple[float, bytes]] = deque()
        self._retries: list[tuple[float, int, bytes]] = []
        self._order = count()

    def add(self, key: bytes, due: float) -> None:
        """Append `key` to the new keys; it may be uploaded from `due` on."""
        self._fresh.append((due, key))
        if len(self._fresh) == 1:
            self._wake()

    def add_retry(self, key: bytes, due: float) -> None:
        """Add `key` as a retry, which may be uploaded from `due` on."""
        heappush(self._retries, (due, next(self._order), key))

    def hasten(self, keys: Set[bytes], due: float) -> None:
        """Make those of `keys` that wait for a retry due at `due` instead of at the end of their backoff."""
        self._retries = [(due if key in keys else then, order, key) for then, order, key in self._retries]
        heapify(self._retries)
        self._wake()

    def due(
        self, now: float, *, hurry: bool, newest: bool = False
    ) -> tuple[QueuedUpload | None, QueuedUpload | None, float]:
        """Return the new key and the retry that are due, None without one, and the seconds until the next is due.

        `hurry`: new keys count as due. `newest`: return the newest new key instead of the oldest, if it is due.
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

    def next_fresh(self, number: int) -> list[bytes]:
        """Return the first `number` new keys, due or not, in order."""
        return [key for _, key in islice(self._fresh, number)]

    def take(self, upload: QueuedUpload) -> None:
        """Remove an upload that `due` has just returned."""
        if upload.retry:
            heappop(self._retries)
        elif upload.newest:
            self._fresh.pop()
        else:
            self._fresh.popleft()
