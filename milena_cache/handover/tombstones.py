"""Coordination. Tombstones: deletes that S3 has carried out, while an absent node may still have an older put.

S3 keeps no version of a deleted object. So only the owner can know, of a put that another node hands in later,
that it was deleted since: (1) node a is lost with a dirty put of key k; (2) the new owner acknowledges a delete of
k and uploads it; (3) a returns and hands its put in, and the upload finds no object: k would be back. A later *put*
needs no tombstone: S3 has its version.

Tombstones are in the journal no later than the record of their delete is out of it, and they move with their
slots. While a node is absent, that of a delete of which no journal has a record is made before S3 gets the delete
(`deleting`). They are dropped

- when no node has been absent for KEEP_SECONDS, or three leases if that is longer. Younger ones are kept: the node
  that a slot was taken over from has its records still, and may be lost without a router knowing that yet;
- after TOMBSTONE_SECONDS, and the oldest ones beyond MAX_TOMBSTONES or MAX_BYTES. Then the greatest version of a
  dropped one is the *floor*: whether a write up to it was deleted since cannot be known any more, and an absent
  node that hands one in gets it back as a dead letter.

A node is absent, as the routers say, if it was lost, or left with writes, and its journal is not back; also while a
node that is back has not handed in everything, and while a lease runs that has no node any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from milena_cache.journal.disk import Disk
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged, Record, decode, encode
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.object_store import Ref
from milena_cache.objects.version import Version, lineage_of, stamped
from milena_cache.writeback.dirty_table import DirtyEntry
from milena_common.cluster.slots import slot_of
from milena_common.runtime.clock import Clock

log = logging.getLogger(__name__)

KEEP_SECONDS = 60.0
MAX_TOMBSTONES = 50_000
MAX_BYTES = 16 * 2**20
# So many are dropped at one renewal of the lease at most, in some milliseconds of the event loop.
MAX_DROPPED = 2000
# Bytes that a tombstone takes in memory besides its key.
OVERHEAD = 300
# The key of the floor in the journal's metadata.
FLOOR = "tombstone_floor"


class Tombstone(NamedTuple):
    """A delete that S3 has carried out.

    number: of its record in the journal's table of tombstones
    at: when S3 had carried it out, in seconds since 1970
    """

    version: Version
    number: int
    at: float


class Tombstones:
    """The tombstones of one node, at most MAX_TOMBSTONES and MAX_BYTES.

    seconds: TOMBSTONE_SECONDS
    on_added: called with the key of each new one
    dropped: number of those that were dropped although a node was absent
    """

    def __init__(self, journal: Journal[DirtyEntry], ownership: Ownership, clock: Clock, seconds: float) -> None:
        self.on_added: Callable[[bytes], None] = lambda key: None
        self.dropped = 0
        self.bytes = 0
        self._journal = journal
        self._ownership = ownership
        self._clock = clock
        self._seconds = seconds
        self._by_key: dict[bytes, Tombstone] = {}  # the oldest one first
        self._by_slot: dict[int, set[bytes]] = {}
        self._absent: dict[str, bool] = {}  # by router, what its last reply said
        self._keep_seconds = KEEP_SECONDS
        self._none_absent_since: float | None = None  # monotonic seconds
        self.floor = _parsed(journal.disk.metadata().get(FLOOR, ""))
        self._floor_at = clock.now()
        self._recover()

    def _recover(self) -> None:
        found = []
        for number, raw in self._journal.disk.tombstones():
            try:
                record, _ = decode(number, raw)
            except Damaged as error:
                log.error("tombstone %d in the journal: %s", number, error)
                self._journal.defer(lambda disk, number=number: disk.remove_tombstone(number))  # type: ignore[misc]
                continue
            found.append((record.written_at, number, record))
            self._journal.versions.seen(record.version)
            self._journal.versions.seen(Version(record.version.epoch, number))
        for at, number, record in sorted(found, key=lambda each: each[:2]):
            self._insert(record.cache_key, Tombstone(record.version, number, at))

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over the keys, the oldest tombstone first."""
        return iter(self._by_key)

    def get(self, key: bytes) -> Tombstone | None:
        """Return the tombstone of a cache key, None without one."""
        return self._by_key.get(key)

    def keys_of(self, slots: Iterable[int]) -> list[bytes]:
        """Return the keys of `slots` that have a tombstone."""
        return [key for slot in slots for key in self._by_slot.get(slot, ())]

    # ---- decisions about writes of other nodes

    def superseded(self, key: bytes, version: Version) -> bool:
        """Return True if a later delete than the write `version` of `key` was acknowledged and is in S3."""
        found = self._by_key.get(key)
        return found is not None and found.version >= version

    def is_undecided(self, key: bytes, version: Version) -> bool:
        """Return True if it is not known any more whether the write `version` of `key` was deleted since."""
        return self.floor is not None and version <= self.floor and not self.superseded(key, version)

    # ---- new ones

    @property
    def active(self) -> bool:
        """Return True if another node may hand in a write: in a ring of nodes that fence."""
        slot_map = self._ownership.slot_map
        return bool(slot_map.released_epoch) and (len(slot_map.nodes) > 1 or bool(slot_map.missing))

    def deleted(self, key: bytes, version: Version) -> None:
        """Record that the delete `version` of `key`, or an expiry, is in S3: before its record is released."""
        if self.active:
            self.add(key, version, self._clock.wall(), durable=self._is_absent)

    def deleting(self, key: bytes, version: Version) -> bool:
        """Record a delete before S3 gets it, if a node is absent; the caller waits until that is durable if True.

        For a delete of which no journal has a record, of a key without a write that S3 does not have. (1) Node a is
        away with a dirty put of k; (2) the owner acknowledges a later put, which S3 has; (3) S3 carries out a
        delete, which takes that version away, and the owner is lost before it acknowledges it; (4) a hands its put
        in, and nothing shows that there was a later one. If S3 does not carry it out, the tombstone is true still:
        every earlier write of the key is superseded.
        """
        if not self.active or not self._is_absent:
            return False
        self.add(key, version, self._clock.wall(), durable=True)
        return True

    def expiring(self, key: bytes, ref: Ref, metadata: Mapping[str, str]) -> bool:
        """Do what `deleting` does, for an expired object, which has `metadata` at `ref`."""
        version = self._version_of(ref, metadata)
        return version is not None and self.deleting(key, version)

    def expired(self, key: bytes, ref: Ref, metadata: Mapping[str, str]) -> None:
        """Record that an expired object was deleted from S3, which had `metadata` at `ref`."""
        if (version := self._version_of(ref, metadata)) is not None:
            self.deleted(key, version)

    def _version_of(self, ref: Ref, metadata: Mapping[str, str]) -> Version | None:
        kin = lineage_of(metadata) in self._journal.lineages.kin
        return stamped(metadata, ref) if kin else None

    def add(self, key: bytes, version: Version, at: float, *, durable: bool = False) -> None:
        """Keep a tombstone, unless there is a later one of the key. `at`: seconds since 1970.

        `durable`: until it is in the journal, `Journal.has_released` waits for it.
        """
        known = self._by_key.get(key)
        if known is not None and known.version >= version:
            return
        if known is not None:
            self._remove(key, known)
        number = self._journal.next_version(0).seq
        self._insert(key, Tombstone(version, number, at))
        raw = encode(Record(key, version, None, written_at=at, number=number))
        self._journal.keep_tombstone(number, raw, key if durable else None)
        while len(self._by_key) > MAX_TOMBSTONES or self.bytes > MAX_BYTES:
            self._drop_oldest()
        self.on_added(key)

    def _insert(self, key: bytes, tombstone: Tombstone) -> None:
        self._by_key[key] = tombstone
        self._by_slot.setdefault(slot_of(key), set()).add(key)
        self.bytes += len(key) + OVERHEAD

    # ---- the end of tombstones

    def handed_over(self, key: bytes, version: Version) -> None:
        """Give up the tombstone `version` of `key`: the owner of its slot has it."""
        known = self._by_key.get(key)
        if known is not None and known.version == version:
            self._remove(key, known)

    def _remove(self, key: bytes, tombstone: Tombstone) -> None:
        del self._by_key[key]
        of_slot = self._by_slot[slot := slot_of(key)]
        of_slot.discard(key)
        if not of_slot:
            del self._by_slot[slot]
        self.bytes -= len(key) + OVERHEAD
        self._journal.defer(lambda disk: disk.remove_tombstone(tombstone.number))

    def _drop_oldest(self) -> None:
        key = next(iter(self._by_key))
        version = self._by_key[key].version
        self._remove(key, self._by_key[key])
        self.dropped += 1
        self.raise_floor(version)

    def raise_floor(self, version: Version) -> None:
        """Record that tombstones up to `version` were dropped, here or by the node that had the slots before."""
        self._floor_at = self._clock.now()
        if self.floor is None or version > self.floor:
            self.floor = version
            self._store_floor()

    def _store_floor(self) -> None:
        text = "" if self.floor is None else str(self.floor)

        def work(disk: Disk) -> None:
            disk.set_metadata(FLOOR, text)

        self._journal.defer(work)

    @property
    def _is_absent(self) -> bool:
        return bool(self._ownership.slot_map.missing) or any(self._absent.values()) or not self._absent

    def renewed(self, router: str, absent: bool, lease_seconds: float) -> None:
        """Drop what is not needed any more, by what a router has replied to a renewal of the lease.

        `absent`: whether a node is absent, as the module says.
        """
        now = self._clock.now()
        self._absent[router] = absent
        self._keep_seconds = max(self._keep_seconds, 3 * lease_seconds)
        if self._is_absent:
            self._none_absent_since = None
        elif self._none_absent_since is None:
            self._none_absent_since = now
        since = self._none_absent_since
        unneeded = since is not None and now - since >= self._keep_seconds
        wall = self._clock.wall()
        for key in [*islice(self._by_key, MAX_DROPPED)]:
            tombstone = self._by_key[key]
            if unneeded and wall - tombstone.at >= self._keep_seconds:
                self._remove(key, tombstone)
            elif wall - tombstone.at >= self._seconds:
                self._drop_oldest()
            else:
                break
        if unneeded and self.floor is not None and now - self._floor_at >= self._keep_seconds:
            self.floor = None
            self._store_floor()


def _parsed(text: str) -> Version | None:
    epoch, _, seq = text.partition("-")
    return Version(int(epoch), int(seq)) if seq else None
