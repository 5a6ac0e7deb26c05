"""Pure. Where the records of the disk cache are: a hash table in arrays, without an object for each entry.

Buckets of some PER_BUCKET entries, of which each is two arrays: the hashes of the keys, which are searched, and
FIELDS numbers for each of them. Their number follows that of the entries by linear hashing: a bucket is split for
each PER_BUCKET entries that come, so there is no step in which all entries are moved. About 46 bytes an entry.

Two keys with the same hash take each other's place, which costs a miss: each reader of a record compares its key.

An entry has the time at which S3 last confirmed the copy, and the ring epoch since which this node had owned the
slot by then. Those of a record that an earlier process has written are not known: `confirmed` is 0.
"""

from __future__ import annotations

from array import array
from typing import Final, NamedTuple

PER_BUCKET: Final = 48
FIELDS: Final = 4
_MIN_BITS: Final = 8
_LOW: Final = 0xFFFFFFFF
# Numbers that have room in an entry; others are as unknown.
_MAX_CONFIRMED: Final = 2**32 - 1
_MAX_EPOCH: Final = 2**62


class Found(NamedTuple):
    """An entry.

    version: which version of the object the record has, see `record.version_of`
    number, offset, length: of the segment, and the record in it, in bytes
    confirmed: when S3 last confirmed it, in the unit of the caller; 0: not by this process
    owned_since: the ring epoch since which this node owned the key's slot at that time
    used: True if it was read since it was written
    """

    version: int
    number: int
    offset: int
    length: int
    confirmed: int
    owned_since: int
    used: bool


class Index:
    """The entries by key hash."""

    def __init__(self) -> None:
        self._entries = 0
        self._bits = _MIN_BITS
        self._hashes: list[array[int]] = []
        self._fields: list[array[int]] = []
        self._add_buckets(1 << _MIN_BITS)

    def __len__(self) -> int:
        return self._entries

    def reserve(self, entries: int) -> None:
        """Make the buckets for so many entries at once; only while there is none."""
        if self._entries:
            return
        target = entries // PER_BUCKET + 1
        while (1 << (self._bits + 1)) <= target:
            self._bits += 1
        self._add_buckets(max(1 << self._bits, target) - len(self._hashes))

    def find_entry(self, hash_: int) -> Found | None:
        """Return the entry of a key; None if there is none."""
        bucket = self._bucket(hash_)
        try:
            at = self._hashes[bucket].index(hash_) * FIELDS
        except ValueError:
            return None
        version, place, size, owned = self._fields[bucket][at : at + FIELDS]
        return Found(version, place >> 32, place & _LOW, size >> 32, size & _LOW, owned >> 1, bool(owned & 1))

    def put_entry(
        self, hash_: int, version: int, number: int, offset: int, length: int, confirmed: int, owned_since: int
    ) -> None:
        """Make this the only entry of a key."""
        self.remove_key(hash_)
        if not (0 <= confirmed <= _MAX_CONFIRMED and 0 <= owned_since < _MAX_EPOCH):
            confirmed = owned_since = 0
        self._append(hash_, version, number << 32 | offset, length << 32 | confirmed, owned_since << 1)

    def add_unconfirmed(self, rows: array[int], start: int, end: int, number: int) -> None:
        """Add the rows of a segment's table from `start` to `end`, of which nothing is confirmed.

        An entry that is there already is found before the added one, which is not looked for: that would take most
        of the time of a start. None of the added ones is confirmed, so that it does not matter which one is found.
        """
        place = number << 32
        hashes, fields, buckets = self._hashes, self._fields, len(self._hashes)
        all_bits, low_bits = (2 << self._bits) - 1, (1 << self._bits) - 1
        # As `_append`, without a call for each row, and with the splits afterwards.
        for hash_, version, where in zip(
            rows[start:end:3], rows[start + 1 : end : 3], rows[start + 2 : end : 3], strict=True
        ):
            bucket = hash_ & all_bits
            if bucket >= buckets:
                bucket &= low_bits
            hashes[bucket].append(hash_)
            fields[bucket].extend((version, place | where >> 32, (where & _LOW) << 32, 0))
        self._entries += (end - start) // 3
        while self._entries > PER_BUCKET * len(hashes):
            self._split()

    def confirm(self, hash_: int, version: int, confirmed: int, owned_since: int) -> bool:
        """Record that S3 has confirmed this version of the object; all others are removed. False without it."""
        found = self.find_entry(hash_)
        if found is None:
            return False
        if found.version != version:
            self.remove_key(hash_)
            return False
        self.put_entry(hash_, version, found.number, found.offset, found.length, confirmed, owned_since)
        if found.used:
            self.mark_used(hash_)
        return True

    def mark_used(self, hash_: int) -> None:
        """Record that a key's record was read."""
        bucket = self._bucket(hash_)
        try:
            at = self._hashes[bucket].index(hash_) * FIELDS
        except ValueError:
            return
        self._fields[bucket][at + 3] |= 1

    def remove_key(self, hash_: int) -> bool:
        """Remove all entries of a key; False if there was none."""
        bucket = self._bucket(hash_)
        hashes = self._hashes[bucket]
        removed = False
        while True:
            try:
                at = hashes.index(hash_)
            except ValueError:
                return removed
            self._remove_at(bucket, at)
            removed = True

    def remove_at(self, hash_: int, number: int, offset: int) -> Found | None:
        """Remove the entry of a key for this record, and return it; None if the index has none of it."""
        bucket = self._bucket(hash_)
        hashes, fields = self._hashes[bucket], self._fields[bucket]
        at = -1
        while True:
            try:
                at = hashes.index(hash_, at + 1)
            except ValueError:
                return None
            version, place, size, owned = fields[at * FIELDS : (at + 1) * FIELDS]
            if place == number << 32 | offset:
                self._remove_at(bucket, at)
                return Found(version, number, offset, size >> 32, size & _LOW, owned >> 1, bool(owned & 1))

    def remove_segment(self, number: int, bucket: int) -> bool:
        """Remove what bucket `bucket` has of a segment; False if there is no such bucket."""
        if bucket >= len(self._hashes):
            return False
        fields = self._fields[bucket]
        for at in range(len(self._hashes[bucket]) - 1, -1, -1):
            if fields[at * FIELDS + 1] >> 32 == number:
                self._remove_at(bucket, at)
        return True

    def _append(self, hash_: int, version: int, place: int, size: int, owned: int) -> None:
        bucket = hash_ & ((2 << self._bits) - 1)
        if bucket >= len(self._hashes):
            bucket &= (1 << self._bits) - 1
        self._hashes[bucket].append(hash_)
        self._fields[bucket].extend((version, place, size, owned))
        self._entries += 1
        if self._entries > PER_BUCKET * len(self._hashes):
            self._split()

    def _bucket(self, hash_: int) -> int:
        bucket = hash_ & ((2 << self._bits) - 1)
        return bucket if bucket < len(self._hashes) else bucket & ((1 << self._bits) - 1)

    def _split(self) -> None:
        """Add a bucket, with those entries of another one that belong there now."""
        added = len(self._hashes)
        split = added - (1 << self._bits)
        hashes, fields = self._hashes[split], self._fields[split]
        mask = (2 << self._bits) - 1
        kept: tuple[array[int], array[int]] = (array("Q"), array("Q"))
        moved: tuple[array[int], array[int]] = (array("Q"), array("Q"))
        for at, hash_ in enumerate(hashes):
            into = moved if hash_ & mask == added else kept
            into[0].append(hash_)
            into[1].extend(fields[at * FIELDS : (at + 1) * FIELDS])
        self._hashes[split], self._fields[split] = kept
        self._hashes.append(moved[0])
        self._fields.append(moved[1])
        if len(self._hashes) == 2 << self._bits:
            self._bits += 1

    def _remove_at(self, bucket: int, at: int) -> None:
        hashes, fields = self._hashes[bucket], self._fields[bucket]
        last = hashes.pop()
        numbers = fields[-FIELDS:]
        del fields[-FIELDS:]
        if at < len(hashes):
            hashes[at] = last
            fields[at * FIELDS : (at + 1) * FIELDS] = numbers
        self._entries -= 1

    def _add_buckets(self, number: int) -> None:
        for _ in range(number):
            self._hashes.append(array("Q"))
            self._fields.append(array("Q"))
