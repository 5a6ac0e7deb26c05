"""Coordination. Values kept in this process, so that reading them again asks nobody: the near cache.

An LRU, bounded in bytes and in age, kept right by the nodes: they tell of every change of a key that this
client has read (`milena_client.sync.near_cache_feed`, `milena_client.aio.near_cache_feed`), and by the client's own
writes. Four rules keep a value from being told when it is not the object's any more:

1. A read that brings a value to be kept leaves a mark before it is sent. Whatever speaks against the key meanwhile
   takes the mark away, and what the read then brings is not kept: it may be from before.
2. The nodes, *sources* here, are asked all the time whether they are there. A value is told only while each of them
   has answered a question that is not older than BOUND_SECONDS: so long the loss of a message can go unnoticed. The
   clock decides that at each hit, and not a thread that may be late.
3. When the connection to a source breaks, everything goes, and all marks: nobody knows what was on its way.
4. When the ring changes, everything goes: what an owner would tell of a slot is told by another one from now on.

What does not exist is not kept: programs ask for what does not exist when they wait for it.

A hit takes no lock. It may overlap with the change that makes it wrong, as a read that is under way may. Ctrl-C may
come between any two steps of a change, and what it leaves must be harmless: a key without an entry, never an entry
of which no message would be heard.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from milena_client.core.values import Key, KeyT
from milena_common.api.errors import InvalidRequest
from milena_common.runtime.blocking_clock import BlockingSystemClock

PING_SECONDS = 1.0
# A ping and its answer may take the rest.
BOUND_SECONDS = 3.0

# What an entry takes beside the bytes of its key and its value: objects, and places in three dictionaries.
ENTRY_OVERHEAD = 500


class ReadMark:
    """Reads of one key that overlap, and may keep what they bring. `began`: the first one, monotonic seconds."""

    __slots__ = ("began", "bytes", "found", "readers")

    def __init__(self, key: bytes, began: float) -> None:
        self.bytes = key
        self.began = began
        self.found: bytes | None = None
        self.readers = 0


class NearCache:
    """Values in the memory of this process, for one client, dropped when a node says that they changed.

    - `max_bytes`: bound of all entries, in bytes: keys, values and 500 bytes for each.
    - `max_age`: for how many seconds a value is kept at most.
    - `now`: stands in for time in tests.

    Its attributes `hits` and `misses` count lookups, `invalidations` counts keys that a node said had changed, kept
    or not, and `bytes` is what the entries take now. A program makes one, gives it to a client and reads these; the
    methods not listed here are for the client. Thread-safe. Raises InvalidRequest for
    bounds that are not more than 0.
    """

    def __init__(
        self, max_bytes: int, max_age: float, *, now: Callable[[], float] = BlockingSystemClock.now
    ) -> None:
        for name, bound in (("max_bytes", max_bytes), ("max_age", max_age)):
            if not bound > 0:
                raise InvalidRequest(f"{name}: {bound!r} is not more than 0")
        self.max_bytes = max_bytes
        self.max_age = max_age
        self.hits = 0
        self.misses = 0
        self.invalidations = 0
        self.bytes = 0
        self._now = now
        self._trusted_until = 0.0
        self._claimed = False
        # By key as the caller spells it: until when, and the value. So a hit need not encode the key.
        self._entries: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._spellings: dict[bytes, tuple[Key, ...]] = {}
        self._marks: dict[bytes, ReadMark] = {}
        self._sources: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        # Values are of no use to another process, to which no node tells of changes; the bounds are.
        if self._now is not BlockingSystemClock.now:
            raise TypeError("a NearCache with a clock of its own cannot be pickled")
        return NearCache, (self.max_bytes, self.max_age)

    def claim(self) -> None:
        """A client is made with it. Raises InvalidRequest if there is one already: it may be of another bucket."""
        if self._claimed:
            raise InvalidRequest("near_cache: belongs to another client already; each needs one of its own")
        self._claimed = True

    # Reading.

    def get(self, key: Key) -> bytes | None:
        """The value, if it is here and may be told."""
        try:
            until, value = self._entries[key]
            now = self._now()
            if now < until and now < self._trusted_until:
                self._entries.move_to_end(key)
                self.hits += 1
                return value
        except KeyError:  # it is not here, or went after it was found
            pass
        except TypeError:  # no key at all; what is asked next says so
            return None
        self.misses += 1
        return None

    def begin_read(self, key: Key) -> ReadMark | None:
        """A read of `key` begins whose value may be kept; `end` must follow. None: it cannot be a key."""
        encoded = _encoded(key)
        if encoded is None:
            return None
        now = self._now()
        with self._lock:
            mark = self._marks.get(encoded)
            if mark is None or mark.began + self.max_age <= now:
                mark = self._marks[encoded] = ReadMark(encoded, now)
            mark.readers += 1
        return mark

    def end_read(self, key: Key, mark: ReadMark | None, found: object) -> None:
        """The read has come to its end; `found` is kept if it is a value and nothing has spoken against it."""
        if mark is None:
            return
        with self._lock:
            mark.readers -= 1
            valid = self._marks.get(mark.bytes) is mark
            if valid and not mark.readers:
                del self._marks[mark.bytes]
            if found is None or type(found) is bytes:
                agrees = self._agrees(mark.bytes, mark if valid else self._marks.get(mark.bytes), found)
                if agrees and valid and found is not None:
                    self._store(key, mark, found)

    def observed(self, key: Key, value: bytes | None) -> None:
        """A read whose value is not kept has found this."""
        encoded = _encoded(key)
        if encoded is not None:
            with self._lock:
                self._agrees(encoded, self._marks.get(encoded), value)

    def _agrees(self, encoded: bytes, mark: ReadMark | None, value: bytes | None) -> bool:
        """Whether `value` is all that reads have found. Who has seen it must not be told anything older next.

        Of two values only the node knows which is the older one. So if anything else is kept, or was found by a
        read that overlaps, both go.
        """
        if value is not None and (mark is None or mark.found in (None, value)):
            spellings = self._spellings.get(encoded, ())
            kept = [self._entries.get(spelling) for spelling in spellings]
            if all(entry is None or entry[1] == value for entry in kept):
                if mark is not None:
                    mark.found = value
                return True
        self._drop(encoded)
        return False

    def _store(self, key: Key, mark: ReadMark, value: bytes) -> None:
        spellings = self._spellings.get(mark.bytes, ())
        if key in spellings:
            self._remove(key, mark.bytes)
        else:
            self._spellings[mark.bytes] = (*spellings, key)
        self.bytes += _cost(mark.bytes, value)
        self._entries[key] = (mark.began + self.max_age, value)
        while self.bytes > self.max_bytes and self._entries:
            oldest, (_, gone) = self._entries.popitem(last=False)
            encoded = _encoded(oldest) or b""
            self.bytes -= _cost(encoded, gone)
            others = tuple(each for each in self._spellings.get(encoded, ()) if each != oldest)
            if others:
                self._spellings[encoded] = others
            else:
                self._spellings.pop(encoded, None)
        if not self._entries:
            self.bytes = 0

    def _remove(self, key: Key, encoded: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _cost(encoded, entry[1])

    def get_many(self, keys: Iterable[KeyT]) -> dict[KeyT, bytes]:
        """Those values that are here."""
        return {key: value for key in keys if (value := self.get(key)) is not None}

    def begin_reads(self, keys: Iterable[Key]) -> list[ReadMark | None]:
        """Begin a read of each of `keys`, as `begin_read`; `end_reads` must follow."""
        return [self.begin_read(key) for key in keys]

    def end_reads(self, keys: Sequence[Key], marks: Sequence[ReadMark | None], found: Sequence[object]) -> None:
        """End the reads of `keys`, as `end_read`, with what was `found` for each."""
        for key, mark, value in zip(keys, marks, found, strict=True):
            self.end_read(key, mark, value)

    # Forgetting.

    def drop(self, keys: Iterable[Key]) -> None:
        """This client has written or deleted `keys`, or may have."""
        with self._lock:
            for key in keys:
                encoded = _encoded(key)
                if encoded is not None:
                    self._drop(encoded)

    def invalidate(self, keys: Iterable[bytes] | None) -> None:
        """A node tells that `keys` changed; None: any may have."""
        if keys is None:
            self.clear()
            return
        with self._lock:
            for key in keys:
                self.invalidations += 1
                self._drop(key)

    def _drop(self, encoded: bytes) -> None:
        self._marks.pop(encoded, None)
        for spelling in self._spellings.get(encoded, ()):
            self._remove(spelling, encoded)
        self._spellings.pop(encoded, None)

    def clear(self) -> None:
        """Drop all entries, also those that reads in flight will bring."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._marks.clear()
        self._entries.clear()
        self._spellings.clear()
        self.bytes = 0

    # The nodes.

    def confirmed(self, source: Hashable, asked_at: float) -> None:
        """A source has answered what was asked at `asked_at`, monotonic seconds. The first answer makes it one."""
        with self._lock:
            self._sources[source] = asked_at
            self._trusted_until = min(self._sources.values()) + BOUND_SECONDS

    def lost(self, source: Hashable) -> None:
        """The connection to a source is over."""
        with self._lock:
            if self._sources.pop(source, None) is not None:
                self._clear()
                self._trusted_until = min(self._sources.values(), default=0.0) + BOUND_SECONDS

    @property
    def now(self) -> Callable[[], float]:
        """The clock of `confirmed`."""
        return self._now

    def forked(self) -> None:
        """This process was forked, and nobody listens here; somebody may have held the lock."""
        self._lock = threading.Lock()
        self._sources.clear()
        self._trusted_until = 0.0
        self._clear()

    def drop_sources(self) -> None:
        """Begin anew without sources: their connections ended with the event loop that they belonged to."""
        with self._lock:
            self._sources.clear()
            self._trusted_until = 0.0
            self._clear()


def _encoded(key: Key) -> bytes | None:
    if isinstance(key, bytes):
        return key
    try:
        return key.encode() if isinstance(key, str) else None
    except UnicodeEncodeError:
        return None


def _cost(encoded: bytes, value: bytes) -> int:
    return len(encoded) + len(value) + ENTRY_OVERHEAD
