"""Coordination. Collecting copies: a new owner gets what other holders of a lost owner's slots have.

    MILENA.COLLECT HEADS <epoch> <owner> <first> <last> <cursor>    ─▶ cursor of the next call, heads
    MILENA.COLLECT WRITES <epoch> <owner> <key> …                   ─▶ the records, null for a copy that is gone

A head is the key of a copy, its version and size; usually the new owner has the same, and requests no more. What it
lacks it writes to its journal as copies of its own, beyond the budget of copies if there is no room: the slot
cannot be served without. Heads of tombstones come last.

A holder replies only by a ring in which the requesting node owns the slots. So it takes no frame of the lost owner
any more: what it replies is all.
"""

from __future__ import annotations

import asyncio
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from milena_cache.copies.holder import Holder
from milena_cache.copies.pending import AwaitedCopies, AwaitedPart
from milena_cache.copies.store import Copy
from milena_cache.handover.frames import MAX_BYTES, MAX_WRITES, ranges_of, seconds_for
from milena_cache.handover.tombstones import Tombstones
from milena_cache.journal.group_commit import Journal
from milena_cache.journal.record import Damaged, copied
from milena_cache.membership.ownership import Ownership
from milena_cache.objects.version import Version
from milena_cache.objects.write_request import NotDurable
from milena_cache.writeback.dirty_table import Dirty, DirtyEntry
from milena_common.api.errors import FailedPrecondition, InternalError, InvalidRequest, TryAgain
from milena_common.cluster.slots import SLOTS, slot_of
from milena_common.limits.byte_budget import ByteBudget
from milena_common.resp.encoding import command

# Timeout of one command, which waits for no disk but that of a commit in progress.
CALL_SECONDS = 2.0
RETRY_SECONDS = 0.05
# Heads in one reply.
MAX_HEADS = 2000
# Seconds that a request for records waits for room among the bytes in flight.
ROOM_SECONDS = 1.0
# Tombstones that are looked at between two yields to the event loop.
STEP = 5000

_HEAD = struct.Struct("<B2QQd")
_TOMBSTONE, _DAMAGED, _DOUBTFUL = 1, 2, 4
_COPIES, _TOMBSTONES = b"c", b"t"


class Head(NamedTuple):
    """What a holder has of a key.

    size: bytes of its value
    sure: False if S3 may have a later write
    deleted_at: of a tombstone: when S3 had the delete, in seconds since 1970; else None
    """

    key: bytes
    version: Version
    size: int
    damaged: bool = False
    sure: bool = True
    deleted_at: float | None = None


def encode_head(head: Head) -> bytes:
    """Return `head` as bytes."""
    flags = _TOMBSTONE * (head.deleted_at is not None) | _DAMAGED * head.damaged | _DOUBTFUL * (not head.sure)
    return _HEAD.pack(flags, *head.version, head.size, head.deleted_at or 0.0) + head.key


def decode_head(raw: bytes) -> Head:
    """Return the head that `encode_head` encoded. Raises InvalidRequest."""
    try:
        flags, epoch, seq, size, at = _HEAD.unpack_from(raw)
    except struct.error:
        raise InvalidRequest("the head of a copy is too short") from None
    key, version = bytes(raw[_HEAD.size :]), Version(epoch, seq)
    deleted_at = at if flags & _TOMBSTONE else None
    return Head(key, version, size, bool(flags & _DAMAGED), not flags & _DOUBTFUL, deleted_at)


class Links(Protocol):
    """Connections to other nodes."""

    async def request(self, address: str, sent: bytes, timeout: float) -> Any:
        """Return the reply of the node whose RESP server is at `address`. Raises MilenaError."""


class HolderPart(NamedTuple):
    """What is to be collected from one holder.

    address, resp_address, process: the holder's gRPC and RESP address, and the id of its process
    sure: True if it is a complete holder: what it has need not be compared with S3
    """

    address: str
    resp_address: str
    process: str
    sure: bool
    slots: set[int]


class Collected:
    """The replies of one node to those that collect from it."""

    def __init__(
        self, ownership: Ownership, holder: Holder, journal: Journal[DirtyEntry], tombstones: Tombstones
    ) -> None:
        self._ownership = ownership
        self._holder = holder
        self._journal = journal
        self._tombstones = tombstones
        # The last list of tombstones, as it was when it was begun.
        self._listed: tuple[tuple[str, int, int], list[bytes]] = ("", 0, 0), []

    async def heads(self, epoch: int, owner: str, first: int, last: int, cursor: bytes) -> list[bytes]:
        """Return the cursor of the next call, b"" after the last one, and heads of copies of `first` to `last`.

        `cursor`: b"" for the first call. Raises InvalidRequest, FailedPrecondition if the newest ring does not have
        `owner` as the owner of the slots, and TryAgain if this node has an older ring than `epoch`.
        """
        if not 0 <= first <= last < SLOTS:
            raise InvalidRequest(f"slots: got {first} to {last}; allowed: 0 to {SLOTS - 1}")
        self._check(epoch, owner, range(first, last + 1))
        if not cursor:
            await self._journal.sync_barrier()
            self._check(epoch, owner, range(first, last + 1))
            cursor = b"%s%d:" % (_COPIES, first)
        kind, _, rest = cursor.partition(b":")
        try:
            place = int(kind[1:])
        except ValueError:
            raise InvalidRequest("cursor: is none that this node has returned") from None
        if kind[:1] == _COPIES:
            return self._copies(place, last, rest)
        return await self._deleted((owner, first, last), place)

    def _check(self, epoch: int, owner: str, slots: Sequence[int]) -> None:
        known = self._ownership.epoch
        if known < epoch:
            raise TryAgain(
                f"this node has the ring with epoch {known}, and not yet that with {epoch}", RETRY_SECONDS
            )
        if not self._holder.owned_by(owner).issuperset(slots):
            raise FailedPrecondition(f"by the ring with epoch {known} node {owner} does not own the slots")
        if any(map(self._holder.is_adopting, slots)):
            raise TryAgain("this node is still making copies of its own writes of the slots", RETRY_SECONDS)

    def _copies(self, slot: int, last: int, after: bytes) -> list[bytes]:
        store = self._holder.store
        found: list[bytes] = []
        for each in [each for each in store.slots if slot <= each <= last]:
            copies = dict(store.in_slot(each))
            keys = sorted(copies)
            for key in keys[bisect_right(keys, after) :] if each == slot and after else keys:
                copy = copies[key]
                found.append(encode_head(Head(key, copy.version, copy.size, copy.damaged, copy.sure)))
                if len(found) >= MAX_HEADS:
                    return [b"%s%d:%s" % (_COPIES, each, key), *found]
        return [b"%s0" % _TOMBSTONES, *found]

    async def _deleted(self, request: tuple[str, int, int], place: int) -> list[bytes]:
        if not place or self._listed[0] != request:
            _, first, last = request
            keys = []
            for number, key in enumerate(list(self._tombstones), 1):
                if first <= slot_of(key) <= last:
                    keys.append(key)
                if not number % STEP:
                    await asyncio.sleep(0)
            self._listed = request, keys
        keys = self._listed[1]
        found = []
        for key in keys[place : place + MAX_HEADS]:
            tombstone = self._tombstones.get(key)
            if tombstone is not None:
                found.append(encode_head(Head(key, tombstone.version, 0, deleted_at=tombstone.at)))
        place += MAX_HEADS
        if place < len(keys):
            return [b"%s%d" % (_TOMBSTONES, place), *found]
        self._listed = ("", 0, 0), []
        return [b"", *found]

    def records(self, epoch: int, owner: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the records of the copies of `keys`, None for one that is gone. Raises as `heads` does."""
        self._check(epoch, owner, [slot_of(key) for key in keys])
        copies = map(self._holder.store.get, keys)
        return [None if copy is None else self._journal.disk.read_record(copy.number) for copy in copies]


class Collecting:
    """Collects for one node. `collected`: number of copies that it lacked."""

    def __init__(
        self,
        ownership: Ownership,
        holder: Holder,
        journal: Journal[DirtyEntry],
        dirty: Dirty,
        tombstones: Tombstones,
        links: Links,
        budget: ByteBudget,
    ) -> None:
        self.collected = 0
        self._ownership = ownership
        self._holder = holder
        self._journal = journal
        self._dirty = dirty
        self._tombstones = tombstones
        self._links = links
        self._budget = budget
        # By holder, its process and role, the slots that were collected.
        self._done: dict[tuple[str, str, bool], set[int]] = {}

    def done(self, part: HolderPart) -> set[int]:
        """Return the slots that were collected from this holder since they are this node's."""
        return self._done.get((part.address, part.process, part.sure), set())

    def keep_only(self, slots: set[int]) -> None:
        """Forget that other slots than `slots` were collected: they are served, or not this node's any more."""
        for each in self._done.values():
            each &= slots
        self._done = {who: each for who, each in self._done.items() if each}

    async def collect(self, part: HolderPart) -> None:
        """Collect all slots of `part` that were not collected from this holder yet. Raises MilenaError."""
        for first, last in ranges_of(part.slots - self.done(part)):
            cursor = b""
            while True:
                cursor, heads = await self._heads(part, first, last, cursor)
                await self._take(part, heads)
                if not cursor:
                    break
            key = part.address, part.process, part.sure
            self._done.setdefault(key, set()).update(range(first, last + 1))

    async def _heads(self, part: HolderPart, first: int, last: int, cursor: bytes) -> tuple[bytes, list[Head]]:
        where = (b"%d" % first, b"%d" % last, cursor)
        reply = await self._request(part, b"HEADS", *where, timeout=CALL_SECONDS)
        return reply[0], [decode_head(raw) for raw in reply[1:]]

    async def _request(self, part: HolderPart, kind: bytes, *arguments: bytes, timeout: float) -> list[Any]:
        epoch = b"%d" % self._ownership.epoch
        sent = command(b"MILENA.COLLECT", kind, epoch, self._ownership.me.encode(), *arguments)
        reply = await self._links.request(part.resp_address, sent, timeout)
        if not isinstance(reply, list) or (kind == b"HEADS" and not reply):
            raise InternalError(f"node {part.address}: its reply to MILENA.COLLECT is no array: {reply!r:.80}")
        return reply

    async def _take(self, part: HolderPart, heads: Sequence[Head]) -> None:
        missing: list[Head] = []
        deleted: list[bytes] = []
        for head in heads:
            if head.deleted_at is not None:
                self._tombstones.add(head.key, head.version, head.deleted_at, durable=True)
                deleted.append(head.key)
            elif self._is_missing(head, sure=part.sure and head.sure):
                missing.append(head)
        for batch in _batches(missing):
            await self._take_records(part, batch)
        if not await self._journal.have_released(deleted, soon=True):
            raise FailedPrecondition("the journal has no room for tombstones")

    def _is_missing(self, head: Head, *, sure: bool) -> bool:
        """Return True if this node lacks the write of `head`; if it has just that, note whether it is sure."""
        key, version = head.key, head.version
        known, entry = self._holder.store.get(key), self._dirty.get(key)
        if head.damaged or self._tombstones.superseded(key, version):
            return False
        if known is not None and known.version >= version and not known.damaged:
            if sure and known.version == version and not known.sure:
                self._holder.store.put_copy(key, known._replace(sure=True))
            return False
        if entry is None or (entry.dead is not None and entry.dead.damaged) or entry.version < version:
            return True
        if sure and entry.version == version and not entry.upload.uploading:
            since = self._ownership.slot_map.target(slot_of(key)).owned_since
            entry.belief = entry.belief.confirmed(since).in_doubt()
        return False

    async def _take_records(self, part: HolderPart, batch: Sequence[Head]) -> None:
        size = sum(head.size for head in batch)
        await self._budget.take(size, ROOM_SECONDS)
        try:
            keys = [head.key for head in batch]
            reply = await self._request(part, b"WRITES", *keys, timeout=CALL_SECONDS + seconds_for(size))
            self._holder.mark_journal()
            awaited = AwaitedPart()
            for raw, head in zip(reply, batch, strict=False):
                if raw is not None:
                    self._append(raw, awaited, sure=part.sure and head.sure)
            if awaited.number:
                await awaited.done.wait()
            if isinstance(awaited.error, NotDurable):
                raise FailedPrecondition("the journal has no room for copies")
            if awaited.error is not None:
                raise awaited.error
        finally:
            self._budget.release(size)

    def _append(self, raw: bytes, awaited: AwaitedCopies, *, sure: bool) -> None:
        try:
            record, size, as_copy = copied(raw, self._journal.next_version(0).seq, doubtful=not sure)
        except Damaged:
            return  # a holder's copy that cannot be read
        known = self._holder.newest_version(record.cache_key)
        if known is not None and known >= record.version:
            return  # collected from another holder meanwhile
        self._journal.learned(record.version)
        copy = Copy(record.version, record.number, size, record.value is None, sure=sure)
        self.collected += 1
        awaited.add(self._holder.append(record.cache_key, copy, as_copy))


def _batches(heads: Sequence[Head]) -> Iterator[list[Head]]:
    batch: list[Head] = []
    size = 0
    for head in heads:
        if batch and (size + head.size > MAX_BYTES or len(batch) >= MAX_WRITES):
            yield batch
            batch, size = [], 0
        batch.append(head)
        size += head.size
    if batch:
        yield batch
