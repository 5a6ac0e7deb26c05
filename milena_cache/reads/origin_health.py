"""Pure. Whether S3 is believed to work, so that readers who have a copy need not each find out by waiting.

S3 as a whole is *suspect* after failures of several different keys without a success of any key between them. One
success clears that. A single object whose reads always fail says nothing about the others: its failure is
remembered for its own key, and only the readers of that key are served their copy without waiting.

A reader without a copy always asks S3: there is nothing to serve instead, and the success clears the suspicion.

Background reads (probes) look whether S3 answers again. Keys that are known to fail and keys that are not have
separate turns. Otherwise the readers of one bad object would take every turn, each probe would fail, and S3 would
stay suspect for all the others.
"""

from __future__ import annotations

from collections import OrderedDict

# Failures of so many different keys in a row make S3 suspect.
SUSPECT_KEYS = 3
# The same where not even a connection could be made, which hardly depends on the key.
SUSPECT_KEYS_UNCONNECTED = 2
# Seconds between two probes: of one key, and of either kind of keys while S3 is suspect.
PROBE_SECONDS = 1.0
# Seconds after which the failure of a key is forgotten, unless it fails again.
KEY_FAILURE_SECONDS = 10.0
# Keys whose failure is remembered; the one that failed longest ago is forgotten first.
MAX_FAILING_KEYS = 1024
# Seconds from one announcement that S3 fails to the next.
ANNOUNCE_SECONDS = 60.0


class _KeyFailure:
    """The remembered failure of one key: monotonic seconds of the last failure, and of the next permitted probe."""

    __slots__ = ("failed_at", "next_probe")

    def __init__(self, now: float) -> None:
        self.failed_at = now
        self.next_probe = now + PROBE_SECONDS


class OriginHealth:
    """The state of one node's S3. `now` is monotonic seconds, `key` a cache key."""

    def __init__(self) -> None:
        self.suspect = False
        # At most SUSPECT_KEYS of each: the different keys that failed since the last success.
        self._failed_keys: set[bytes] = set()
        self._unconnected_keys: set[bytes] = set()
        self._failing: OrderedDict[bytes, _KeyFailure] = OrderedDict()
        # While S3 is suspect: the next permitted probe of any key with a failure of its own, and of any other key.
        self._next_probe = {True: 0.0, False: 0.0}
        self._next_announcement = float("-inf")
        self._announced = False

    def __len__(self) -> int:
        """Return how many keys are remembered as failing."""
        return len(self._failing)

    def succeeded(self, key: bytes) -> bool:
        """Note that S3 answered a request about `key`. Return True if the end of an outage is to be logged."""
        self._failing.pop(key, None)
        self._failed_keys.clear()
        self._unconnected_keys.clear()
        self.suspect = False
        announced, self._announced = self._announced, False
        return announced

    def failed(self, key: bytes, now: float, *, unconnected: bool = False) -> bool:
        """Note that S3 failed for `key`. Return True if the beginning of an outage is to be logged."""
        failure = self._failing.get(key)
        if failure is None:
            self._failing[key] = _KeyFailure(now)
            if len(self._failing) > MAX_FAILING_KEYS:
                self._failing.popitem(last=False)
        else:
            failure.failed_at = now
            self._failing.move_to_end(key)
        if self.suspect:
            return False
        self._failed_keys.add(key)
        if unconnected:
            self._unconnected_keys.add(key)
        self.suspect = (
            len(self._failed_keys) >= SUSPECT_KEYS or len(self._unconnected_keys) >= SUSPECT_KEYS_UNCONNECTED
        )
        if not self.suspect:
            return False
        self._next_probe = {True: now + PROBE_SECONDS, False: now + PROBE_SECONDS}
        # An S3 that fails and answers by turns would fill the log with pairs of lines.
        if now < self._next_announcement:
            return False
        self._next_announcement = now + ANNOUNCE_SECONDS
        self._announced = True
        return True

    def expects_failure(self, key: bytes, now: float) -> bool:
        """Return True if a read of `key` from S3 is expected to fail, so that a servable copy goes before it."""
        return self.suspect or self._failure(key, now) is not None

    def may_probe(self, key: bytes, now: float) -> bool:
        """Return True if a read of `key` may be started in the background, and count it as started."""
        failure = self._failure(key, now)
        if failure is not None and now < failure.next_probe:
            return False
        if self.suspect:
            if now < self._next_probe[failure is not None]:
                return False
            self._next_probe[failure is not None] = now + PROBE_SECONDS
        if failure is not None:
            failure.next_probe = now + PROBE_SECONDS
        return True

    def _failure(self, key: bytes, now: float) -> _KeyFailure | None:
        failure = self._failing.get(key)
        if failure is not None and now - failure.failed_at >= KEY_FAILURE_SECONDS:
            del self._failing[key]
            return None
        return failure
