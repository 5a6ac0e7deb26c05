"""Pure. Keys whose uploads fail, each counted by itself, and which of them are stuck.

A failed upload of one key does not show that S3 fails: S3 may be unable to store just this object. A key that has
failed `STUCK_TRIES` times and for a configured time, while other keys reached S3, is *stuck*. Its write was
acknowledged, so it stays dirty and is retried every STUCK_RETRY_SECONDS; health and metrics report it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

STUCK_TRIES = 20
# Seconds between attempts of a stuck key; other keys have a backoff.
STUCK_RETRY_SECONDS = 60.0


@dataclass(slots=True)
class Failure:
    """The failures of one key since its last success.

    since, since_wall: when the first attempt failed, in monotonic seconds and in seconds since 1970.
    tries: failed attempts.
    reason: the error of the latest one.
    """

    since: float
    since_wall: float
    tries: int = 0
    reason: str = ""


class Failing:
    """The keys that have failed since they last reached S3; at most as many as there are dirty entries.

    `stuck_after`: the seconds for which a key must have failed to count as stuck.
    """

    def __init__(self, stuck_after: float) -> None:
        self._stuck_after = stuck_after
        # In the order of the first failure.
        self._failures: dict[bytes, Failure] = {}
        self._last_success = float("-inf")

    def failed(self, key: bytes, reason: str, now: float, wall: float) -> Failure:
        """Count a failed upload of `key` that may succeed later; `now` is monotonic, `wall` seconds since 1970."""
        failure = self._failures.get(key)
        if failure is None:
            failure = self._failures[key] = Failure(now, wall)
        failure.tries += 1
        failure.reason = reason
        return failure

    def succeeded(self, key: bytes, now: float) -> None:
        """Record that a write of `key` reached S3."""
        self._last_success = now
        self._failures.pop(key, None)

    def clear(self, key: bytes) -> None:
        """Remove a key that is no longer dirty, or is a dead letter."""
        self._failures.pop(key, None)

    def get(self, key: bytes) -> Failure | None:
        """Return the failures of `key`; None if its last upload did not fail."""
        return self._failures.get(key)

    def is_stuck(self, failure: Failure, now: float) -> bool:
        """Return whether a key with this failure is stuck."""
        return (
            failure.tries >= STUCK_TRIES
            and now - failure.since >= self._stuck_after
            and self._last_success > failure.since
        )

    def degraded(self, now: float) -> list[str]:
        """Return the reason why the node is degraded, if keys are stuck; else an empty list."""
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
