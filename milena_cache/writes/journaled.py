"""Coordination. Journaled append: turns a write into a dirty entry, once it is durable or in memory only.

What makes a write durable is behind `durable`. Records are appended in order, and their dirty entries are made in
the same order when they are reported as durable (`_appended`). So a write that is not durable yet is never served:
if the commit failed after a read had returned it, that read would have shown a value that the node does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from milena_cache.journal.record import Record
from milena_cache.memory.entries import Entries
from milena_cache.objects.etags import same_etag
from milena_cache.objects.version import UNKNOWN, Base
from milena_cache.objects.write_request import ENTRY_OVERHEAD, Ack, Change, Receipt
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_cache.writeback.dirty_writes import DirtyWrites
from milena_cache.writeback.loop import WriteBack
from milena_cache.writeback.uploads.s3_belief import S3Belief
from milena_cache.writes.durable import Durable
from milena_common.api.durability import MEMORY
from milena_common.runtime.clock import Clock

# Of a write that has become durable after its slot had become another node's.
LOST = (
    "another node owns the key's slot since the write began, so its outcome is unknown: it is kept, and may still "
    "take effect"
)


class JournaledWrites:
    """Appends writes to the journal, and knows those in flight.

    `acknowledged` counts writes by class: here those that are kept in memory only. Those of the journal are counted
    by their caller, since a durable write may not be acknowledged: its caller has given up, or the lease is over.
    """

    def __init__(
        self,
        durable: Durable[DirtyEntry],
        dirty: Dirty,
        dirty_writes: DirtyWrites,
        writeback: WriteBack,
        entries: Entries,
        clock: Clock,
        acknowledged: dict[str, int],
    ) -> None:
        self.draining = False
        # Returns True if the key's slot is not this node's any more since the given epoch.
        self.has_lost: Callable[[bytes, int], bool] = lambda key, owned_since: False
        self._durable = durable
        self._dirty = dirty
        self._dirty_writes = dirty_writes
        self._writeback = writeback
        self._entries = entries
        self._clock = clock
        self._acknowledged = acknowledged
        # By key, the last write that is queued for the journal or in a commit.
        self._last: dict[bytes, DirtyEntry] = {}
        # Those that are queued before the last one of their key.
        self._earlier: dict[bytes, list[DirtyEntry]] = {}
        self._bytes = 0
        self._keeping = 0
        # The belief of most writes, with the ownership of the last one; they share the object.
        self._nothing_known = S3Belief(UNKNOWN)

    def __contains__(self, key: bytes) -> bool:
        """Return True while a write of `key` is queued for the journal or in a commit."""
        return key in self._last

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys with a write that is queued for the journal or in a commit."""
        return iter(self._last)

    async def wait_for_commit(self) -> None:
        """Return after the next commit, whether it succeeded or not."""
        await self._durable.wait_commit()

    def rejection(self, change: Change) -> str:
        """Return why the change cannot enter the journal, one of `writer.FORCED`; "" if it can."""
        if self.draining:
            return "draining"
        return self._durable.rejection(change.target.cache_key) or ("" if self._has_room(change) else "dirty_limit")

    def rejection_of_all(self, changes: Sequence[Change]) -> str:
        """Return why the changes cannot enter the journal together; "" if they can."""
        for change in changes:
            if reason := self.rejection(change):
                return reason
        return "" if self._have_room(changes) else "dirty_limit"

    def _have_room(self, changes: Sequence[Change]) -> bool:
        return self._has_room_for(*_sizes(changes))

    def fit_in_memory(self, changes: Sequence[Change]) -> bool:
        """Return True if all the changes together can be kept in memory only."""
        if len(changes) == 1:
            return self.fits_in_memory(changes[0])
        return self._fits_in_memory(*_sizes(changes))

    def _has_room(self, change: Change) -> bool:
        return self._has_room_for(len(change.target.cache_key) + ENTRY_OVERHEAD, len(change.value or b""))

    def _has_room_for(self, keeping: int, size: int) -> bool:
        """Return True if entries of `keeping` bytes of overhead and `size` bytes of values may be added."""
        return self._dirty.has_room(self._bytes + keeping + size, self._keeping + keeping)

    def fits_in_memory(self, change: Change) -> bool:
        """Return True if the change can be kept in memory only."""
        return self._fits_in_memory(len(change.target.cache_key) + ENTRY_OVERHEAD, len(change.value or b""))

    def _fits_in_memory(self, keeping: int, size: int) -> bool:
        return not self.draining and self._dirty.fits_in_memory(size) and self._has_room_for(keeping, size)

    def append(self, change: Change, base: Base, timeout: float) -> asyncio.Future[None]:
        """Write the change to the journal; the future is done when it is durable and its dirty entry is made.

        Raises as `Durable.append` does.
        """
        entry, record = self._prepared(change, base)
        future = self._durable.append(record, entry, self._appended, timeout)
        self._has_queued(entry)
        return future

    def append_all(
        self, changes: Sequence[Change], bases: Sequence[Base], timeout: float
    ) -> list[asyncio.Future[None]]:
        """Write changes of different keys to the journal by one commit, as `append` does each."""
        prepared = [self._prepared(change, base) for change, base in zip(changes, bases, strict=True)]
        futures = self._durable.append_all(
            [record for _, record in prepared], [entry for entry, _ in prepared], self._appended, timeout
        )
        for entry, _ in prepared:
            self._has_queued(entry)
        return futures

    def append_for(self, receipt: Receipt, change: Change, timeout: float) -> None:
        """Do what `append` does over an unknown base, with `receipt` in place of the future."""
        entry, record = self._prepared(change, UNKNOWN)
        self._durable.append_for(receipt, record, entry, self._appended, timeout)
        self._has_queued(entry)

    def _prepared(self, change: Change, base: Base) -> tuple[DirtyEntry, Record]:
        """Return the dirty entry that the change is to become, and its record."""
        entry = self._entry(change, base, journaled=True)
        key = entry.key
        old = self._dirty.get(key)
        base = entry.belief.base if old is None else old.belief.base
        if key in self._last:
            old = self._last[key]
        if old is not None:
            entry.belief = entry.belief.behind(old.belief, deleted=old.deleted)
        belief = entry.belief
        record = Record(
            key,
            entry.version,
            change.value,
            base,
            belief.conditional,
            belief.owned_since,
            self._clock.wall(),
            entry.expires_at,
            # The record has no field for a second ETag; the two differ only after a conflict.
            isinstance(base, str) and same_etag(base, belief.keeps),
        )
        return entry, record

    def _has_queued(self, entry: DirtyEntry) -> None:
        self._bytes += entry.cost
        self._keeping += entry.keeping
        earlier = self._last.get(entry.key)
        if earlier is not None:
            self._earlier.setdefault(entry.key, []).append(earlier)
        self._last[entry.key] = entry

    def _appended(self, entry: DirtyEntry, durable: bool) -> str | None:
        since = entry.belief.owned_since
        self._bytes -= entry.cost
        self._keeping -= entry.keeping
        self._remove_queued(entry)
        if not durable:
            return None
        self._is_dirty(entry)
        return LOST if self.has_lost(entry.key, since) else None

    def _remove_queued(self, entry: DirtyEntry) -> None:
        """Forget an entry that is done.

        The last one of a key may be done before one that was queued earlier: (1) a write is in the journal, and
        waits for a holder of copies; (2) the next one waits in the queue for so long that it fails; (3) the holder
        confirms the first one, which is the last one again.
        """
        key, last = entry.key, self._last
        if key not in self._earlier:
            del last[key]
            return
        earlier = self._earlier[key]
        if last[key] is entry:
            last[key] = earlier.pop()
        else:
            earlier.remove(entry)
        if not earlier:
            del self._earlier[key]

    def remember(self, change: Change, base: Base) -> Ack:
        """Keep the change in memory only, and acknowledge it: a crash loses it until it is uploaded."""
        self._is_dirty(self._entry(change, base, journaled=False))
        self._acknowledged[MEMORY] += 1
        return Ack(MEMORY, change.etag, change.value)

    def remember_value(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Do what `remember` does for a put without options; False, with nothing changed, if it has to wait."""
        if key in self._last or not self._fits_in_memory(len(key) + ENTRY_OVERHEAD, len(value)):
            return False
        self._remember_value(key, value, owned_since)
        return True

    def remember_all(self, keys: list[bytes], values: list[bytes], owned_since: list[int]) -> bool:
        """Do what `remember_value` does for all of these puts, in order; else nothing, and return False.

        A key may come more than once. There is room if all together would fit as new entries. Nothing here awaits.
        """
        last = self._last
        if last:
            for key in keys:
                if key in last:
                    return False
        number = len(keys)
        keeping = ENTRY_OVERHEAD * number + sum([len(key) for key in keys])
        if not self._fits_in_memory(keeping, sum([len(value) for value in values])):
            return False
        at = 0
        while at < number:
            some = self.overwrite_many(keys, values, owned_since, at, number)
            if not some:
                # Not `remember_value`, which may say no: then the puts before this one would have been made alone.
                self._remember_value(keys[at], values[at], owned_since[at])
            at += some or 1
        return True

    def _remember_value(self, key: bytes, value: bytes, owned_since: int) -> None:
        entry = DirtyEntry(
            key,
            self._durable.next_version(owned_since),
            value,
            len(value),
            self._belief(key, UNKNOWN, owned_since),
            deleted=False,
            journaled=False,
            acknowledged_at=self._clock.now(),
        )
        self._is_dirty(entry)
        self._acknowledged[MEMORY] += 1

    def overwrite(self, key: bytes, value: bytes, owned_since: int) -> bool:
        """Replace the value of a dirty entry that is in memory only and waits for its upload; no entry is made.

        This is the usual case for a busy key in the class `memory`, and the reason why the class is fast. Returns
        False, with nothing changed, if the key's newest write is anything else.
        """
        entry = self._dirty.get(key)
        if entry is None or not entry.overwritable(owned_since) or key in self._last or self.draining:
            return False
        more = len(value) - entry.size
        if more > 0 and (
            not self._dirty.fits_in_memory(more) or not self._dirty.has_room(self._bytes + more, self._keeping)
        ):
            return False
        self._entries.fence_all((key,))
        self._dirty.revalue([entry], [value], 0, self._durable.next_version(owned_since))
        self._entries.change_feed.notify(key)
        self._entries.change_feed.event("set", key)
        self._acknowledged[MEMORY] += 1
        return True

    def overwrite_many(
        self, keys: list[bytes], values: list[bytes], owned_since: list[int], start: int, end: int
    ) -> int:
        """Do what `overwrite` does for the first of `keys` from `start` to `end`, in order; return of how many.

        The next one is of another kind, if any is left. A key may come more than once. Nothing here awaits, so the
        entries that are found are still overwritable when all of them get their values.
        """
        if self.draining:
            return 0
        find, last = self._dirty.get, self._last
        entries: list[DirtyEntry] = []
        more = 0
        newest = 0
        for at in range(start, end):
            key, since = keys[at], owned_since[at]
            entry = find(key)
            if entry is None or not entry.overwritable(since) or (last and key in last):
                break
            grown = len(values[at]) - entry.size
            if grown > 0:
                more += grown
            if since > newest:
                newest = since
            entries.append(entry)
        number = len(entries)
        if not number or (
            more
            and not (self._dirty.fits_in_memory(more) and self._dirty.has_room(self._bytes + more, self._keeping))
        ):
            return 0
        written = keys if number == len(keys) else keys[start : start + number]
        self._entries.fence_all(written)
        self._dirty.revalue(entries, values, start, self._durable.next_versions(newest, number))
        feed = self._entries.change_feed
        feed.notify_all(written)
        if feed.on_event is not None:
            for key in written:
                feed.on_event("set", key)
        self._acknowledged[MEMORY] += number
        return number

    def _entry(self, change: Change, base: Base, *, journaled: bool) -> DirtyEntry:
        value = change.value
        return DirtyEntry(
            change.target.cache_key,
            self._durable.next_version(change.owned_since),
            value,
            0 if value is None else len(value),
            self._belief(change.target.cache_key, base, change.owned_since, change.conditional, change.keeps),
            deleted=value is None,
            journaled=journaled,
            acknowledged_at=self._clock.now(),
            etag=change.etag,
            expires_at=change.expires_at,
        )

    def _belief(
        self, key: bytes, base: Base, owned_since: int, conditional: bool = False, keeps: str = ""
    ) -> S3Belief:
        maybe_absent = False
        if base is UNKNOWN and self._dirty.get(key) is None:
            base, maybe_absent = self._entries.base(key, owned_since)
        if base is not UNKNOWN or maybe_absent or conditional or keeps:
            return S3Belief(base, owned_since, maybe_absent, conditional=conditional, keeps=keeps)
        if owned_since != self._nothing_known.owned_since:
            self._nothing_known = S3Belief(UNKNOWN, owned_since)
        return self._nothing_known

    def _is_dirty(self, entry: DirtyEntry) -> None:
        self._entries.invalidate(entry.key)
        self._dirty_writes.replace(entry)
        self._writeback.acknowledged(entry)
        self._entries.change_feed.event("del" if entry.deleted else "set", entry.key)


def _sizes(changes: Sequence[Change]) -> tuple[int, int]:
    """Return the bytes of overhead and of values that changes take as entries."""
    keeping = sum([len(change.target.cache_key) + ENTRY_OVERHEAD for change in changes])
    return keeping, sum([len(change.value or b"") for change in changes])
