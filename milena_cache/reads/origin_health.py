"""Pure. A circuit breaker for reads of S3: readers with a servable entry do not wait for a read that will fail.

S3 as a whole is *suspect* after failures of several different keys without a success in between; one success clears
that. A single object whose reads always fail is no evidence about S3: its failure is remembered for its key alone,
and only the readers of that key are served their entry without waiting. A reader without an entry always sends its
request: there is nothing to serve instead, and a success clears the suspicion.

Background reads (probes) detect when S3 works again. Keys that are known to fail and all other keys have separate
probe slots, one each every PROBE_SECONDS. With one slot for both: (1) an outage ends, but object X still fails; (2)
X is read more often than all else, and its reads take every slot; (3) each probe fails, and S3 stays suspect for
all keys.
"""

from __future__ import annotations

from collections import OrderedDict

# Number of different keys whose failures in a row make S3 suspect.
SUSPECT_KEYS = 3
# The same for failures to connect, which hardly depend on the key.
SUSPECT_KEYS_UNCONNECTED = 2
# Seconds between two probes: of one key, and of either kind of keys while S3 is suspect.
PROBE_SECONDS = 1.0
# Seconds after which the failure of a key is dropped, unless it fails again.
KEY_FAILURE_SECONDS = 10.0
# Keys whose failure is remembered; beyond that the one that failed longest ago is dropped.
MAX_FAILING_KEYS = 1024
# Minimum seconds between two log lines that S3 fails.
ANNOUNCE_SECONDS = 60.0


class _KeyFailure:
    """The remembered failure of one key.

    failed_at: the last failure, monotonic seconds
    next_probe: when the next probe is allowed, monotonic seconds
    """

    __slots__ = ("failed_at", "next_probe")

    def __init__(self, now: float) -> None:
        self.failed_at = now
        self.next_probe = now + PROBE_SECONDS


class OriginHealth:
    """The health of S3 by the results of one node's requests. `now` is monotonic seconds, `key` a cache key."""

    def __init__(self) -> None:
        self.suspect = False
        # The different keys that failed since the last success, at most SUSPECT_KEYS in each set.
        self._failed_keys: set[bytes] = set()
        self._unconnected_keys: set[bytes] = set()
        self._failing: OrderedDict[bytes, _KeyFailure] = OrderedDict()
        # While S3 is suspect, when the next probe is allowed: True for keys with a remembered failure, False for
        # all others.
        self._next_probe = {True: 0.0, False: 0.0}
        self._next_announcement = float("-inf")
        self._announced = False

    def __len__(self) -> int:
        """Return how many keys are remembered as failing."""
        return len(self._failing)

    def succeeded(self, key: bytes) -> bool:
        """Record that S3 replied to a request about `key`. Return True if the end of an outage is to be logged."""
        self._failing.pop(key, None)
        self._failed_keys.clear()
        self._unconnected_keys.clear()
        self.suspect = False
        announced, self._announced = self._announced, False
        return announced

    def failed(self, key: bytes, now: float, *, unconnected: bool = False) -> bool:
        """Record that S3 failed for `key`. Return True if the beginning of an outage is to be logged.

        `unconnected`: no connection could be made.
        """
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
        # An S3 that fails and recovers again and again would fill the log with pairs of lines.
        if now < self._next_announcement:
            return False
        self._next_announcement = now + ANNOUNCE_SECONDS
        self._announced = True
        return True

    def expects_failure(self, key: bytes, now: float) -> bool:
        """True if a read of `key` from S3 is expected to fail, so that a servable entry is served at once."""
        return self.suspect or self._failure(key, now) is not None

    def may_probe(self, key: bytes, now: float) -> bool:
        """True if a background read of `key` may begin; it is then counted as begun."""
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
