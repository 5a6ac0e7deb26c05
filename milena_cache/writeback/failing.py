"""Pure. Keys whose uploads fail, each by itself, and which of them are stuck.

That the upload of one key fails says nothing about S3: it may be this object that S3 cannot store. A key that has
failed `STUCK_TRIES` times and for a configured time, while others have reached S3, is *stuck*. Its write was
acknowledged, so it stays dirty and is tried again, but rarely, and people are told of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

STUCK_TRIES = 20
# A stuck key is tried so often; others by their backoff.
STUCK_RETRY_SECONDS = 60.0


@dataclass(slots=True)
class Failure:
    """`since` (monotonic) and `since_wall` (seconds since 1970): the first failure. `reason`: the latest one's."""

    since: float
    since_wall: float
    tries: int = 0
    reason: str = ""


class Failing:
    """The keys that have failed since they last reached S3; at most as many as are dirty.

    `stuck_after`: for how many seconds a key must have failed to be stuck.
    """

    def __init__(self, stuck_after: float) -> None:
        self._stuck_after = stuck_after
        # In the order of the first failure.
        self._failures: dict[bytes, Failure] = {}
        self._last_success = float("-inf")

    def failed(self, key: bytes, reason: str, now: float, wall: float) -> Failure:
        """Count an upload of `key` that failed and may succeed yet."""
        failure = self._failures.get(key)
        if failure is None:
            failure = self._failures[key] = Failure(now, wall)
        failure.tries += 1
        failure.reason = reason
        return failure

    def succeeded(self, key: bytes, now: float) -> None:
        """S3 has taken a write of `key`."""
        self._last_success = now
        self._failures.pop(key, None)

    def clear(self, key: bytes) -> None:
        """The key is not dirty any more, or is a dead letter."""
        self._failures.pop(key, None)

    def get(self, key: bytes) -> Failure | None:
        """Return what is known of a key that fails."""
        return self._failures.get(key)

    def is_stuck(self, failure: Failure, now: float) -> bool:
        """Return whether a key with this failure is stuck."""
        return (
            failure.tries >= STUCK_TRIES
            and now - failure.since >= self._stuck_after
            and self._last_success > failure.since
        )

    def degraded(self, now: float) -> list[str]:
        """Return the reason to look at keys that are stuck, if there are any."""
        number = self.number_stuck(now)
        if not number:
            return []
        return [
            f"write-back: {number} acknowledged writes have failed for more than {self._stuck_after:g} s while "
            "others reached S3 (`milena writeback failed` lists them)"
        ]

    def number_stuck(self, now: float) -> int:
        """Return how many keys are stuck."""
        return sum(1 for _ in self.stuck(now))

    def stuck(self, now: float) -> Iterator[tuple[bytes, Failure]]:
        """Yield the keys that are stuck, those that have failed for longest first."""
        for key, failure in self._failures.items():
            if now - failure.since < self._stuck_after:
                return  # all that follow began to fail later
            if self.is_stuck(failure, now):
                yield key, failure
