"""Coordination. The disk cache of one node: what enters, what is returned, and what is dropped.

**In.** An entry that the memory evicts is written if the eviction policy had found it of use, or if its key was
evicted before, lately (`Ghost`): so what is read once is never written. It waits in a queue with a bound; without
room there it is dropped, and counted. Writes take tokens of DISK_CACHE_WRITE_BYTES_PER_SECOND. When the node stops,
the entries used last are written too, whatever their keys.

**Out.** The oldest segment is dropped for room. Records of it that were read since are written again, up to
REINSERTED of its bytes, as if they had been evicted just now.

**Reading.** A read takes one of some threads, and is given up after READ_SECONDS. Whether the copy may be served is
decided by its reader, with the same rules as for an entry in memory: the stamp of the returned entry is that of the
last confirmation by S3 in this process; without one it is older than any.

**Failing.** Any error of the file system ends the cache until the node is started again: it is a disk that does not
work, or is full. A record that is not what was written is a miss.

All decisions are made in the event loop. Places in the log come into the index there, when the write has ended, and
only if nothing has dropped the key since it was evicted (`write_queue`). A record is returned only if the index has
its place before *and* after it was read: (1) a read of the record begins; (2) a write of the key is acknowledged;
(3) the record arrives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from math import ceil, inf
from typing import Protocol

from milena_cache.disk_cache.files import Threads
from milena_cache.disk_cache.index import Found, Index
from milena_cache.disk_cache.record import MAX_TEXT_BYTES, ROW, Damaged, Record, hash_of, record_bytes, version_of
from milena_cache.disk_cache.segments import Segment, SegmentLog
from milena_cache.disk_cache.write_queue import WriteQueue
from milena_cache.eviction.ghost import Ghost
from milena_cache.objects.entry import Entry, differ, entry_of
from milena_cache.objects.expiry import is_expired
from milena_common.limits.token_bucket import TokenBucket
from milena_common.runtime.clock import Clock
from milena_common.runtime.completion import done_within

log = logging.getLogger(__name__)

# Reads in progress or waiting for a thread; further ones are misses.
MAX_READS = 256
# After so long S3 is asked instead.
READ_SECONDS = 1.0
# Bytes of one write.
BATCH_BYTES = 2**20
# The part of a segment's bytes that is written again when it is dropped: together with what was new it bounds what
# the disk has to write for what comes in, 1 / (1 - 0.2).
REINSERTED = 0.2
# Rows that are handled in one step of the event loop, about 1 ms.
STEP = 1000
# Seconds for completing the log at the end.
CLOSE_SECONDS = 2.0
# Confirmations are kept in tenths of a second since the start.
_UNITS = 10
_LOW = 0xFFFFFFFF


class Keys(Protocol):
    """Keys that must not be written."""

    def __contains__(self, key: bytes) -> bool:
        """True if the key's newest value is dirty."""


class Counts:
    """What has happened since the start.

    hits: reads that got a copy; misses: those for whose key there was none; busy: those that found MAX_READS others
    late: reads that took longer than READ_SECONDS
    written: records; reinserted: those of them that were written again for room; dropped: values without room in
    the queue; not_admitted: evicted values that were not admitted
    damaged: records that were not what was written; errors: of the file system
    """

    def __init__(self) -> None:
        self.hits = self.misses = self.busy = self.late = 0
        self.written = self.reinserted = self.dropped = self.not_admitted = 0
        self.damaged = self.errors = 0


class DiskCache:
    """The disk cache of one node. Implements `entries.Copies`, and `status.Concern`.

    problem: why it is switched off; "" while it works
    loaded: True once the index has what earlier processes have left
    load_seconds: how long that took
    """

    def __init__(self, segments: SegmentLog, threads: Threads, dirty: Keys, clock: Clock, rate: float) -> None:
        self.counts = Counts()
        self.problem = ""
        self.loaded = False
        self.load_seconds = 0.0
        self.queue = WriteQueue()
        self._log = segments
        self._threads = threads
        self._dirty = dirty
        self._clock = clock
        self._index = Index()
        self._ghost = Ghost()
        self._tokens = TokenBucket(rate, clock.now())
        self._started = clock.now()
        # What was confirmed up to this time, in _UNITS, has to be confirmed again.
        self._doubted = 0
        self._reading = 0
        self._max_record = min(segments.segment_bytes // 4, self.queue.max_bytes // 2)
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of records that reads find."""
        return len(self._index)

    def __contains__(self, key: bytes) -> bool:
        return self.queue.get(key) is not None or self._index.find_entry(hash_of(key)) is not None

    @property
    def used_bytes(self) -> int:
        """Return the size of the files."""
        return self._log.used_bytes

    @property
    def max_bytes(self) -> int:
        return self._log.max_bytes

    @property
    def written_bytes(self) -> int:
        return self._log.written

    @property
    def works(self) -> bool:
        """True unless it is switched off."""
        return not self.problem

    def not_ready(self) -> list[str]:
        """Return nothing: the node serves without this cache."""
        return []

    def degraded(self) -> list[str]:
        """Return that the cache is switched off, if it is."""
        return [f"disk cache: switched off until the next start: {self.problem}"] if self.problem else []

    # ---- what happens to entries in memory

    def evicted(self, key: bytes, entry: Entry, proven: bool) -> None:
        """Consider an entry that the memory has evicted. `proven`: the eviction policy had found it of use."""
        size = self._size(key, entry)
        if not size:
            return
        if self._is_kept(key, entry):
            return
        if not proven and not self._ghost.pop_key(key):
            self._ghost.add(key, size / self._log.max_bytes)
            self.counts.not_admitted += 1
            return
        self._add(key, entry, size)

    def forget(self, key: bytes) -> None:
        """Drop the copy of a key, because the next read of it may return something else."""
        if self.problem:
            return
        self.queue.drop_item(key)
        self._index.remove_key(hash_of(key))

    def confirmed(self, key: bytes, entry: Entry) -> None:
        """Drop the copy of a key unless it is of the version of `entry`, which S3 has just been seen to have."""
        if self.problem:
            return
        item = self.queue.get(key)
        if item is not None:
            if entry.indeterminate or differ(item.entry, entry):
                self.queue.drop_item(key)
            else:
                item.entry = entry
        if entry.value is None or entry.indeterminate or not entry.etag:
            self._index.remove_key(hash_of(key))
        else:
            self._confirm(key, entry)

    def doubt_all(self) -> None:
        """Have every copy confirmed by S3 before it is served: something has changed that is not known by key."""
        self._doubted = ceil((self._clock.now() - self._started) * _UNITS) + 1

    # ---- reading

    async def read_copy(self, key: bytes) -> Entry | None:
        """Return the copy of a key, to be served by its stamp as an entry in memory; None if there is none."""
        if self.problem:
            return None
        item = self.queue.get(key)
        if item is not None:
            self.counts.hits += 1
            return self._entry(
                Record(key, item.entry.etag, item.entry.expires_at, item.entry.value or b""), item.entry
            )
        hash_ = hash_of(key)
        found = self._index.find_entry(hash_)
        segment = None if found is None else self._log.segments.get(found.number)
        if found is None or segment is None:
            if found is not None:
                self._index.remove_key(hash_)  # of a segment whose table was damaged
            self.counts.misses += 1
            return None
        if self._reading >= MAX_READS:
            self.counts.busy += 1
            return None
        record = await self._record(segment, hash_, found)
        if record is None or record.key != key:
            return None
        now = self._index.find_entry(hash_)
        if now is None or (now.number, now.offset) != (found.number, found.offset):
            return None
        self._index.mark_used(hash_)
        self.counts.hits += 1
        return self._entry(record, now)

    async def _record(self, segment: Segment, hash_: int, found: Found) -> Record | None:
        self._reading += 1
        segment.readers += 1
        try:
            reading = self._threads.begin_read(partial(self._log.read_record, segment, found.offset, found.length))
        except RuntimeError:  # the threads have ended: the node stops
            self._read_finished(segment)
            return None

        def finished(future: asyncio.Future[Record]) -> None:
            self._read_finished(segment)
            if not future.cancelled():
                future.exception()  # marks it as retrieved: its reader may have given up

        reading.add_done_callback(finished)
        if not await done_within(reading, READ_SECONDS):
            self.counts.late += 1
            return None
        try:
            return reading.result()
        except Damaged as error:
            self.counts.damaged += 1
            log.error("disk cache: %s, at byte %d: %s; S3 is read instead", segment.name, found.offset, error)
            self._index.remove_at(hash_, found.number, found.offset)
        except OSError as error:
            self._fail(error)
        return None

    def _read_finished(self, segment: Segment) -> None:
        self._reading -= 1
        segment.readers -= 1
        if segment.dropped and not segment.readers:
            self._remove(segment)

    def _entry(self, record: Record, confirmed: Found | Entry) -> Entry:
        """Return a copy as an entry, with the stamp of its last confirmation."""
        if isinstance(confirmed, Entry):
            units, owned_since = self._units(confirmed.checked_at), confirmed.owned_since
        else:
            units, owned_since = confirmed.confirmed, confirmed.owned_since
        if units <= self._doubted:
            return entry_of(record.value, record.etag, -inf, -1, record.expires_at)
        checked_at = self._started + (units - 1) / _UNITS
        return entry_of(record.value, record.etag, checked_at, owned_since, record.expires_at)

    # ---- writing

    async def run(self) -> None:
        """Load what earlier processes have left, and write what comes into the queue, until cancelled."""
        try:
            await self._load()
            while not self.problem:
                self._wake.clear()
                if self.queue.has_waiting:
                    await self._write_batch()
                    self._progress.set()
                else:
                    await self._wake.wait()
        except OSError as error:
            self._fail(error)

    async def save(self, keys: Iterable[bytes], peek: Callable[[bytes], Entry | None], until: float) -> int:
        """Write the entries that the memory has of `keys`, the hottest first, until `until` (monotonic seconds).

        The node serves meanwhile, and changes drop copies as ever. Returns how many were written.
        """
        before, size_saved = self.counts.written, 0
        for number, key in enumerate(keys):
            if number % STEP == STEP - 1:
                await asyncio.sleep(0)
            while self.works and self.queue.bytes + self._max_record > self.queue.max_bytes:
                if self._clock.now() >= until:
                    break
                await self._progressed(until)
            if self.problem or self._clock.now() >= until or size_saved > self._log.max_bytes // 2:
                break
            # Looked up only now: while this waited for room, a write of the key may have dropped it.
            entry = peek(key)
            size = 0 if entry is None else self._size(key, entry)
            if entry is not None and size and not self._is_kept(key, entry):
                size_saved += size
                self._add(key, entry, size)
        while self.works and len(self.queue) and self._clock.now() < until:
            await self._progressed(until)
        return self.counts.written - before

    async def close(self) -> None:
        """Complete the log, so that the next start is quick. `run` has been cancelled."""
        if not self.problem:
            self.queue.drop_all()
            completing = self._threads.begin_write(self._log.complete)
            completing.add_done_callback(lambda future: future.cancelled() or future.exception())
            if await done_within(completing, CLOSE_SECONDS) and (error := completing.exception()) is not None:
                log.error("disk cache: its last segment could not be completed: %s", error)
        self.problem = self.problem or "the node stops"
        self._close_files()
        self._threads.close()

    def _size(self, key: bytes, entry: Entry) -> int:
        """Return the bytes that an entry would take; 0 if it may not be written."""
        value = entry.value
        if self.problem or value is None or entry.indeterminate or not entry.etag or key in self._dirty:
            return 0
        if is_expired(entry.expires_at, self._clock.wall()) or max(len(key), 4 * len(entry.etag)) > MAX_TEXT_BYTES:
            return 0
        size = record_bytes(key, entry.etag, value)
        return size if size <= self._max_record else 0

    def _is_kept(self, key: bytes, entry: Entry) -> bool:
        """True if this version of the key is in the log or the queue; then it is confirmed as `entry` is."""
        item = self.queue.get(key)
        if item is not None and not differ(item.entry, entry):
            item.entry = entry
            return True
        return self._confirm(key, entry)

    def _confirm(self, key: bytes, entry: Entry) -> bool:
        hash_ = hash_of(key)
        found = self._index.find_entry(hash_)
        if found is None:
            return False
        version = version_of(entry.etag, entry.expires_at)
        return self._index.confirm(hash_, version, self._units(entry.checked_at), entry.owned_since)

    def _units(self, checked_at: float) -> int:
        """Return the time of a confirmation in _UNITS, rounded down, from 1 on; 0 if it was before the start."""
        since = checked_at - self._started
        return int(since * _UNITS) + 1 if since >= 0 else 0

    def _add(self, key: bytes, entry: Entry, size: int) -> None:
        self._index.remove_key(hash_of(key))
        if self.queue.add(key, entry, size):
            self._wake.set()
        else:
            self.counts.dropped += 1

    async def _progressed(self, until: float) -> None:
        """Wait for the end of a write, or some tenths of a second, at most until `until`."""
        self._progress.clear()
        waiting = asyncio.ensure_future(self._progress.wait())
        await done_within(waiting, max(0.0, min(0.2, until - self._clock.now())))
        waiting.cancel()

    async def _write_batch(self) -> None:
        items = self.queue.take_batch(BATCH_BYTES)
        size = sum(item.size for item in items)
        while (wait := self._tokens.take_tokens(self._clock.now(), size)) > 0:
            await self._clock.sleep(wait)
        while self._log.needs_room(size, len(items)):
            await self._drop_oldest()
        records = [
            Record(item.key, item.entry.etag, item.entry.expires_at, item.entry.value or b"") for item in items
        ]
        places = await self._threads.begin_write(partial(self._log.append_records, records))
        for item, (number, offset, length) in zip(items, places, strict=True):
            if not self.queue.written(item):
                continue  # dropped since it was taken
            entry = item.entry
            self._index.put_entry(
                hash_of(item.key),
                version_of(entry.etag, entry.expires_at),
                number,
                offset,
                length,
                self._units(entry.checked_at),
                entry.owned_since,
            )
            self.counts.written += 1

    async def _drop_oldest(self) -> None:
        """Drop the oldest segment, and have the records of it that were read written again, as far as allowed."""
        segment = await self._threads.begin_write(self._log.oldest)
        rows, complete = await self._threads.begin_write(partial(self._log.table, segment))
        number = segment.number
        again: list[tuple[int, int, int]] = []
        allowed = min(REINSERTED * segment.size, self.queue.max_bytes / 2)
        for at in range(0, len(rows), ROW):
            if at % (STEP * ROW) == 0:
                await asyncio.sleep(0)
            hash_, where = rows[at], rows[at + 2]
            offset, length = where >> 32, where & _LOW
            found = self._index.find_entry(hash_)
            if found is None or (found.number, found.offset) != (number, offset):
                self._index.remove_at(hash_, number, offset)
            elif found.used and length <= allowed:
                allowed -= length
                again.append((hash_, offset, length))
            else:
                self._index.remove_at(hash_, number, offset)
        for hash_, offset, length in again:
            await self._reinsert(segment, hash_, offset, length)
        bucket = 0
        while not complete and self._index.remove_segment(number, bucket):
            bucket += 1
            if bucket % STEP == 0:
                await asyncio.sleep(0)
        self._log.detach(segment)
        if not segment.readers:
            self._remove(segment)

    async def _reinsert(self, segment: Segment, hash_: int, offset: int, length: int) -> None:
        try:
            record = await self._threads.begin_read(partial(self._log.read_record, segment, offset, length))
        except Damaged:
            self.counts.damaged += 1
            self._index.remove_at(hash_, segment.number, offset)
            return
        # Removed and added in one step of the event loop: whatever drops the key finds it in the index before, and
        # in the queue afterwards.
        found = self._index.remove_at(hash_, segment.number, offset)
        if found is None or hash_of(record.key) != hash_ or record.key in self._dirty:
            return
        size = record_bytes(record.key, record.etag, record.value)
        if self.queue.add(record.key, self._entry(record, found), size):
            self.counts.reinserted += 1
        else:
            self.counts.dropped += 1

    def _remove(self, segment: Segment) -> None:
        def finished(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and isinstance(error := future.exception(), OSError):
                self._fail(error)

        try:
            self._threads.begin_write(partial(self._log.remove_segment, segment)).add_done_callback(finished)
        except RuntimeError:
            return  # the threads have ended: the node stops, and the file is found by the next start

    def _close_files(self) -> None:
        with suppress(RuntimeError):  # the threads have ended, and the process ends
            self._threads.begin_write(self._log.close)

    async def _load(self) -> None:
        """Put what earlier processes have left into the index, the newest first."""
        began = self._clock.now()
        found = await self._threads.begin_write(self._log.open)
        for what in self._log.foreign:
            log.warning("disk cache: removed %s", what)
        self._index.reserve(sum(count for _, count in found))
        for segment, _ in found:
            rows, complete = await self._threads.begin_write(partial(self._log.table, segment))
            if not complete:
                log.warning("disk cache: %s ends with a record that was not completed, or is damaged", segment.name)
            for start in range(0, len(rows), STEP * ROW):
                self._index.add_unconfirmed(rows, start, min(start + STEP * ROW, len(rows)), segment.number)
                await asyncio.sleep(0)
        self.load_seconds = self._clock.now() - began
        self.loaded = True
        log.info(
            "disk cache: %d values of %d segments found in %.2f s", len(self._index), len(found), self.load_seconds
        )

    def _fail(self, error: OSError) -> None:
        """Switch the cache off until the next start."""
        self.counts.errors += 1
        if self.problem:
            return
        self.problem = error.strerror or str(error)
        log.error("disk cache: switched off until the next start: %s; the node serves without it", self.problem)
        self.queue.drop_all()
        self._index = Index()
        self._ghost = Ghost()
        self._close_files()
        self._wake.set()
        self._progress.set()
