"""Coordination. The clean entries of a node together with the reads in flight that may replace them.

The two change together. Removing the entry alone when a key is written would not be enough:

    1. a GET misses and starts a read; S3 reads the old object and the reply is on its way
    2. a PUT of the key is acknowledged and uploaded, and its value becomes the entry
    3. the reply of step 1 arrives and replaces that entry: readers get the value from before the PUT

So every write calls `fence_reads`, which detaches the single-flight calls of the key: their results still go to the
readers that wait for them, but are not kept, and no later reader joins them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import floor
from typing import Any, Protocol

from milena_cache.memory.existence import Existence, Known
from milena_cache.memory.freshness import Freshness, Window
from milena_cache.memory.lru import Memory
from milena_cache.memory.single_flight import SingleFlight
from milena_cache.objects.entry import Entry, ExpiringEntry
from milena_cache.objects.etags import same_etag
from milena_cache.objects.expiry import is_expired
from milena_cache.objects.version import ABSENT, UNKNOWN, Base
from milena_common.api.errors import Overloaded
from milena_common.runtime.clock import Clock

# Keys that were changed by others while this node wrote them to S3.
MAX_OVERTAKEN = 10_000


class Copies(Protocol):
    """Copies of entries outside of the memory, which are dropped with them; see `milena_cache.disk_cache`."""

    def __contains__(self, key: bytes) -> bool:
        """True if there is a copy."""

    def forget(self, key: bytes) -> None:
        """Drop the copy of a key."""

    def confirmed(self, key: bytes, entry: Entry) -> None:
        """Drop the copy of a key unless it is of the version of `entry`, which S3 has just been seen to have."""

    def doubt_all(self) -> None:
        """Have every copy confirmed by S3 before it is served."""


class Entries:
    """The clean entries of one node, and its reads in flight. `copies`: None without a disk cache."""

    def __init__(self, memory: Memory, fetches: SingleFlight[Any], freshness: Freshness, clock: Clock) -> None:
        self.change_feed = memory.change_feed
        # Called with the key before each write of it; None without a subscriber.
        self.on_write: Callable[[bytes], None] | None = None
        self.existence = Existence(freshness, clock, fetches.late_after)
        # What S3 has by an event that came while the key was being written; UNKNOWN if several had different
        # things.
        self._overtaken: dict[bytes, Base] = {}
        self.copies: Copies | None = None
        self._memory = memory
        self._fetches = fetches
        self._freshness = freshness
        self._clock = clock

    def keep(self, key: bytes, entry: Entry) -> bool:
        """Put `entry` into memory; False if it does not fit there."""
        if self.copies is not None:
            self.copies.confirmed(key, entry)
        self.existence.clear_known(key)
        if self._overtaken and key in self._overtaken and not _is_state(entry, self._overtaken.pop(key)):
            self._memory.remove(key)
            self.change_feed.notify(key)
            return True
        if entry.value is None and not self._freshness.negative_ttl:
            self._memory.remove(key)
            # The reply is not kept, so no later reply can be compared with it: notify now, not at the next change.
            self.change_feed.notify(key)
            return True
        return self._memory.store(key, entry)

    def invalidate(self, key: bytes) -> bool:
        """Drop the entry of the object, and fence its reads; True if there was an entry."""
        self.fence_reads(key)
        self._memory.samples.dropped(key)
        if key in self._memory:
            self._memory.remove(key)
            return True
        self.change_feed.notify(key)
        return False

    def invalidate_unless(self, key: bytes, known: Known) -> None:
        """Drop the entry of the object, and fence its reads, unless it is what S3 was just seen to have.

        What a reply has shown of the object, a later read must not take back: (1) a put with an unknown outcome
        leaves the entry, to be revalidated; (2) a HEAD finds that put, and its reply has the ETag or size; (3)
        S3 fails, and the entry of before would be served as stale.
        """
        entry = self._memory.peek(key)
        if entry is None or not known.is_same(entry):
            self.invalidate(key)

    def invalidate_changed(self, key: bytes, state: Base) -> bool | None:
        """Drop the entry of an object that S3 has in `state` since some time, unless it is that; fence its reads.

        Return True if an entry was dropped, False if it is of that state, None if there was none. HEAD results are
        dropped in any case: an object may be written anew with the same ETag and other metadata. So are reads in
        flight: (1) the object becomes B while the entry is A, and a read of it begins; (2) it becomes A again, and
        the event of that arrives; (3) the read returns B, and is kept; (4) the event of step 1 arrives, and agrees.
        """
        entry = self._memory.peek(key)
        if entry is not None and _is_state(entry, state):
            self.fence_reads(key)
            return False
        return True if self.invalidate(key) else None

    def overtake(self, key: bytes, state: Base) -> None:
        """Record that S3 has, or had, the object in `state`, which arrived while this node writes it to S3.

        The next entry that is kept of the key is dropped unless it is of that state. Raises Overloaded if there are
        MAX_OVERTAKEN keys.
        """
        before = self._overtaken.get(key)
        if before is None and len(self._overtaken) >= MAX_OVERTAKEN:
            raise Overloaded("too many keys were changed by others while they were written; try again")
        self._overtaken[key] = state if before is None or _same(before, state) else UNKNOWN

    def in_flight(self) -> list[bytes]:
        """Return the keys of all objects with a read in flight, or with the result of a HEAD."""
        return [*self._fetches, *self.existence]

    def walk_entries(self) -> Iterator[list[bytes]]:
        """Iterate over the keys of all entries in parts; see `Memory.walk_keys`."""
        return self._memory.walk_keys()

    def fence_reads(self, key: bytes) -> None:
        """Detach the reads in flight of a key that is being written, and drop its HEAD result.

        A write through to S3 calls this twice. Before it: reads that began earlier may return the old object. After
        it: a read that began while the write was in flight may have reached S3 before the write did.
        """
        if self.on_write is not None:
            self.on_write(key)
        if self.copies is not None:
            self.copies.forget(key)
        self._fetches.detach(key)
        self.existence.clear_known(key)

    def fence_all(self, keys: Sequence[bytes]) -> None:
        """Do what `fence_reads` does for each of `keys`, which is nothing while nothing is being read."""
        if self.on_write is None and not self._fetches.by_key and not self.existence.has_any:
            return
        for key in keys:
            self.fence_reads(key)

    def mark_stale(self, key: bytes) -> None:
        """Have the entry revalidated before it is served again, because S3 may have changed.

        For a write whose outcome is unknown: the reply was lost, and S3 may hold the new object or the old one.
        Dropping the entry would lose what can be served if S3 fails; keeping its age would serve it as fresh.
        """
        self.existence.clear_known(key)
        if self.copies is not None:
            self.copies.forget(key)
        entry = self._memory.get(key)
        if entry is None:
            return
        if entry.value is None:
            self._memory.remove(key)
            return
        oldest = self._clock.now() - self._freshness.age_at_end_of_grace(key)
        checked_at = min(entry.checked_at, oldest)
        self._memory.store(
            key,
            ExpiringEntry(
                entry.value, entry.etag, checked_at, entry.owned_since, entry.expires_at, indeterminate=True
            ),
        )

    def mark_old(self, key: bytes, stamps: dict[tuple[int, int], tuple[float, int]]) -> bool:
        """Have the entry revalidated before it is served again, and fence its reads; True if it was younger.

        As `invalidate`, but the entry stays: if S3 has the same object still, no bytes are transferred, and if S3
        fails, it may be served. `stamps`: those of one caller's earlier calls, which entries share.
        """
        self.fence_reads(key)
        self.change_feed.notify(key)
        entry = self._memory.peek(key)
        if entry is None:
            return False
        if entry.value is None:
            self._memory.remove(key)
            return True
        # A whole number: a stamp of its own would take 120 bytes for each entry, which LRU_BYTES does not count.
        oldest = floor(self._clock.now() - self._freshness.age_at_end_of_grace(key))
        if entry.checked_at <= oldest:
            return False
        owned_since = entry.owned_since
        entry.stamp = stamps.setdefault((oldest, owned_since), (float(oldest), owned_since))
        return True

    def doubt_copies(self) -> None:
        """Have S3 confirm what is outside of the memory: of its keys it is not known whether they are concerned."""
        if self.copies is not None:
            self.copies.doubt_all()

    def found(self, key: bytes, known: Known) -> None:
        """Keep the result of a HEAD, unless a read of the value is in flight, whose result supersedes it."""
        if key not in self._fetches:
            self.existence.keep(key, known)
        self.change_feed.notify(key)  # the memory has no entry with which a later reply could be compared

    def _known(self, key: bytes, owned_since: int) -> Entry | None:
        """Return the entry that would be served without a request to S3; None if there is none."""
        if key not in self._memory:
            return None
        entry = self._memory.get(key)
        if entry is None or entry.owned_since < owned_since:
            return None
        age = self._clock.now() - entry.checked_at
        window = self._freshness.window(key, age, negative=entry.value is None)
        return entry if window in (Window.FRESH, Window.GRACE) else None

    def current(self, key: bytes, owned_since: int) -> Base:
        """Return the state of the object that a reader would get without a request to S3.

        Its ETag, ABSENT if it does not exist or has expired, UNKNOWN if S3 would be read.
        """
        entry = self._known(key, owned_since)
        if entry is None:
            return UNKNOWN
        if entry.value is None or is_expired(entry.expires_at, self._clock.wall()):
            return ABSENT
        return entry.etag or UNKNOWN

    def base(self, key: bytes, owned_since: int) -> tuple[Base, bool]:
        """Return the known state of S3, and True if the object has an expiry, so that it may be absent too.

        Unlike `current` this is S3's state: an expired object is there until the reaper has deleted it.
        """
        entry = self._known(key, owned_since)
        if entry is None:
            return UNKNOWN, False
        if entry.value is None:
            return ABSENT, False
        return entry.etag or UNKNOWN, bool(entry.expires_at)


def _is_state(entry: Entry, state: Base) -> bool:
    """True if the entry is of an object that S3 has in `state`."""
    if entry.value is None:
        return state is ABSENT
    return isinstance(state, str) and same_etag(entry.etag, state)


def _same(one: Base, other: Base) -> bool:
    return one is other or (isinstance(one, str) and isinstance(other, str) and same_etag(one, other))
