"""Pure. The cache entries in memory, bounded by number and by bytes; the eviction order decides which ones go.

A key that is removed stays in its place of the eviction order, with `GONE` for its entry: otherwise a key that is
written and uploaded again and again would be in a queue many times. It is dropped when an eviction comes to it, or
when there are many.

The bytes of an entry are key, value and a constant overhead, so that LRU_BYTES bounds the process's memory also
when values are small. Freshness is not decided here. Every change of a key's entry is announced to the change feed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from milena_cache.eviction.order import EntryTable
from milena_cache.eviction.policies import LRU, order_of
from milena_cache.memory.change_feed import ChangeFeed
from milena_cache.memory.read_samples import ReadSamples
from milena_cache.objects.entry import (
    GONE,
    MAX_USES,
    Entry,
    SampledEntry,
    as_plain,
    as_sampled,
    cost_of,
    differ,
)
from milena_common.api.errors import FailedPrecondition

# The share of the bytes and of the entries that may be pinned. With the share of blocks it leaves room for others.
PIN_SHARE = 0.25
MAX_PINNED = 32_768
# Pinned keys of a part of `walk_keys`.
PART_KEYS = 512

# Seconds within which two entries get the same `checked_at`, see `store`.
SAME_TIME = 0.01

# Removed keys may stay in the eviction order up to this number and a share of the entries; then each removal looks
# at SWEEP places for such keys.
MIN_GONE, GONE_SHARE, SWEEP = 1000, 8, 16


class Memory(EntryTable):
    """At most `max_entries` entries and `max_bytes` bytes; `policy` (EVICTION_POLICY) says what is evicted first.

    Other packages read it by `get` and `peek`, by iteration over the keys, and a loop over many hits by `find`.
    They change no entry. `change_feed` is notified of each entry that is removed or replaced by a different one.

    bytes: those of the entries and those that are lent, see `lend`
    lent: bytes that are used by something else than entries
    reclaim: called with the bytes of an entry that was stored, when there are more than `max_bytes` and bytes are
        lent; it may return some of them, and must return as many as the entry cannot do without
    on_evicted: called with each entry that was evicted, and whether the eviction order had found it of use; None:
        nothing needs them
    find: as `peek` without a call of Python, for the life of the memory. Of a key that was removed it may return an
        entry whose `checked_at` is earlier than any. A caller that serves the entry counts it in `uses`
    entries: by cache key, with `GONE` for those that were removed and are still in the eviction order
    samples: the events of a sample of the keys; their entries are of the type `SampledEntry`, or expire
    pinned: keys whose entries are not evicted; `pinned_bytes`: of these entries, PIN_SHARE of `max_bytes` at most
    evictions: entries evicted, by the bound that was exceeded
    not_admitted: entries that were not kept because the eviction order did not admit them
    """

    def __init__(self, max_entries: int, max_bytes: int, policy: str = LRU) -> None:
        super().__init__(max_entries, max_bytes)
        self.change_feed = ChangeFeed()
        self.samples = ReadSamples()
        self.reclaim: Callable[[int], None] = _keep_lent
        self.on_evicted: Callable[[bytes, Entry, bool], None] | None = None
        self.pinned_bytes = 0
        self.evictions = {"entries": 0, "bytes": 0}
        self.not_admitted = 0
        self.find: Callable[[bytes], Entry | None] = self.entries.get
        self._gone = 0
        self._order = order_of(policy, self)
        self._stamp = (0.0, 0)
        self.max_pinned_bytes = int(PIN_SHARE * max_bytes)

    def __len__(self) -> int:
        return len(self.entries) - self._gone

    def __contains__(self, key: bytes) -> bool:
        return self.peek(key) is not None

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys, in no particular order."""
        return (key for key, entry in self.entries.items() if entry is not GONE)

    def newest_first(self) -> Iterator[bytes]:
        """Iterate over the keys, approximately the most recently used first."""
        yield from tuple(self.unordered)
        yield from self._order.keys_newest_first()

    def walk_keys(self) -> Iterator[list[bytes]]:
        """Iterate over the keys in parts of some hundred, between which the memory may change.

        Each entry that is there from the beginning to the end is in a part, and others may be.
        """
        entries, unordered = self.entries, self.unordered
        # Before and after the others, since keys come out of the order and into it meanwhile. A copy of MAX_PINNED
        # keys takes 1 to 3 ms.
        before = unordered.copy()
        for part in chain(_in_parts(before), self._order.keys_in_parts()):
            yield [key for key in part if (entry := entries.get(key)) is not None and entry is not GONE]
        for part in _in_parts(tuple(unordered)):
            yield [
                key
                for key in part
                if key not in before and (entry := entries.get(key)) is not None and entry is not GONE
            ]

    def peek(self, key: bytes) -> Entry | None:
        """Return the entry without counting it as a use; None if there is none."""
        entry = self.entries.get(key)
        return None if entry is GONE else entry

    def get(self, key: bytes) -> Entry | None:
        """Return the entry, which counts as a use; None if there is none."""
        entry = self.entries.get(key)
        if entry is None or entry is GONE:
            return None
        if entry.uses < MAX_USES:
            entry.uses += 1
        return entry

    def read_sampled(self, key: bytes, entry: Entry) -> None:
        """Record a read that was served `entry`, which is of no plain type, and so may be in the sample."""
        if not self.samples.read(key, entry) and type(entry) is SampledEntry and self.entries.get(key) is entry:
            # The sample has become smaller. Its next hit is to pay nothing for that.
            self.entries[key] = as_plain(entry)

    def has_room(self, cost: int) -> bool:
        """True if one more entry of `cost` bytes evicts nothing."""
        return self.bytes + cost <= self.max_bytes and len(self) < self.max_entries

    def is_large(self, cost: int) -> bool:
        """True if an entry of `cost` bytes may not be kept even where there is room."""
        return cost > min(self._order.large, self.max_bytes)

    def store(self, key: bytes, entry: Entry) -> bool:
        """Keep `entry` and evict what no longer fits; False if it is not kept.

        That is if it alone is larger than `max_bytes`, or if the eviction order does not admit it.
        """
        if self.samples.threshold and self.samples.stored(key, entry) and type(entry) is Entry:
            entry = as_sampled(entry)
        found = self.entries.get(key)
        before = None if found is GONE else found
        if before is not None:
            self.bytes -= cost_of(key, before)
            if differ(before, entry):
                self.change_feed.notify(key)
        # Entries that are stored together share the stamp, which saves 120 bytes each. The price: an entry's age
        # may come out up to SAME_TIME too great.
        (checked_at, owned_since), (last_at, last_since) = entry.stamp, self._stamp
        if 0 <= checked_at - last_at < SAME_TIME:
            entry.stamp = self._stamp if owned_since == last_since else (last_at, owned_since)
        self._stamp = entry.stamp
        cost = cost_of(key, entry)
        pinned_before = cost_of(key, before) if before is not None and key in self.pinned else 0
        if cost > self.max_bytes - self.pinned_bytes + pinned_before:
            if before is not None:
                self._mark_gone(key)
            self.change_feed.notify(key)
            return False
        if cost > self._order.large and before is None and not self._order.admits(key, cost):
            self.not_admitted += 1
            self.change_feed.notify(key)
            return False
        # An entry that takes an old place in the eviction order must not be evicted as an old one.
        entry.uses = 0 if found is None else min(MAX_USES, found.uses + 1) if before is not None else 1
        if found is GONE:
            self._gone -= 1
        self.entries[key] = entry
        self.bytes += cost
        if pinned_before:
            self.pinned_bytes += cost - pinned_before
            if self.pinned_bytes > self.max_pinned_bytes:
                self.unpin(key)
        if self.bytes > self.max_bytes or len(self) > self.max_entries:
            if self.lent and self.bytes > self.max_bytes:
                self.reclaim(cost)
            self._order.make_room(entry)
        if found is None:
            self._order.add(key, cost)  # not before: the entries that were passed over were used earlier
        return True

    def remove(self, key: bytes) -> None:
        """Remove the entry, if there is one."""
        entry = self.peek(key)
        if entry is not None:
            self.bytes -= cost_of(key, entry)
            self._mark_gone(key)
            self.change_feed.notify(key)
        elif self.change_feed.drop_copy is not None:
            self.change_feed.drop_copy(key)

    def pin(self, key: bytes) -> bool:
        """Keep the entry from being evicted; False if there is none, or it is pinned already.

        It is pinned until it is unpinned or removed, or replaced by an entry for which PIN_SHARE has no room.
        Raises FailedPrecondition if it has none for this one.
        """
        entry = self.peek(key)
        if entry is None or key in self.pinned:
            return False
        cost = cost_of(key, entry)
        self.check_pins(1, cost)
        self.pinned.add(key)
        self.pinned_bytes += cost
        return True

    def take_out_pinned(self) -> bool:
        """Look for pinned keys at some places of the eviction order, and take them out; False if it has none.

        Some are found later: an eviction that comes to a hundred thousand of them would take as many microseconds.
        """
        if len(self.unordered) == len(self.pinned):
            return False
        self._order.sweep_gone(SWEEP)
        return True

    def unpin(self, key: bytes) -> bool:
        """Let the entry be evicted again; False if it was not pinned."""
        if key not in self.pinned:
            return False
        self.pinned.discard(key)
        cost = cost_of(key, self.entries[key])
        self.pinned_bytes -= cost
        if key in self.unordered:
            self.unordered.discard(key)
            self._order.add(key, cost)
        return True

    def check_pins(self, number: int, size: int) -> None:
        """Raise FailedPrecondition unless `number` more entries of `size` bytes in all can be pinned."""
        if self.pinned_bytes + size > self.max_pinned_bytes:
            raise FailedPrecondition(
                f"{self.pinned_bytes} bytes are pinned here, and {self.max_pinned_bytes} at most can be, which is "
                f"{PIN_SHARE:.0%} of LRU_BYTES; {size} more were to be"
            )
        if len(self.pinned) + number > (limit := min(MAX_PINNED, int(PIN_SHARE * self.max_entries))):
            raise FailedPrecondition(
                f"{len(self.pinned)} entries are pinned here, and {limit} at most can be, which is "
                f"{PIN_SHARE:.0%} of LRU_SIZE up to {MAX_PINNED}; {number} more were to be"
            )

    def lend(self, size: int) -> None:
        """Use `size` bytes of `max_bytes` for something else, and evict entries for them; negative: return them.

        The caller lends less than `max_bytes` and `max_pinned_bytes` leave in all.
        """
        self.lent += size
        self.bytes += size
        if size > 0 and self.bytes > self.max_bytes:
            self._order.make_room(None)

    def admit_as(self, whole: int) -> None:
        """Admit large entries as a memory of `whole` bytes does, of which this one has a sample of the keys."""
        self._order.large = self._order.large * whole // self.max_bytes

    def _mark_gone(self, key: bytes) -> None:
        if key in self.pinned:
            self.pinned.discard(key)
            self.pinned_bytes -= cost_of(key, self.entries[key])
            if key in self.unordered:
                self.unordered.discard(key)
                del self.entries[key]
                return
        self.entries[key] = GONE
        self._gone += 1
        if self._gone > MIN_GONE + len(self.entries) // GONE_SHARE:
            self._order.sweep_gone(SWEEP)

    # ---- for the eviction order, see `EntryTable`

    def exceeded(self) -> str:
        if self.bytes > self.max_bytes:
            return "bytes"
        return "entries" if len(self) > self.max_entries else ""

    def remove_gone(self, key: bytes) -> None:
        del self.entries[key]
        self._gone -= 1

    def evict(self, key: bytes, entry: Entry, proven: bool = False) -> None:
        self.evictions[self.exceeded()] += 1
        del self.entries[key]
        self.bytes -= cost_of(key, entry)
        self.change_feed.evicted(key)
        if self.on_evicted is not None:
            self.on_evicted(key, entry, proven)


def _in_parts(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    left = iter(keys)
    while part := list(islice(left, PART_KEYS)):
        yield part


def _keep_lent(cost: int) -> None:
    """Return no lent bytes: while nothing is lent, there are none."""
