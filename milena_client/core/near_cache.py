"""Coordination. The near cache: values kept in this process, so that reading them again sends nothing.

An LRU, bounded in bytes and in age. The nodes push an invalidation for every change of a key that this client has
read (`near_cache_feed` of `milena_client.aio` and `milena_client.sync`), and the client drops the keys that it
writes. Four rules keep a value from being returned when it is not the object's any more:

1. A read that brings a value to be kept leaves a mark before it is sent. Every invalidation of the key takes the
   mark away, and a value whose mark is gone is not kept. Without that: a read is sent, the node replies with the
   old value and then pushes the invalidation for a write; the push is handled first, finds no entry, and the reply
   then stores the old value, whose change the node has reported already and will not report again.
2. The nodes, *sources* here, are pinged periodically. A value is returned only while each of them has replied to a
   ping that was sent at most BOUND_SECONDS ago: a lost push can go unnoticed for that long at most. Each hit
   compares with the clock; a thread that clears the cache after the bound could be late.
3. When the connection to a source breaks, all entries and all marks go: pushes may have been lost with it.
4. When the ring changes, all entries and marks go: the changes of a slot are reported by its new owner from now on,
   which has no record of what this client has read from the old one.

The absence of an object is not kept: programs that wait for an object read its key until it exists.

A hit takes no lock. It may overlap with the change that makes it wrong, as any read in flight may. Ctrl-C may come
between any two steps of a change, and what it leaves must be harmless: a key without an entry, never an entry whose
invalidation would find nothing to remove.
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
# Greater than PING_SECONDS by the time that a ping and its reply may take.
BOUND_SECONDS = 3.0

# Bytes of an entry beside those of its key and its value: objects, and places in three dictionaries.
ENTRY_OVERHEAD = 500


class ReadMark:
    """Reads of one key that overlap, and whose values may be kept.

    - `bytes`: the key.
    - `began`: when the first of them began, in monotonic seconds: the age of the entry counts from there.
    - `found`: the value that the ended ones have found; None: none has ended.
    - `readers`: how many have not ended.
    """

    __slots__ = ("began", "bytes", "found", "readers")

    def __init__(self, key: bytes, began: float) -> None:
        self.bytes = key
        self.began = began
        self.found: bytes | None = None
        self.readers = 0


class NearCache:
    """Values in the memory of this process, for one client, dropped when a node reports that they changed.

    - `max_bytes`: bound of all entries, in bytes: keys, values and 500 bytes for each.
    - `max_age`: for how many seconds a value is kept at most.
    - `now`: replaces the clock in tests.

    Its attributes `hits` and `misses` count lookups, `invalidations` counts keys that a node reported as changed,
    kept or not, and `bytes` is the present size of the entries. A program makes one, gives it to a client and reads
    these; the methods not listed here are for the client. Thread-safe. Raises InvalidRequest for bounds that are
    not more than 0.
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
        # By key as the caller spells it, so that a hit need not encode the key: until when, and the value.
        self._entries: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()
        self._spellings: dict[bytes, tuple[Key, ...]] = {}
        self._marks: dict[bytes, ReadMark] = {}
        self._sources: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        # Values are of no use to another process, to which no node reports changes; the bounds are.
        if self._now is not BlockingSystemClock.now:
            raise TypeError("a NearCache with a clock of its own cannot be pickled")
        return NearCache, (self.max_bytes, self.max_age)

    def claim(self) -> None:
        """Belong to one client. Raises InvalidRequest for a second one: its keys may be of another bucket."""
        if self._claimed:
            raise InvalidRequest("near_cache: belongs to another client already; each needs one of its own")
        self._claimed = True

    # Reading.

    def get(self, key: Key) -> bytes | None:
        """Return the value of `key` if it is here and may be returned, else None."""
        try:
            until, value = self._entries[key]
            now = self._now()
            if now < until and now < self._trusted_until:
                self._entries.move_to_end(key)
                self.hits += 1
                return value
        except KeyError:  # it is not here, or was removed by another thread between the two look-ups
            pass
        except TypeError:  # not a key at all: the read that follows raises that
            return None
        self.misses += 1
        return None

    def begin_read(self, key: Key) -> ReadMark | None:
        """Begin a read of `key` whose value may be kept, before it is sent; `end_read` must follow.

        Return its mark, which it shares with reads that overlap; None for what cannot be a key.
        """
        encoded = _encoded(key)
        if encoded is None:
            return None
        now = self._now()
        with self._lock:
            # An entry's age counts from its mark. A read that shared a mark as old as `max_age` would bring an
            # entry that is expired at once, and under constant overlapping reads nothing would ever be kept.
            mark = self._marks.get(encoded)
            if mark is None or mark.began + self.max_age <= now:
                mark = self._marks[encoded] = ReadMark(encoded, now)
            mark.readers += 1
        return mark

    def end_read(self, key: Key, mark: ReadMark | None, found: object) -> None:
        """End the read of `key`, and keep what it `found` if that is a value and the mark is still valid."""
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
        """Compare with the value that a read without a mark has found, and drop the key if they differ.

        None: there is no such object.
        """
        encoded = _encoded(key)
        if encoded is not None:
            with self._lock:
                self._agrees(encoded, self._marks.get(encoded), value)

    def _agrees(self, encoded: bytes, mark: ReadMark | None, value: bytes | None) -> bool:
        """Return True if `value` is all that reads have found; else drop the key.

        A program that has seen a value must not get an older one next. Which of two values is the older one
        can be decided by the node only: a read may be overtaken by a later one on another connection, and then its
        older value arrives last. So if another value is kept, or was found by a read that overlaps, both go.
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
        # The spelling before the entry: interrupted between the two, a key has a spelling without an entry.
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
        # An interruption between a change of the entries and of the sum leaves a wrong sum. It is corrected here,
        # or it would shrink the cache permanently.
        if not self._entries:
            self.bytes = 0

    def _remove(self, key: Key, encoded: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= _cost(encoded, entry[1])

    def get_many(self, keys: Iterable[KeyT]) -> dict[KeyT, bytes]:
        """Return the values that are here, by key."""
        return {key: value for key in keys if (value := self.get(key)) is not None}

    def begin_reads(self, keys: Iterable[Key]) -> list[ReadMark | None]:
        """Begin a read of each of `keys`, as `begin_read`; `end_reads` must follow."""
        return [self.begin_read(key) for key in keys]

    def end_reads(self, keys: Sequence[Key], marks: Sequence[ReadMark | None], found: Sequence[object]) -> None:
        """End the reads of `keys`, as `end_read`, with what was `found` for each."""
        for key, mark, value in zip(keys, marks, found, strict=True):
            self.end_read(key, mark, value)

    # Dropping.

    def drop_keys(self, keys: Iterable[Key]) -> None:
        """Drop `keys`, which this client has written or deleted, or may have."""
        with self._lock:
            for key in keys:
                encoded = _encoded(key)
                if encoded is not None:
                    self._drop(encoded)

    def invalidate_keys(self, keys: Iterable[bytes] | None) -> None:
        """Drop `keys`, which a node reports as changed; None: any key may have changed."""
        if keys is None:
            self.clear()
            return
        with self._lock:
            for key in keys:
                self.invalidations += 1
                self._drop(key)

    def _drop(self, encoded: bytes) -> None:
        # The spellings go last. Interrupted before that, the key has spellings without entries, which the next
        # invalidation removes; in the other order, it would have entries that no invalidation finds.
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

    def confirmed(self, source: Hashable, sent_at: float) -> None:
        """Trust `source` from `sent_at` on, monotonic seconds: it has replied to a ping that was sent then.

        The first reply makes it one of the sources. The time is that of the ping, and not of the reply: what
        the node pushed before the ping reached it has arrived here; later pushes may be lost.
        """
        with self._lock:
            self._sources[source] = sent_at
            self._trusted_until = min(self._sources.values()) + BOUND_SECONDS

    def lost(self, source: Hashable) -> None:
        """Remove `source`, whose connection has ended, and all entries with it."""
        with self._lock:
            if self._sources.pop(source, None) is not None:
                self._clear()
                self._trusted_until = min(self._sources.values(), default=0.0) + BOUND_SECONDS

    @property
    def now(self) -> Callable[[], float]:
        """The clock of `confirmed`, monotonic seconds."""
        return self._now

    def forked(self) -> None:
        """Begin anew in a forked process: it has no sources, and a thread of the parent may have held the lock."""
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
